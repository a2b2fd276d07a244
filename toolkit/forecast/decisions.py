"""Empty settings that need a forecast: gradient checkpointing, sharding, and bf16 on a CPU.

The form shows the decision, Start writes it into the run's settings, and the worker follows those. A value that the
user chose is never changed. Without a forecast the settings stay empty, which means off.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from toolkit.config import Config, LoraConfig, TrainingConfig
from toolkit.data.table import Table
from toolkit.forecast.costs.sampled_lengths import TokenCounts
from toolkit.forecast.forecast import Forecast, Scene, apply_correction, forecast_run
from toolkit.forecast.history import find_correction
from toolkit.forecast.scene import NoForecast, scene_for
from toolkit.runs.preflight import find_sharding_problem
from toolkit.runs.slots import count_slots
from toolkit.settings.device_defaults import BF16_PATH, CHECKPOINTING_PATH, SHARDING_PATH, ExplainedDefault
from toolkit.system.machine import Machine

FIT_ORDER = ("too large", "tight", "fits")
"""Values of `Forecast.fit`, from worst to best."""
MIN_BF16_SPEEDUP = 1.5
"""Minimum gain in speed for bf16 on a CPU: a small model would gain seconds and pay with the memory of its kernels."""
_NO_FORECAST_REASON = "it is turned on only if the run does not fit into memory without it; there is no forecast yet"


@dataclass(frozen=True)
class DecidedSettings:
    """A config whose empty settings were decided by its forecast.

    found: the forecast of `config`. told: each decision with its reason, without the settings that the user chose.
    """

    config: Config
    found: Forecast | NoForecast
    told: tuple[ExplainedDefault, ...] = field(default=())

    @property
    def memory_bytes(self) -> int:
        """The memory that one process of the run will take, as it is stored with the run; 0 without a forecast."""
        return 0 if isinstance(self.found, NoForecast) else round(self.found.memory.peak)

    @property
    def reasons(self) -> dict[str, str]:
        """Path of each decided setting -> decision and reason, as it is stored with the run."""
        if isinstance(self.found, NoForecast):
            return {}
        return {line.path: f"{line.what}: {line.why}" for line in self.told}


def decide_open_settings(
    config: Config, table: Table | None, machine: Machine | None, save_dir: Path, counts: TokenCounts | None = None
) -> DecidedSettings:
    """Decide the empty settings of `config` for this table and machine.

    The forecast is corrected by the finished runs in `save_dir`. counts: see `scene_for`.
    """
    scene = scene_for(config, table, machine, counts, count_slots(save_dir, machine))
    if isinstance(scene, NoForecast):
        automatic = config.training.training_args.gradient_checkpointing is None
        line = ExplainedDefault(CHECKPOINTING_PATH, "No gradient checkpointing", _NO_FORECAST_REASON)
        return DecidedSettings(config, scene, (line,) if automatic else ())
    return decide_in_scene(config, scene, machine, save_dir)


def decide_in_scene(config: Config, scene: Scene, machine: Machine | None, save_dir: Path) -> DecidedSettings:
    """Decide the empty settings of `config` for this model, these rows and this device."""
    whole = _decide_the_rest(config, scene, machine, save_dir)
    if config.shard_model is not None or not config.accelerate or scene.place.processes == 1:
        return whole
    problem = find_sharding_problem(config)
    if problem is not None:
        return _with_reason(whole, "Not sharded", problem.message.removesuffix("."))
    if not scene.place.cuda or _fit(whole) != "too large":
        on_cpu = "on a CPU, each process loads the whole model anyway"
        why = "the whole model fits into each GPU" if scene.place.cuda else on_cpu
        return _with_reason(whole, "Not sharded", why)
    sharded = _decide_the_rest(config.model_copy(update={"shard_model": True}), scene, machine, save_dir)
    needs, held = (found.memory_bytes / 2**30 for found in (whole, sharded))
    why = f"each GPU has {scene.memory_bytes / 2**30:.1f} GiB; a process needs {needs:.1f} with the whole model"
    if _fit(sharded) == "too large":
        return _with_reason(whole, "Not sharded", f"{why}, and still {held:.1f} with a part of it")
    return _with_reason(sharded, "Sharded", f"{why}, and {held:.1f} with a part of it")


def _with_reason(decided: DecidedSettings, what: str, why: str) -> DecidedSettings:
    return replace(decided, told=(*decided.told, ExplainedDefault(SHARDING_PATH, what, why)))


def _fit(decided: DecidedSettings) -> str:
    return "fits" if isinstance(decided.found, NoForecast) else decided.found.fit


def _decide_the_rest(config: Config, scene: Scene, machine: Machine | None, save_dir: Path) -> DecidedSettings:
    """Decide all settings but the sharding."""
    automatic = config.training.training_args.gradient_checkpointing is None

    def predict(chosen: Config) -> Forecast:
        found = forecast_run(chosen, scene)
        return apply_correction(found, find_correction(save_dir, found, machine))

    config, faster = _decide_precision(config, scene, machine)
    if not automatic:
        return DecidedSettings(config, predict(config), faster)
    without = predict(_with_training_args(config, gradient_checkpointing=False))
    if without.fit == "fits":
        return DecidedSettings(without.config, without, (*faster, _explain_off(without)))
    saving = predict(_with_training_args(config, gradient_checkpointing=True))
    if FIT_ORDER.index(saving.fit) > FIT_ORDER.index(without.fit):
        return DecidedSettings(saving.config, saving, (*faster, _explain_on(without)))
    return DecidedSettings(without.config, without, (*faster, _explain_off(without)))


def _decide_precision(
    config: Config, scene: Scene, machine: Machine | None
) -> tuple[Config, tuple[ExplainedDefault, ...]]:
    """Switch an empty bf16 on if the CPU supports it and the model is large enough to gain from it.

    Decided from model and data with default training settings: trials of a study, for example of batch sizes, must not
    also differ in precision.
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
    why = f"this CPU supports it: about {ratio:.1f} times as fast for this model, with weights half the size"
    return _with_training_args(config, bf16=True), (ExplainedDefault(BF16_PATH, "bf16", why),)


def _with_training_args(config: Config, **changes: bool) -> Config:
    args = config.training.training_args.model_copy(update=changes)
    training = config.training.model_copy(update={"training_args": args})
    return config.model_copy(update={"training": training})


def _explain_off(found: Forecast) -> ExplainedDefault:
    if found.fit == "fits":
        why = f"the run fits without it ({_describe_memory(found)}), and with it every layer would be computed twice"
    else:
        why = f"the run needs {_describe_memory(found)}, and checkpointing would not save enough memory"
    return ExplainedDefault(CHECKPOINTING_PATH, "No gradient checkpointing", why)


def _explain_on(without: Forecast) -> ExplainedDefault:
    why = f"without it the run needs {_describe_memory(without)}; with it, layers are recomputed instead of stored"
    return ExplainedDefault(CHECKPOINTING_PATH, "Gradient checkpointing", why)


def _describe_memory(found: Forecast) -> str:
    free = found.scene.free_bytes
    peak = found.memory.peak / 2**30
    if found.fit == "tight" and free is not None:
        return f"{peak:.1f} GiB ({free / 2**30:.1f} GiB are free)"
    return f"{peak:.1f} of {found.scene.memory_bytes / 2**30:.1f} GiB"
