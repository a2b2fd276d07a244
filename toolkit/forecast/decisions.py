"""What only a forecast can decide, decided once: gradient checkpointing, and bf16 on a CPU. Reads files alone.

The form shows this decision, Start writes it into the run's settings, and the worker does what those say. A value
that the user chose always wins. Without a forecast it stays empty, which is off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from toolkit.config import Config, LoraConfig, TrainingConfig
from toolkit.data.table import Table
from toolkit.forecast.forecast import Forecast, Scene, apply_correction, forecast_run
from toolkit.forecast.history import find_correction
from toolkit.forecast.scene import NoForecast, scene_for
from toolkit.settings.device_defaults import BF16_PATH, CHECKPOINTING_PATH, ExplainedDefault
from toolkit.system.machine import Machine

FIT_ORDER = ("too large", "tight", "fits")
"""From worst to best."""
MIN_BF16_SPEEDUP = 1.5
"""bf16 has to be so many times as fast: a small model gains seconds, for the memory of the kernels made for it."""
_NO_FORECAST_REASON = "it is switched on where only that makes a run fit; there is no forecast yet"


@dataclass(frozen=True)
class DecidedSettings:
    """config: with nothing left open that a forecast decides. found: what it will take. told: what was decided, and
    why; none where the user had decided."""

    config: Config
    found: Forecast | NoForecast
    told: tuple[ExplainedDefault, ...] = field(default=())

    @property
    def reasons(self) -> dict[str, str]:
        """Path of each decided setting -> why, as a run remembers it."""
        return (
            {} if isinstance(self.found, NoForecast) else {line.path: f"{line.what}: {line.why}" for line in self.told}
        )


def decide_open_settings(
    config: Config, table: Table | None, machine: Machine | None, save_dir: Path
) -> DecidedSettings:
    """The run that `config` on `table` would be on `machine`, corrected by the runs in `save_dir`."""
    scene = scene_for(config, table, machine)
    automatic = config.training.training_args.gradient_checkpointing is None
    if isinstance(scene, NoForecast):
        line = ExplainedDefault(CHECKPOINTING_PATH, "No gradient checkpointing", _NO_FORECAST_REASON)
        return DecidedSettings(config, scene, (line,) if automatic else ())

    def look(chosen: Config) -> Forecast:
        found = forecast_run(chosen, scene)
        return apply_correction(found, find_correction(save_dir, found, machine))

    config, faster = _decide_precision(config, scene, machine)
    if not automatic:
        return DecidedSettings(config, look(config), faster)
    without = look(_with_training_args(config, gradient_checkpointing=False))
    if without.fit == "fits":
        return DecidedSettings(without.config, without, (*faster, _explain_off(without)))
    saving = look(_with_training_args(config, gradient_checkpointing=True))
    if FIT_ORDER.index(saving.fit) > FIT_ORDER.index(without.fit):
        return DecidedSettings(saving.config, saving, (*faster, _explain_on(without)))
    return DecidedSettings(without.config, without, (*faster, _explain_off(without)))


def _decide_precision(
    config: Config, scene: Scene, machine: Machine | None
) -> tuple[Config, tuple[ExplainedDefault, ...]]:
    """With an empty bf16 switched on where the CPU has instructions for it and the model is large enough to gain.

    By model and data alone, at the usual settings: runs that are compared, as in a study of batch sizes, must not
    differ in precision as well.
    """
    args = config.training.training_args
    chosen = args.bf16 is not None or bool(args.fp16) or config.model.quantize
    if chosen or scene.place.cuda or machine is None or not machine.bf16_cpu:
        return config, ()
    usual = config.model_copy(update={"training": TrainingConfig(), "lora": LoraConfig()})
    ratio = forecast_run(usual, scene).step_seconds / max(
        forecast_run(_with_training_args(usual, bf16=True), scene).step_seconds, 1e-9
    )
    if ratio < MIN_BF16_SPEEDUP:
        return config, ()
    why = f"this CPU computes it: about {ratio:.1f} times as fast for this model, its weights in half the memory"
    return _with_training_args(config, bf16=True), (ExplainedDefault(BF16_PATH, "bf16", why),)


def _with_training_args(config: Config, **changes: bool) -> Config:
    args = config.training.training_args.model_copy(update=changes)
    training = config.training.model_copy(update={"training_args": args})
    return config.model_copy(update={"training": training})


def _explain_off(found: Forecast) -> ExplainedDefault:
    if found.fit == "fits":
        why = f"the run fits without, in {_describe_memory(found)}; with it every layer is computed twice"
    else:
        why = f"the run needs {_describe_memory(found)}, and it would not save enough"
    return ExplainedDefault(CHECKPOINTING_PATH, "No gradient checkpointing", why)


def _explain_on(without: Forecast) -> ExplainedDefault:
    why = f"without it the run needs {_describe_memory(without)}; each layer is computed twice instead of kept"
    return ExplainedDefault(CHECKPOINTING_PATH, "Gradient checkpointing", why)


def _describe_memory(found: Forecast) -> str:
    free = found.scene.free_bytes
    tight = found.fit == "tight" and free is not None
    there = free if tight and free is not None else found.scene.memory_bytes
    return f"{found.memory.peak / 2**30:.1f} of {there / 2**30:.1f} GiB" + (" that are free" if tight else "")
