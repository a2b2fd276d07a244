"""The names of models beside the base: a run's adapter is called by the run's id, one of its kept checkpoints RUN@STEP.

Engine, evaluation and pages use the same names. Knows where the weights lie, not what is in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import RunError
from toolkit.runs.checkpoints import checkpoint_path, list_kept_checkpoints
from toolkit.runs.run_dir import RunDir

BASE = "base"
"""The name of the base model without any adapter; no run id is as short."""

MODEL_NAME_PATTERN = r"[a-z0-9-]{1,40}(@[0-9]{1,12})?"
_MODEL_NAME = re.compile(MODEL_NAME_PATTERN)


@dataclass(frozen=True)
class AdapterReference:
    """run: an id. step: of a kept checkpoint; None is the adapter that the run ended with."""

    run: str
    step: int | None = None

    @property
    def name(self) -> str:
        return self.run if self.step is None else f"{self.run}@{self.step}"

    def folder(self, run: RunDir) -> Path:
        """Where its weights lie; `run` is the run of that id."""
        return run.adapter_dir if self.step is None else checkpoint_path(run, self.step)


def parse_model_name(name: str) -> AdapterReference:
    """The model of that name. Raises RunError for what can't be one."""
    if not _MODEL_NAME.fullmatch(name):
        raise RunError(f"'{name[:80]}' names no model.", "Write the run's id, or RUN@STEP for a kept checkpoint.")
    run, _, step = name.partition("@")
    return AdapterReference(run, int(step) if step else None)


def list_checkpoint_references(run: RunDir) -> list[AdapterReference]:
    """The run's kept checkpoints, newest first; whether each is whole is looked at when it is loaded."""
    return [AdapterReference(run.id, step) for step in list_kept_checkpoints(run)]
