"""The names of models and runs, as engine, evaluation, exports and pages use them.

`base` is the base model, a run's id is the adapter of that run, and RUN@STEP is one of its kept checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config import BUNDLED
from toolkit.errors import RunError
from toolkit.runs.checkpoints import checkpoint_path, list_kept_checkpoints
from toolkit.runs.run_dir import RunDir

BASE = "base"
"""The name of the base model without an adapter. It cannot be a run's id, which is longer."""

MODEL_NAME_PATTERN = r"[a-z0-9-]{1,40}(@[0-9]{1,12})?"
_MODEL_NAME = re.compile(MODEL_NAME_PATTERN)


@dataclass(frozen=True)
class AdapterReference:
    """run: its id. step: of a kept checkpoint; None is the adapter that the run ended with."""

    run: str
    step: int | None = None

    @property
    def name(self) -> str:
        return self.run if self.step is None else f"{self.run}@{self.step}"

    def folder(self, run: RunDir) -> Path:
        """Return the folder of the weights. run: the run with that id."""
        return run.adapter_dir if self.step is None else checkpoint_path(run, self.step)


def short_model_name(checkpoint: str) -> str:
    """Return the last part of a Hub id or a path: "bundled:demo-model" -> "demo-model"."""
    return checkpoint.removeprefix(BUNDLED).rstrip("/").rpartition("/")[2] or checkpoint


def label_dataset(dataset: Mapping[str, Any]) -> str:
    """Return a dataset's label, with its version if repairs were made: "tickets.csv (version 3)"; "" if unknown."""
    label, version = str(dataset.get("label") or ""), dataset.get("version")
    return f"{label} (version {len(version['steps']) + 1})" if label and version else label


def describe_run(meta: Mapping[str, Any], checkpoint: str) -> str:
    """Return what a run is called: the name that the user gave it, or its model and dataset.

    meta: of `read_run_meta`. checkpoint: its base model.
    """
    dataset = label_dataset(dict(meta.get("dataset") or {})) or "its data"
    return str(meta.get("name") or f"{short_model_name(checkpoint)} on {dataset}")


def parse_model_name(name: str) -> AdapterReference:
    """Return the adapter that a name refers to. Raises RunError for text that is no valid name."""
    if not _MODEL_NAME.fullmatch(name):
        raise RunError(
            f"'{name[:80]}' is not a run or a checkpoint.", "Use the ID of a run, or RUN@STEP for a saved checkpoint."
        )
    run, _, step = name.partition("@")
    return AdapterReference(run, int(step) if step else None)


def list_checkpoint_references(run: RunDir) -> list[AdapterReference]:
    """Return the run's kept checkpoints, newest first. They are verified when they are loaded."""
    return [AdapterReference(run.id, step) for step in list_kept_checkpoints(run)]
