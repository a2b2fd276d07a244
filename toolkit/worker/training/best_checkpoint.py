"""The lowest test loss so far: its checkpoint is kept, and training may end when no lower one comes.

Only evaluations that the run makes anyway are looked at. Knows no file: the trainer saves, `tell` tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_EmitEvent = Callable[..., None]


class EarlyStopReached(Exception):
    """A resumed run made the evaluation that was still due, and it was the last one: there is no step to train."""


class BestCheckpointCallback(TrainerCallback):
    """patience: evaluations in a row without a lower loss after which training ends; None never ends it.

    waited: how many there were before a resume. The best loss and step live in the trainer's own state.
    """

    def __init__(self, tell: _EmitEvent, patience: int | None, waited: int = 0) -> None:
        self._tell, self._patience = tell, patience
        self.waited = waited
        self.ended_early = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        loss = float((metrics or {}).get("eval_loss", math.nan))
        if math.isfinite(loss) and (state.best_metric is None or loss < state.best_metric):
            state.best_metric, state.best_global_step, self.waited = loss, state.global_step, 0
            control.should_save = True  # after the evaluation, so that it is part of the checkpoint
            self._tell("best", step=state.global_step, eval_loss=loss)
            return
        self.waited += 1
        if self._patience is not None and self.waited >= self._patience and state.global_step < state.max_steps:
            self.ended_early = control.should_training_stop = control.should_save = True
            best = {"best_step": state.best_global_step, "best_loss": state.best_metric}
            self._tell("early", step=state.global_step, evaluations=self.waited, **best)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.ended_early:  # the trainer looks at its control after a step alone
            raise EarlyStopReached
