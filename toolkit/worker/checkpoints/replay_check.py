"""Compare the steps that a resume trains again with what was logged for them before.

The steps since the last checkpoint have to be repeated anyway, so this checks the whole resume at no cost. On the same
CPU, with the same libraries and threads, the figures must be equal to the last bit; elsewhere losses must agree within
REPLAY_LOSS_TOLERANCE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.runs.events import Event, EventReporter, is_finite_number

COMPARED_EVENTS = ("log", "eval")
COMPARED_FIGURES = ("loss", "grad_norm", "learning_rate", "tokens", "epoch")
"""Fields of a `log` event that follow from the training alone; memory and speed do not. Of an `eval` event every field
that begins with `eval_` is compared."""
REPLAY_LOSS_TOLERANCE = 0.05
"""Relative tolerance of losses where results are not exact: GPU kernels add in a varying order, and within a few steps
the difference shows."""


class ResumeRefused(ToolkitError):
    """A replayed step differs from what was logged: the result would not be the run that was interrupted."""


class ReplayCheck:
    """Pass events on to `emit` and compare those of replayed steps.

    before: the run's events up to now. start: the step of the checkpoint. exact: compare to the last bit.
    """

    def __init__(self, emit: EventReporter, before: Iterable[Event], start: int, *, exact: bool) -> None:
        self._emit, self._start, self._exact = emit, start, exact
        self._logged: dict[tuple[str, int], Event] = {}
        for event in before:
            if event["kind"] in COMPARED_EVENTS and is_finite_number(event.get("step")) and event["step"] > start:
                self._logged[event["kind"], int(event["step"])] = event
        self._not_replayed = set(self._logged)
        self._last = max((step for _, step in self._logged), default=start)
        self._seen = 0
        self._unreported = bool(self._logged)

    @property
    def steps(self) -> int:
        """Number of steps that are trained again, up to the last one that was logged."""
        return self._last - self._start

    def __call__(self, kind: str, **fields: Any) -> None:
        if kind in COMPARED_EVENTS and fields["step"] > self._last:
            self.finish()
        self._emit(kind, **fields)
        before = self._logged.get((kind, fields.get("step", -1)))
        if before is not None:
            self._not_replayed.discard((kind, fields["step"]))
            self._compare(before, fields)
        # report as soon as the checkpoint holds the verified steps: the next step may already fail
        if kind == "saved" and not self._not_replayed:
            self.finish()

    def finish(self) -> None:
        """Emit the `verified` event once. Called when the first new step is logged, else at the end of training."""
        if self._unreported and self._seen:
            self._unreported = False
            tolerance = 0.0 if self._exact else REPLAY_LOSS_TOLERANCE
            self._emit("verified", steps=self._seen - self._start, exact=self._exact, tolerance=tolerance)

    def _compare(self, before: Event, now: dict[str, Any]) -> None:
        step = int(now["step"])
        for name in sorted(set(before) & set(now)):
            compared = name in COMPARED_FIGURES or name.startswith("eval_")
            if compared and self._differs(name, before[name], now[name]):
                message = (
                    f"The resumed run does not match the original run: {name} at step {step} is "
                    f"{now[name]} but it was {before[name]}."
                )
                hint = "Start the run again with the same settings, or start a new run from one of its checkpoints."
                raise ResumeRefused(message, hint)
        self._seen = max(self._seen, step)

    def _differs(self, name: str, before: Any, now: Any) -> bool:
        if self._exact:
            return str(before) != str(now)  # as text, so that a NaN equals a NaN
        if not name.endswith("loss") or not is_finite_number(before) or not is_finite_number(now):
            return False
        return bool(abs(before - now) > REPLAY_LOSS_TOLERANCE * max(abs(before), abs(now)))
