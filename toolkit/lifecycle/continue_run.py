"""New runs that start with the weights of another run's checkpoint, for more epochs.

Only the weights are taken over. Optimizer, learning rate schedule and data order start anew, as in any run: the first
run's schedule has ended, and a longer one would have had other learning rates from the beginning. All settings but the
number of epochs are those of the first run.
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
    """A checkpoint that a new run may start with. last: it is the newest. best: it has the lowest test loss."""

    path: Path
    step: int
    last: bool
    best: bool


def list_start_checkpoints(run: RunDir, status: RunStatus) -> list[StartCheckpoint]:
    """Return the run's checkpoints, newest first. A checkpoint is verified when a run starts with it."""
    best = status.best.get("step")
    return [
        StartCheckpoint(path, step, number == 0, step == best)
        for number, (step, path) in enumerate(list_kept_checkpoints(run).items())
    ]


def continue_run(run: RunDir, checkpoint: StartCheckpoint, epochs: int) -> RunDir:
    """Queue a new run that trains `epochs` epochs, starting with the checkpoint's weights.

    Raises RunError (damaged checkpoint, full disk) or DataError (the first run's table can't be read).
    """
    if epochs < 1:
        raise RunError(f"The number of epochs is {epochs}.", "Enter at least 1.")
    # verified before anything is created: a damaged checkpoint must not leave a queued run behind
    whole = verify_checkpoint(checkpoint.path, run.id)
    config = read_run_config(run)
    config.training.training_args.num_train_epochs = epochs
    config.training.training_args.max_steps = None  # it would replace the epochs
    config.save_dir = str(run.save_dir)
    meta = read_run_meta(run)
    label = f"{meta.get('name') or run.id}, continued from step {whole.step}"
    return create_run(
        config,
        load_table(run.source_path),
        name=label,
        start=StartingCheckpoint(whole.path, run.id, whole.step),
        memory_bytes=int(meta.get("memory_bytes") or 0),
    )
