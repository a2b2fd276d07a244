"""Save and resume a training through the toolkit's commit protocol.

The library's own checkpoints are not safe against a crash and are read with pickle, so every method that writes or
reads one is overridden here. The position in the data remains the library's: its sampler's order depends on seed and
epoch alone. Evaluations restore the random states of the training.
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
from toolkit.runs.events import EventReporter
from toolkit.runs.run_dir import RunDir
from toolkit.worker.checkpoints import training_state as state
from toolkit.worker.process.team import ONE_PROCESS, RunProcesses


@dataclass
class CheckpointWriter:
    """Write the checkpoints of one attempt.

    identity: what a resume will compare, part of the signed commit. team: the processes that save together; the first
    one of each machine commits what those of its machine have written. on_saved: called with (step, seconds) after each
    commit. extra_facts: returns further fields of the next commit. needs_checkpoint_before_evaluation: whether the
    evaluation that is about to begin needs a checkpoint first.
    """

    run: RunDir
    emit: EventReporter
    identity: dict[str, Any]
    team: RunProcesses = ONE_PROCESS
    on_saved: Callable[[int, float], None] = lambda step, seconds: None
    extra_facts: Callable[[], dict[str, Any]] = dict
    needs_checkpoint_before_evaluation: Callable[[], bool] = lambda: False

    def save_checkpoint(self, trainer: Any) -> None:
        """Commit the state of the training at the end of this step.

        Every process of a run calls it at the same step. Raises OSError or safetensors' error if the disk is full.
        """
        step, began = int(trainer.state.global_step), time.monotonic()

        def write_files(folder: Path) -> None:
            if self.team.is_main_process:
                state.save_shared_state(trainer, folder)
            self._wait_for_all()  # the other processes need the folder that the first one creates
            state.save_rank_state(trainer, folder, self.team.rank)
            self._wait_for_all()  # it may commit only when every process has written its part

        def report(done: Checkpoint) -> None:
            self.emit("saved", step=step, bytes=done.bytes, seconds=round(time.monotonic() - began, 4))

        if self.team.is_main_process:
            body = {**self.identity, **self.extra_facts()}
            save_checkpoint(self.run, step, write_files, body, report, trainer.state.best_global_step)
        else:
            write_files(checkpoint_staging_path(self.run, step))
        self.on_saved(step, time.monotonic() - began)

    def _wait_for_all(self) -> None:
        if self.team.processes > 1:
            torch.distributed.barrier()


class CheckpointedTrainer(SFTTrainer):
    """A trainer that saves and resumes by the commit protocol.

    `checkpoint_writer` is set before training. `train(resume_from_checkpoint=str(folder))` takes a folder whose commit
    was verified.
    """

    checkpoint_writer: CheckpointWriter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resumed_from: Path | None = None
        self.add_callback(_RunningSumsRestorer(self))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.checkpoint_writer.save_checkpoint(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._resumed_from = Path(resume_from_checkpoint)
        state.load_trained_weights(self.model, self._resumed_from)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state.load_optimizer_state(self, Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Do nothing: the gradient scaler is loaded together with the optimizer."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state.load_random_states(Path(checkpoint), self.args.process_index)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # save here and not earlier: by now this step is logged, and the running sums are what a resume needs
        if self.checkpoint_writer.needs_checkpoint_before_evaluation():
            self.checkpoint_writer.save_checkpoint(self)
        before = state.get_random_states()
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics
        finally:
            state.set_random_states(before)


class _RunningSumsRestorer(TrainerCallback):
    """Restore the sums since the last log on a resume: the trainer clears them just before training begins."""

    def __init__(self, trainer: CheckpointedTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state_: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = self._trainer._resumed_from
        if folder is not None:
            state.load_rank_state(self._trainer, folder, args.process_index)
