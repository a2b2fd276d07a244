"""What only a forecast can decide, decided once: gradient checkpointing, and bf16 on a CPU. Reads files alone.

The form shows this decision, Start writes it into the run's settings, and the worker does what those say. A value
that the user chose always wins. Without a forecast it stays empty, which is off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from toolkit.config import Config, LoraConfig, TrainingConfig
from toolkit.data.table import Table
from toolkit.forecast.forecast import Forecast, Scene, corrected, forecast
from toolkit.forecast.history import correction
from toolkit.forecast.scene import Unknown, scene_for
from toolkit.settings.device_defaults import BF16, CHECKPOINTING, Told
from toolkit.system.machine import Machine

FITS = ("too large", "tight", "fits")
"""From worst to best."""
WORTH_IT = 1.5
"""bf16 has to be so many times as fast: a small model gains seconds, for the memory of the kernels made for it."""
_UNKNOWN = "it is switched on where only that makes a run fit; there is no forecast yet"


@dataclass(frozen=True)
class Settled:
    """config: with nothing left open that a forecast decides. found: what it will take. told: what was decided, and
    why; none where the user had decided."""

    config: Config
    found: Forecast | Unknown
    told: tuple[Told, ...] = field(default=())

    @property
    def reasons(self) -> dict[str, str]:
        """Path of each decided setting -> why, as a run remembers it."""
        return {} if isinstance(self.found, Unknown) else {line.path: f"{line.what}: {line.why}" for line in self.told}


def settle(config: Config, table: Table | None, machine: Machine | None, save_dir: Path) -> Settled:
    """The run that `config` on `table` would be on `machine`, corrected by the runs in `save_dir`."""
    scene = scene_for(config, table, machine)
    automatic = config.training.training_args.gradient_checkpointing is None
    if isinstance(scene, Unknown):
        line = Told(CHECKPOINTING, "No gradient checkpointing", _UNKNOWN)
        return Settled(config, scene, (line,) if automatic else ())

    def look(chosen: Config) -> Forecast:
        found = forecast(chosen, scene)
        return corrected(found, correction(save_dir, found, machine))

    config, faster = _precision(config, scene, machine)
    if not automatic:
        return Settled(config, look(config), faster)
    without = look(_with(config, gradient_checkpointing=False))
    if without.fit == "fits":
        return Settled(without.config, without, (*faster, _off(without)))
    saving = look(_with(config, gradient_checkpointing=True))
    if FITS.index(saving.fit) > FITS.index(without.fit):
        return Settled(saving.config, saving, (*faster, _on(without)))
    return Settled(without.config, without, (*faster, _off(without)))


def _precision(config: Config, scene: Scene, machine: Machine | None) -> tuple[Config, tuple[Told, ...]]:
    """With an empty bf16 switched on where the CPU has instructions for it and the model is large enough to gain.

    By model and data alone, at the usual settings: runs that are compared, as in a study of batch sizes, must not
    differ in precision as well.
    """
    args = config.training.training_args
    chosen = args.bf16 is not None or bool(args.fp16) or config.model.quantize
    if chosen or scene.place.cuda or machine is None or not machine.bf16_cpu:
        return config, ()
    usual = config.model_copy(update={"training": TrainingConfig(), "lora": LoraConfig()})
    ratio = forecast(usual, scene).step_seconds / max(forecast(_with(usual, bf16=True), scene).step_seconds, 1e-9)
    if ratio < WORTH_IT:
        return config, ()
    why = f"this CPU computes it: about {ratio:.1f} times as fast for this model, its weights in half the memory"
    return _with(config, bf16=True), (Told(BF16, "bf16", why),)


def _with(config: Config, **changes: bool) -> Config:
    args = config.training.training_args.model_copy(update=changes)
    training = config.training.model_copy(update={"training_args": args})
    return config.model_copy(update={"training": training})


def _off(found: Forecast) -> Told:
    if found.fit == "fits":
        why = f"the run fits without, in {_of(found)}; with it every layer is computed twice"
    else:
        why = f"the run needs {_of(found)}, and it would not save enough"
    return Told(CHECKPOINTING, "No gradient checkpointing", why)


def _on(without: Forecast) -> Told:
    why = f"without it the run needs {_of(without)}; each layer is computed twice instead of kept"
    return Told(CHECKPOINTING, "Gradient checkpointing", why)


def _of(found: Forecast) -> str:
    free = found.scene.free_bytes
    tight = found.fit == "tight" and free is not None
    there = free if tight and free is not None else found.scene.memory_bytes
    return f"{found.memory.peak / 2**30:.1f} of {there / 2**30:.1f} GiB" + (" that are free" if tight else "")
