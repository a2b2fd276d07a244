"""Keep the checkpoint with the lowest test loss, and end training early when the loss no longer improves.

Only the evaluations that the run makes anyway are considered.
"""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolkit.runs.events import EventReporter


class EarlyStopReached(Exception):
    """A resumed run made the evaluation that was still due, and it ended the training: no step is left to train."""


class BestCheckpointCallback(TrainerCallback):
    """Track the best test loss and stop early.

    patience: evaluations in a row without a lower loss after which training ends; None never ends it.
    evaluations_without_improvement: how many there were before a resume. The best loss and its step are stored in the
    trainer's own state.
    """

    def __init__(self, emit: EventReporter, patience: int | None, evaluations_without_improvement: int = 0) -> None:
        self._emit, self._patience = emit, patience
        self.evaluations_without_improvement = evaluations_without_improvement
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
            state.best_metric, state.best_global_step = loss, state.global_step
            self.evaluations_without_improvement = 0
            # the trainer saves after the evaluation, so the checkpoint records its result
            control.should_save = True
            self._emit("best", step=state.global_step, eval_loss=loss)
            return
        self.evaluations_without_improvement += 1
        waited = self.evaluations_without_improvement
        # at the last step training ends anyway, and the run has not ended early
        if self._patience is not None and waited >= self._patience and state.global_step < state.max_steps:
            self.ended_early = control.should_training_stop = control.should_save = True
            best = {"best_step": state.best_global_step, "best_loss": state.best_metric}
            self._emit("early", step=state.global_step, evaluations=waited, **best)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # an evaluation at the start of a resume sets should_training_stop, but the trainer reads it only after a step
        if self.ended_early:
            raise EarlyStopReached
