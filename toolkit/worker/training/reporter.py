"""What the trainer tells the run while it trains: plan, progress, log and eval events; and where a stop takes effect.

Events are told by the main process alone; stop and divergence are decided by all processes together, so that none
waits for another that has left. Knows no file: `tell` and `stop` arrive from train.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolkit.errors import ToolkitError
from toolkit.worker.checkpoints.pace import CheckpointPace
from toolkit.worker.process.memory import read_process_memory
from toolkit.worker.process.stop import StopRequested, StopSignal
from toolkit.worker.training.loss_watch import ExplosionDetector, LossWatch

_EmitEvent = Callable[..., None]
PROGRESS_SECONDS = 1.0
LOGGED_METRICS = ("loss", "grad_norm", "learning_rate")
SPEED_KEYS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


LOSS_CHECK_STEPS = 10
"""Steps between two looks at whether the loss is a number, where looking makes the GPU wait."""


class DivergedError(ToolkitError):
    """The loss or a weight is no finite number any more, or out of all bounds; going on would only waste time."""

    step = 0


def divergence_error(what: str, step: int) -> DivergedError:
    hint = "Lower the learning rate, raise warmup_ratio, or switch fp16 off; then start again."
    error = DivergedError(f"The {what} at step {step}: training diverged.", hint)
    error.step = step
    return error


class TrainingReporter(TrainerCallback):
    """facts: fields of the `plan` event that are known before training. pace: says when a checkpoint is due.

    watch: has seen the loss of every step. explosion: is shown every loss that is logged.
    """

    def __init__(
        self,
        tell: _EmitEvent,
        stop: StopSignal,
        facts: Mapping[str, Any],
        pace: CheckpointPace,
        watch: LossWatch,
        explosion: ExplosionDetector,
        *,
        processes: int = 1,
    ) -> None:
        self._tell, self._stop, self._facts, self._processes = tell, stop, dict(facts), processes
        self._pace, self._watch, self._explosion = pace, watch, explosion
        self._said = self._since = 0.0
        self._tokens = 0
        self._away_since: float | None = None
        self.stopped = False
        self.evaluation_due = False  # the evaluation of this step is still to come, or was left out by a stop
        self.saves_first = False  # a checkpoint is written before that evaluation
        self._evaluation_seconds: float | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        per_epoch = math.ceil(state.max_steps / args.num_train_epochs)
        counts = {"total_steps": state.max_steps, "steps_per_epoch": per_epoch, "epochs": args.num_train_epochs}
        self._tell("plan", **counts, **self._facts)
        self._tell("phase", phase="evaluating" if args.eval_on_start else "training")
        self._since, self._tokens = time.monotonic(), int(state.num_input_tokens_seen)
        self._away_since = self._since if args.eval_on_start else None
        self._pace.begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.monotonic()
        last = state.global_step >= state.max_steps
        if now - self._said >= PROGRESS_SECONDS or last:
            self._said = now
            self._tell("progress", step=state.global_step, epoch=_round_epoch(state.epoch))
        if last and args.eval_strategy != "no":
            control.should_evaluate = True
        due = self._pace.due(state.global_step)
        first = control.should_evaluate and self._pace.due_before(self._evaluation_seconds)
        broken = self._first_non_finite_step(args, state, due or first or last)
        asked, due, bad, first = self._any_process(args, self._stop.asked(), due, broken is not None, first)
        if bad:  # before anything of it is saved
            raise divergence_error("loss was NaN or infinite", broken or state.global_step)
        self.saves_first = first and not asked
        control.should_save = control.should_save or (due and not self.saves_first) or asked or last
        if asked:
            # no extra point in the log: the run may go on, and its curve shall be as if it had never stopped
            self.stopped = control.should_training_stop = True
            self.evaluation_due, control.should_evaluate = control.should_evaluate, False
        if control.should_evaluate:
            self.evaluation_due = True
            self._away_since = now
            self._tell("phase", phase="evaluating")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._any_process(args, self._stop.asked())[0]:
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
        if "loss" not in logs:
            return
        now, tokens = time.monotonic(), int(state.num_input_tokens_seen)
        speed = (tokens - self._tokens) / max(now - self._since, 1e-9)
        numbers = {name: float(logs[name]) for name in LOGGED_METRICS if name in logs}
        self._tell(
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
                f"loss became {_name_non_finite(numbers['loss'])}", self._watch.first() or state.global_step
            )
        if self._explosion.see(numbers["loss"]):
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
        self._tell("eval", step=state.global_step, epoch=_round_epoch(state.epoch), **kept)
        self.evaluation_due = self.saves_first = False
        if self._away_since is not None:  # evaluation is no training time
            self._evaluation_seconds = time.monotonic() - self._away_since
            self._since += self._evaluation_seconds
            self._away_since = None
        if state.global_step < state.max_steps:
            self._tell("phase", phase="training")

    def _first_non_finite_step(self, args: TrainingArguments, state: TrainerState, saves: bool) -> int | None:
        """The first step whose loss was no number; looked for where it costs nothing, or something will be kept."""
        cheap = args.device.type == "cpu" or self._processes > 1 or state.global_step % LOSS_CHECK_STEPS == 0
        return self._watch.first() if cheap or saves or self._stop.asked() else None

    def _any_process(self, args: TrainingArguments, *wishes: bool) -> tuple[bool, ...]:
        """What any process wishes, the same in all: one that acted alone would leave the others waiting for ever."""
        if self._processes == 1:
            return wishes
        gathered = torch.tensor([float(wish) for wish in wishes], device=args.device)
        torch.distributed.all_reduce(gathered, op=torch.distributed.ReduceOp.MAX)
        return tuple(value > 0 for value in gathered.tolist())


def _round_epoch(epoch: float | None) -> float | None:
    return None if epoch is None else round(epoch, 4)


def _name_non_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"
