"""One attempt to train a run, from its first step or from a checkpoint: saving on the way and verifying a resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerState

from toolkit.errors import ToolkitError
from toolkit.lifecycle.resume_policy import ended_from_outside
from toolkit.runs.checkpoints import Checkpoint, checkpoint_path, verify_checkpoint
from toolkit.runs.events import Event, read_events
from toolkit.system.durable import COMMIT_NAME, verify_commit
from toolkit.worker.checkpoints import choice
from toolkit.worker.checkpoints import training_state as state
from toolkit.worker.checkpoints.checkpointed_trainer import CheckpointWriter
from toolkit.worker.checkpoints.pace import CheckpointPace
from toolkit.worker.checkpoints.replay_check import ReplayCheck
from toolkit.worker.process.stop import StopRequested
from toolkit.worker.training.best_checkpoint import BestCheckpointCallback, EarlyStopReached
from toolkit.worker.training.loss_watch import ExplosionDetector
from toolkit.worker.training.reporter import TrainingReporter, divergence_error
from toolkit.worker.training.trainer import PreparedTrainer

if TYPE_CHECKING:
    from toolkit.worker.training.session_context import TrainingSession

NEVER = 2**62
"""Steps between two checkpoints in other processes than the main one: they save when the main process does."""


class TrainingAttempt:
    """One attempt of a run.

    facts: fields of the `plan` event. checkpoint: where to resume; its files were verified. Raises ToolkitError if the
    run can't resume from it.
    """

    def __init__(
        self, session: TrainingSession, trainer: PreparedTrainer, facts: dict[str, Any], checkpoint: Checkpoint | None
    ) -> None:
        self._session, self._trainer, self._checkpoint = session, trainer, checkpoint
        team, run, args = session.team, session.run, session.config.training.training_args
        machine = choice.numeric_environment(
            facts["device"], facts["threads"], facts["batch_size"], facts["precision"], facts["micro_batch"]
        )
        batches = choice.PACKED_BATCHES if trainer.packed_rows else choice.GROUPED_BATCHES
        identity = choice.checkpoint_identity(run, session.attempt, team.processes, session.versions, machine, batches)
        exact = checkpoint is not None and choice.check_resume_allowed(checkpoint, identity, session.emit)
        start, before = checkpoint.step if checkpoint else 0, read_events(run.events_path)[0]
        # the reporter and the checkpoint writer emit through the replay check, which compares what passes
        self._replay = ReplayCheck(session.emit, before, start, exact=exact)
        extra = self._extra_save_steps(before, start, session.attempt)
        pace = CheckpointPace(args.save_steps, extra) if team.is_main_process else CheckpointPace(NEVER)
        explosion = ExplosionDetector(trainer.model.config.get_text_config().vocab_size)
        self._reporter = TrainingReporter(
            self._replay, session.stop, facts, pace, trainer.watch, explosion, processes=team.processes
        )
        trainer.checkpoint_writer = CheckpointWriter(
            run,
            self._replay,
            identity,
            team,
            on_saved=pace.note_saved,
            extra_facts=self._checkpoint_facts,
            needs_checkpoint_before_evaluation=lambda: self._reporter.saves_first,
        )
        trainer.add_callback(self._reporter)
        self._kept: int | None = None
        self._best: BestCheckpointCallback | None = None
        if args.early_stopping_patience is not None or args.load_best_at_end:
            waited = int(checkpoint.body.get("waited", 0)) if checkpoint else 0
            self._best = BestCheckpointCallback(session.emit, args.early_stopping_patience, waited)
            # added after the reporter, so that the log has `eval` before `best` and `early`
            trainer.add_callback(self._best)

    @property
    def stopped(self) -> bool:
        """Whether training ended because a stop was requested."""
        return self._reporter.stopped

    @property
    def step(self) -> int:
        """Number of optimizer steps done."""
        return int(self._trainer.state.global_step)

    @property
    def kept_step(self) -> int:
        """The step whose weights the model has: an earlier one if the best weights were restored."""
        return self._kept if self._kept is not None else self.step

    def fit(self) -> None:
        """Train to the end. Raises DivergedError, ResumeRefused, or whatever a library raises."""
        checkpoint, trainer = self._checkpoint, self._trainer
        if checkpoint is not None:
            self._session.emit(
                "resumed", step=checkpoint.step, replays=self._replay.steps, checkpoint=checkpoint.path.name
            )
            trainer.args.eval_on_start = bool(checkpoint.body.get("evaluation_due"))
        else:
            self._load_start_weights()
        # a run that ended early was killed before it saved its adapter: the trainer would train on, so skip it
        if checkpoint is not None and checkpoint.body.get("ended_early"):
            state.load_trained_weights(trainer.model, checkpoint.path)
            trainer.state = TrainerState.load_from_json(str(checkpoint.path / state.TRAINER_STATE_FILE))
        elif not self._train():
            return
        if self._session.config.training.training_args.load_best_at_end and not self.stopped:
            self._restore_best_weights()

    def _train(self) -> bool:
        """Train, and return False if a stop came during an evaluation."""
        checkpoint, trainer = self._checkpoint, self._trainer
        try:
            result = trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        except EarlyStopReached:
            self._replay.finish()
            return True
        except StopRequested:
            # until the first step after a resume the random states are not restored: the old checkpoint stays valid
            if checkpoint is None or self.step > checkpoint.step:
                trainer.checkpoint_writer.save_checkpoint(trainer)
            return False
        # the mean over the whole training: one infinite loss between two checks shows here at the latest
        if not torch.isfinite(torch.tensor(result.training_loss)):
            raise divergence_error("loss became NaN or infinite", self.step)
        self._replay.finish()
        return True

    def _load_start_weights(self) -> None:
        """Load the weights of the run that this one continues from, if there is one."""
        folder = self._session.run.start_dir
        if not folder.exists():
            return
        body = verify_commit(folder)
        state.load_trained_weights(self._trainer.model, folder)
        self._session.emit("began_from", run=body["run"], step=body["step"])

    def _restore_best_weights(self) -> None:
        best, run = self._trainer.state.best_global_step, self._session.run
        if best is None or best == self.step:
            return
        path = checkpoint_path(run, best)
        if not (path / COMMIT_NAME).exists():
            raise ToolkitError(f"The best checkpoint (step {best}) is missing.", "Turn load_best_at_end off.")
        state.load_trained_weights(self._trainer.model, verify_checkpoint(path, run.id).path)
        self._kept = best

    def _extra_save_steps(self, before: list[Event], start: int, attempt: int) -> set[int]:
        """Return the steps to save at because the attempt before was interrupted.

        One is the last replayed step, so that no step is replayed twice. The other is the first new step, if the worker
        was killed from outside: another kill then can't cost the same steps again.
        """
        verified = {start + self._replay.steps} if self._replay.steps else set()
        return verified | ({start + 1} if ended_from_outside(before, attempt - 1) else set())

    def _checkpoint_facts(self) -> dict[str, Any]:
        """Return what a resume needs besides the trainer's state: a due evaluation and the early-stopping count."""
        facts: dict[str, Any] = {"evaluation_due": True} if self._reporter.evaluation_due else {}
        if self._best is not None:
            waited = self._best.evaluations_without_improvement
            facts |= {"waited": waited, "ended_early": self._best.ended_early}
        return facts
