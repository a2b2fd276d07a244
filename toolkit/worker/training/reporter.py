"""Emit the run's plan, progress, log and eval events while it trains, and make a stop take effect.

Only the main process emits events. Whether to stop, save or give up is decided by all processes together, so that none
waits for another that has left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolkit.errors import ToolkitError
from toolkit.runs.events import EventReporter
from toolkit.worker.checkpoints.pace import CheckpointPace
from toolkit.worker.process.memory import read_process_memory
from toolkit.worker.process.stop import StopRequested, StopSignal
from toolkit.worker.training.loss_watch import ExplosionDetector, LossWatch

PROGRESS_SECONDS = 1.0
"""Least seconds between two `progress` events: the page shows no more, and the log stays short."""
LOGGED_METRICS = ("loss", "grad_norm", "learning_rate")
SPEED_KEYS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
"""Ends of the names of evaluation metrics that measure the machine and not the model."""
LOSS_CHECK_STEPS = 10
"""Steps between two checks of the loss on one GPU, where reading the value makes the GPU wait."""


class DivergedError(ToolkitError):
    """The loss or a weight is not finite, or the loss has exploded: more training would only waste time."""

    step = 0


def divergence_error(what: str, step: int) -> DivergedError:
    """Return the error for a training that diverged at `step`. what: a noun and a verb, "loss became NaN"."""
    hint = "Lower the learning rate, raise warmup_ratio, or turn fp16 off; then start the run again."
    error = DivergedError(f"The {what} at step {step}: training diverged.", hint)
    error.step = step
    return error


class TrainingReporter(TrainerCallback):
    """Emit events and control evaluation, saving and stopping.

    facts: fields of the `plan` event that are known before training. pace: decides when a checkpoint is due. watch:
    records the loss of every step. explosion: is given every logged loss.
    """

    def __init__(
        self,
        emit: EventReporter,
        stop: StopSignal,
        facts: Mapping[str, Any],
        pace: CheckpointPace,
        watch: LossWatch,
        explosion: ExplosionDetector,
        *,
        processes: int = 1,
    ) -> None:
        self._emit, self._stop, self._facts, self._processes = emit, stop, dict(facts), processes
        self._pace, self._watch, self._explosion = pace, watch, explosion
        self._last_progress = self._since = 0.0
        self._tokens = 0
        self._evaluating_since: float | None = None
        self.stopped = False
        self.evaluation_due = False  # the evaluation of this step is still to come, or was skipped by a stop
        self.saves_first = False  # a checkpoint is written before that evaluation
        self._evaluation_seconds: float | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        epochs, per_epoch = args.num_train_epochs, math.ceil(state.max_steps / args.num_train_epochs)
        if args.max_steps > 0 and train_dataloader is not None:  # it replaces the epochs
            per_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
            epochs = round(state.max_steps / per_epoch, 2)
        counts = {"total_steps": state.max_steps, "steps_per_epoch": per_epoch, "epochs": epochs}
        self._emit("plan", **counts, **self._facts)
        self._emit("phase", phase="evaluating" if args.eval_on_start else "training")
        self._since, self._tokens = time.monotonic(), int(state.num_input_tokens_seen)
        self._evaluating_since = self._since if args.eval_on_start else None
        self._pace.start_clock()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.monotonic()
        last = state.global_step >= state.max_steps
        if now - self._last_progress >= PROGRESS_SECONDS or last:
            self._last_progress = now
            self._emit("progress", step=state.global_step, epoch=_round_epoch(state.epoch))
        # the library evaluates only at multiples of eval_steps: the final model is always evaluated
        if last and args.eval_strategy != "no":
            control.should_evaluate = True
        due = self._pace.due(state.global_step)
        first = control.should_evaluate and self._pace.due_before(self._evaluation_seconds)
        broken = self._first_non_finite_step(args, state, due or first or last)
        # one reduction for all four: each one makes the processes wait for each other
        stop, due, bad, first = self._any_process(args, self._stop.is_requested(), due, broken is not None, first)
        # before saving, so that no checkpoint ever holds weights that diverged
        if bad:
            raise divergence_error("loss became NaN or infinite", broken or state.global_step)
        self.saves_first = first and not stop
        control.should_save = control.should_save or (due and not self.saves_first) or stop or last
        if stop:
            # the evaluation waits for the resume: an extra point in the log would differ from a run without the stop
            self.stopped = control.should_training_stop = True
            self.evaluation_due, control.should_evaluate = control.should_evaluate, False
        if control.should_evaluate:
            self.evaluation_due = True
            self._evaluating_since = now
            self._emit("phase", phase="evaluating")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # an evaluation may take many minutes: a stop ends it here, and the resume makes it again
        if self._any_process(args, self._stop.is_requested())[0]:
            self.stopped = self.evaluation_due = True
            raise StopRequested

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        if "loss" not in logs:  # the library also logs evaluations and its final summary here
            return
        now, tokens = time.monotonic(), int(state.num_input_tokens_seen)
        speed = (tokens - self._tokens) / max(now - self._since, 1e-9)
        numbers = {name: float(logs[name]) for name in LOGGED_METRICS if name in logs}
        self._emit(
            "log",
            step=state.global_step,
            epoch=_round_epoch(state.epoch),
            **numbers,
            tokens_per_second=round(speed, 1),
            tokens=tokens,
            **read_process_memory(),
        )
        self._since, self._tokens = now, tokens
        if not math.isfinite(numbers["loss"]):
            raise divergence_error(
                f"loss became {_name_non_finite(numbers['loss'])}",
                self._watch.first_non_finite_step() or state.global_step,
            )
        if self._explosion.is_exploding(numbers["loss"]):
            raise divergence_error(f"loss was {numbers['loss']:.4g}, far worse than guessing,", state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        kept = {name: value for name, value in (metrics or {}).items() if not name.endswith(SPEED_KEYS)}
        for name in ("epoch", "num_input_tokens_seen"):
            kept.pop(name, None)
        self._emit("eval", step=state.global_step, epoch=_round_epoch(state.epoch), **kept)
        self.evaluation_due = self.saves_first = False
        if self._evaluating_since is not None:
            # shift the start of the measurement: time spent on evaluation must not lower tokens per second
            self._evaluation_seconds = time.monotonic() - self._evaluating_since
            self._since += self._evaluation_seconds
            self._evaluating_since = None
        if state.global_step < state.max_steps:
            self._emit("phase", phase="training")

    def _first_non_finite_step(self, args: TrainingArguments, state: TrainerState, saves: bool) -> int | None:
        """Return the first step whose loss was NaN or infinite, if it is cheap to know or a checkpoint follows."""
        # with several processes the reduction of this step waits for the GPU anyway
        cheap = args.device.type == "cpu" or self._processes > 1 or state.global_step % LOSS_CHECK_STEPS == 0
        return self._watch.first_non_finite_step() if cheap or saves or self._stop.is_requested() else None

    def _any_process(self, args: TrainingArguments, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set in any process; the result is the same in all of them."""
        if self._processes == 1:
            return flags
        gathered = torch.tensor([float(flag) for flag in flags], device=args.device)
        torch.distributed.all_reduce(gathered, op=torch.distributed.ReduceOp.MAX)
        return tuple(value > 0 for value in gathered.tolist())


def _round_epoch(epoch: float | None) -> float | None:
    return None if epoch is None else round(epoch, 4)


def _name_non_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"
