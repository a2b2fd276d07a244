"""The trainer's saving and resuming, on the commit protocol: the library's own is not crash-safe and reads pickle.

Every place where the library would write or read a checkpoint is overridden here; where training goes on in the data
is the library's (its sampler's order depends on seed and epoch alone). Evaluations leave the training's random states
as they were. When to save is `checkpoint_pace.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from toolkit.runs.checkpoints import Checkpoint, checkpoint_staging_path, save_checkpoint
from toolkit.runs.run_dir import RunDir
from toolkit.worker.checkpoints import training_state as state

Tell = Callable[..., None]


@dataclass
class CheckpointWriter:
    """Writes the checkpoints of one attempt. identity: what a resume will compare, part of the signed commit.

    on_saved: told (step, seconds) after each commit. note: further facts of the next commit. first: whether the
    evaluation that begins now is to have a checkpoint before it.
    """

    run: RunDir
    tell: Tell
    identity: dict[str, Any]
    processes: int = 1
    rank: int = 0
    on_saved: Callable[[int, float], None] = lambda step, seconds: None
    note: Callable[[], dict[str, Any]] = dict
    first: Callable[[], bool] = lambda: False

    def save(self, trainer: Any) -> None:
        """Commit the training as it stands at the end of this step. Raises OSError or safetensors' error: disk full."""
        step, began = int(trainer.state.global_step), time.monotonic()

        def fill(folder: Path) -> None:
            if self.rank == 0:
                state.save_shared_state(trainer, folder)
            self._wait_for_all()  # the folder is there
            state.save_rank_state(trainer, folder, self.rank)
            self._wait_for_all()  # every process has written its part

        def tell(done: Checkpoint) -> None:
            self.tell("saved", step=step, bytes=done.bytes, seconds=round(time.monotonic() - began, 4))

        if self.rank == 0:
            save_checkpoint(
                self.run, step, fill, {**self.identity, **self.note()}, tell, trainer.state.best_global_step
            )
        else:
            fill(checkpoint_staging_path(self.run, step))
        self.on_saved(step, time.monotonic() - began)

    def _wait_for_all(self) -> None:
        if self.processes > 1:
            torch.distributed.barrier()


class CheckpointedTrainer(SFTTrainer):
    """`keeper` is set before training; `train(resume_from_checkpoint=str(folder))` takes a folder that was verified."""

    keeper: CheckpointWriter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resumed_from: Path | None = None
        self.add_callback(_RunningSumsRestorer(self))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.keeper.save(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._resumed_from = Path(resume_from_checkpoint)
        state.load_trained_weights(self.model, self._resumed_from)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state.load_optimizer_state(self, Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Comes with the optimizer."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state.load_random_states(Path(checkpoint), self.args.process_index)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self.keeper.first():  # here: what this step logged is logged, and the sums of the log are as a resume needs
            self.keeper.save(self)
        before = state.get_random_states()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            state.set_random_states(before)


class _RunningSumsRestorer(TrainerCallback):
    """The trainer clears its sums since the last log just before training begins: a resume puts them back."""

    def __init__(self, trainer: CheckpointedTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state_: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = self._trainer._resumed_from
        if folder is not None:
            state.load_rank_state(self._trainer, folder, args.process_index)
