"""After a resume, the steps since the last checkpoint are trained again: they must come out as they were logged.

That is a check of the whole resume that costs nothing. On the same CPU, with the same libraries and threads, equal
means equal to the last bit; elsewhere within a tolerance. Knows events, no trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.runs.events import Event, is_finite_number

Tell = Callable[..., None]
COMPARED_EVENTS = ("log", "eval")
COMPARED_FIGURES = ("loss", "grad_norm", "learning_rate", "tokens", "epoch")
"""What of a log follows from the training alone; of an evaluation it is every `eval_` figure. Memory and speed pass."""
REPLAY_LOSS_TOLERANCE = 0.05
"""Relative, of losses alone: GPU kernels add in an order of their own, and a few steps make it visible."""


class ResumeRefused(ToolkitError):
    """A replayed step differs: what would come out is not the run that was interrupted."""


class ReplayCheck:
    """Takes the place of `tell` and compares what passes. before: the run's events up to now; start: resumed step."""

    def __init__(self, tell: Tell, before: Iterable[Event], start: int, *, exact: bool) -> None:
        self._tell, self._start, self._exact = tell, start, exact
        self._logged: dict[tuple[str, int], Event] = {}
        for event in before:
            if event["kind"] in COMPARED_EVENTS and is_finite_number(event.get("step")) and event["step"] > start:
                self._logged[event["kind"], int(event["step"])] = event
        self._left = set(self._logged)
        self._last = max((step for _, step in self._logged), default=start)
        self._seen = 0
        self._open = bool(self._logged)

    @property
    def steps(self) -> int:
        """How many steps will be trained again, as far as they were logged."""
        return self._last - self._start

    def __call__(self, kind: str, **fields: Any) -> None:
        if kind in COMPARED_EVENTS and fields["step"] > self._last:
            self.finish()
        self._tell(kind, **fields)
        before = self._logged.get((kind, fields.get("step", -1)))
        if before is not None:
            self._left.discard((kind, fields["step"]))
            self._compare(kind, before, fields)
        if kind == "saved" and not self._left:  # what is proved is said before anything can happen to the next step
            self.finish()

    def finish(self) -> None:
        """Say how it went, once; called by itself as soon as a new step comes, else at the end of training."""
        if self._open and self._seen:
            self._open = False
            self._tell("verified", steps=self._seen - self._start, exact=self._exact, tolerance=self._tolerance)

    @property
    def _tolerance(self) -> float:
        return 0.0 if self._exact else REPLAY_LOSS_TOLERANCE

    def _compare(self, kind: str, before: Event, now: dict[str, Any]) -> None:
        step = int(now["step"])
        for name in sorted(set(before) & set(now)):
            followed = name in COMPARED_FIGURES or name.startswith("eval_")
            if followed and self._differs(name, before[name], now[name]):
                message = f"The resume can't be trusted: {name} at step {step} is {now[name]} and was {before[name]}."
                hint = "Start the run again with the same settings, or start a new run from one of its checkpoints."
                raise ResumeRefused(message, hint)
        self._seen = max(self._seen, step)

    def _differs(self, name: str, before: Any, now: Any) -> bool:
        if self._exact:
            return str(before) != str(now)
        if not name.endswith("loss") or not is_finite_number(before) or not is_finite_number(now):
            return False
        return abs(before - now) > REPLAY_LOSS_TOLERANCE * max(abs(before), abs(now))
