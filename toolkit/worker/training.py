"""The training itself, from its first step or from a checkpoint to its end: saving on the way, and proving a resume.

Knows the trainer and the run; how a session prepares and what it does with the result is `session.py`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from toolkit.runs.checkpoints import Checkpoint
from toolkit.runs.events import read_events
from toolkit.worker import checkpoint_choice as choice
from toolkit.worker.callback import Reporter, diverged
from toolkit.worker.checkpoint_pace import Pace
from toolkit.worker.checkpoint_replay import Replay
from toolkit.worker.checkpoint_trainer import Keeper
from toolkit.worker.stop import StopAsked
from toolkit.worker.trainer import PreparedTrainer

if TYPE_CHECKING:
    from toolkit.worker.session import Session

NEVER = 2**62
"""Steps between two checkpoints of a process that does not lead: it saves when the first one does."""


class Training:
    """One attempt. facts: of the `plan` event. found: the checkpoint to go on from; its files were verified.

    Raises ToolkitError when the run can't go on from `found`.
    """

    def __init__(
        self, session: Session, trainer: PreparedTrainer, facts: dict[str, Any], found: Checkpoint | None
    ) -> None:
        self._session, self._trainer, self._found = session, trainer, found
        team, run = session.team, session.run
        machine = choice.machine(facts["device"], facts["threads"], facts["batch_size"], facts["precision"])
        own = choice.identity(run, session.attempt, team.processes, session.versions, machine)
        pace = Pace(session.config.training.training_args.save_steps) if team.leads else Pace(NEVER)
        exact = found is not None and choice.check(found, own, session.tell)
        start = found.step if found else 0
        self._replay = Replay(session.tell, read_events(run.events_path)[0], start, exact=exact)
        self._keeper = Keeper(run, session.tell, own, team.processes, team.rank, pace.saved)
        self._reporter = Reporter(self._replay, session.stop, facts, pace, processes=team.processes)
        trainer.keeper = self._keeper
        trainer.add_callback(self._reporter)
        self._keeper.note = self._notes

    @property
    def stopped(self) -> bool:
        """Whether it ended because somebody asked for it."""
        return self._reporter.stopped

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self._trainer.state.global_step)

    def fit(self) -> None:
        """Train to the end. Raises DivergedError, ResumeRefused, or what a library raises."""
        found, trainer = self._found, self._trainer
        if found is not None:
            self._session.tell("resumed", step=found.step, replays=self._replay.steps, checkpoint=found.path.name)
            trainer.args.eval_on_start = bool(found.body.get("evaluation_due"))
        try:
            result = trainer.train(resume_from_checkpoint=str(found.path) if found else None)
        except StopAsked:
            # before the first step after a resume the random states are not the training's yet: what is kept, is right
            if found is None or self.step > found.step:
                trainer.keeper.save(trainer)
            return
        if not torch.isfinite(torch.tensor(result.training_loss)):
            raise diverged("loss was not a number", self.step)
        self._replay.finish()

    def _notes(self) -> dict[str, Any]:
        return {"evaluation_due": True} if self._reporter.evaluation_due else {}
