"""The training itself, from its first step or from a checkpoint to its end: saving on the way, and proving a resume.

Knows the trainer and the run; how a session prepares and what it does with the result is `session.py`'s.
"""

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
"""Steps between two checkpoints of a process that does not lead: it saves when the first one does."""


class TrainingAttempt:
    """One attempt. facts: of the `plan` event. found: the checkpoint to go on from; its files were verified.

    Raises ToolkitError when the run can't go on from `found`.
    """

    def __init__(
        self, session: TrainingSession, trainer: PreparedTrainer, facts: dict[str, Any], found: Checkpoint | None
    ) -> None:
        self._session, self._trainer, self._found = session, trainer, found
        team, run, args = session.team, session.run, session.config.training.training_args
        machine = choice.numeric_environment(
            facts["device"], facts["threads"], facts["batch_size"], facts["precision"], facts["micro_batch"]
        )
        batches = choice.PACKED_BATCHES if trainer.packed_rows else choice.GROUPED_BATCHES
        own = choice.checkpoint_identity(run, session.attempt, team.processes, session.versions, machine, batches)
        exact = found is not None and choice.check_resume_allowed(found, own, session.tell)
        start, before = found.step if found else 0, read_events(run.events_path)[0]
        self._replay = ReplayCheck(session.tell, before, start, exact=exact)
        also = self._also(before, start, session.attempt)
        pace = CheckpointPace(args.save_steps, also) if team.is_main_process else CheckpointPace(NEVER)
        explosion = ExplosionDetector(trainer.model.config.get_text_config().vocab_size)
        self._reporter = TrainingReporter(
            self._replay, session.stop, facts, pace, trainer.watch, explosion, processes=team.processes
        )
        trainer.keeper = CheckpointWriter(
            run, self._replay, own, team.processes, team.rank, pace.saved, self._notes, self._saves_first
        )
        trainer.add_callback(self._reporter)
        self._kept: int | None = None
        self._best: BestCheckpointCallback | None = None
        if args.early_stopping_patience is not None or args.load_best_at_end:
            waited = int(found.body.get("waited", 0)) if found else 0
            self._best = BestCheckpointCallback(session.tell, args.early_stopping_patience, waited)
            trainer.add_callback(self._best)

    @property
    def stopped(self) -> bool:
        """Whether it ended because somebody asked for it."""
        return self._reporter.stopped

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self._trainer.state.global_step)

    @property
    def kept_step(self) -> int:
        """The step whose weights the model has: an earlier one when the best were put back."""
        return self._kept if self._kept is not None else self.step

    def fit(self) -> None:
        """Train to the end. Raises DivergedError, ResumeRefused, or what a library raises."""
        found, trainer = self._found, self._trainer
        if found is not None:
            self._session.tell("resumed", step=found.step, replays=self._replay.steps, checkpoint=found.path.name)
            trainer.args.eval_on_start = bool(found.body.get("evaluation_due"))
        else:
            self._load_start_weights()
        if found is not None and found.body.get("ended_early"):
            state.load_trained_weights(trainer.model, found.path)
            trainer.state = TrainerState.load_from_json(str(found.path / state.TRAINER_STATE_FILE))
        elif not self._train():
            return
        if self._session.config.training.training_args.load_best_at_end and not self.stopped:
            self._restore_best_weights()

    def _train(self) -> bool:
        """False when a stop came during an evaluation."""
        found, trainer = self._found, self._trainer
        try:
            result = trainer.train(resume_from_checkpoint=str(found.path) if found else None)
        except EarlyStopReached:
            self._replay.finish()
            return True
        except StopRequested:
            # before the first step after a resume the random states are not the training's yet: what is kept, is right
            if found is None or self.step > found.step:
                trainer.keeper.save(trainer)
            return False
        if not torch.isfinite(torch.tensor(result.training_loss)):
            raise divergence_error("loss was NaN or infinite", self.step)
        self._replay.finish()
        return True

    def _load_start_weights(self) -> None:
        folder = self._session.run.start_dir
        if not folder.exists():
            return
        body = verify_commit(folder)
        state.load_trained_weights(self._trainer.model, folder)
        self._session.tell("began_from", run=body["run"], step=body["step"])

    def _restore_best_weights(self) -> None:
        best, run = self._trainer.state.best_global_step, self._session.run
        if best is None or best == self.step:
            return
        path = checkpoint_path(run, best)
        if not (path / COMMIT_NAME).exists():
            raise ToolkitError(f"The best checkpoint, of step {best}, is gone.", "Switch load_best_at_end off.")
        state.load_trained_weights(self._trainer.model, verify_checkpoint(path, run.id).path)
        self._kept = best

    def _also(self, before: list[Event], start: int, attempt: int) -> set[int]:
        """Steps to save at because an attempt died: where what it had logged is trained again and proved; and the very
        first one when somebody killed it, so that nobody can take the same work twice."""
        proved = {start + self._replay.steps} if self._replay.steps else set()
        return proved | ({start + 1} if ended_from_outside(before, attempt - 1) else set())

    def _saves_first(self) -> bool:
        return self._reporter.saves_first

    def _notes(self) -> dict[str, Any]:
        """Beside the trainer's own state: what of this step is still to be done, and how patient it still is."""
        notes: dict[str, Any] = {"evaluation_due": True} if self._reporter.evaluation_due else {}
        if self._best is not None:
            notes |= {"waited": self._best.waited, "ended_early": self._best.ended_early}
        return notes
