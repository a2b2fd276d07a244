"""A new run that begins with another run's weights: for more epochs, or from an earlier checkpoint.

Its weights are those of the checkpoint; its optimizer, learning rate schedule and data order begin anew, as in any run:
the first run's schedule has come to its end, and a longer one can't be grafted onto it without changing what was
already learned. The settings are the first run's but for the epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit.data.table import load_table
from toolkit.errors import RunError
from toolkit.runs.checkpoints import list_kept_checkpoints, verify_checkpoint
from toolkit.runs.run_dir import RunDir, create_run, read_run_config, read_run_meta
from toolkit.runs.run_sources import StartingCheckpoint
from toolkit.runs.status import RunStatus


@dataclass(frozen=True)
class StartCheckpoint:
    """A checkpoint that a new run may begin with, as people see it."""

    path: Path
    step: int
    last: bool
    best: bool


def list_start_checkpoints(run: RunDir, status: RunStatus) -> list[StartCheckpoint]:
    """The run's checkpoints, newest first. Whether each is whole is seen when one is used."""
    best = status.best.get("step")
    return [
        StartCheckpoint(path, step, number == 0, step == best)
        for number, (step, path) in enumerate(list_kept_checkpoints(run).items())
    ]


def continue_run(run: RunDir, checkpoint: StartCheckpoint, epochs: int, name: str = "") -> RunDir:
    """Queue a new run that trains `epochs` epochs from the checkpoint on.

    Raises RunError (checkpoint damaged, disk) or DataError (the run's table can't be read).
    """
    if epochs < 1:
        raise RunError(f"{epochs} epochs would train nothing.", "Type 1 or more.")
    whole = verify_checkpoint(checkpoint.path, run.id)
    config = read_run_config(run)
    config.training.training_args.num_train_epochs = epochs
    config.save_dir = str(run.save_dir)
    label = name or f"{read_run_meta(run).get('name') or run.id}, continued from step {whole.step}"
    return create_run(
        config, load_table(run.source_path), name=label, start=StartingCheckpoint(whole.path, run.id, whole.step)
    )
