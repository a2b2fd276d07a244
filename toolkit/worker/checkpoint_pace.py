"""When to write the next checkpoint: little work at stake, little time spent on it. Pure but for the clock.

Automatic: a checkpoint costs at most 1 % of the time between two, and at most 60 s of work are at stake. Where both
can't hold (a checkpoint takes more than 0.6 s), the 1 % holds and the interval grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

AT_STAKE = 60.0
FIRST = 10.0
SHARE = 0.005
MOST = 0.01


def interval(save_seconds: float | None) -> float:
    """Seconds from one checkpoint to the next; None: none was written yet, so that its cost is not known."""
    if save_seconds is None:
        return FIRST
    return max(min(max(FIRST, save_seconds / SHARE), AT_STAKE), save_seconds / MOST)


class Pace:
    """every: steps between two checkpoints as the user fixed them; None is automatic."""

    def __init__(self, every: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._save_seconds: float | None = None
        self._last = self._began = clock()
        self._steps = 0

    def begin(self) -> None:
        """Training begins now: loading was no work that could be lost."""
        self._last = self._began = self._clock()

    def due(self, step: int) -> bool:
        """Whether to save at the end of this step; call it once a step."""
        self._steps += 1
        if self._every is not None:
            return step % self._every == 0
        now = self._clock()
        another = (now - self._began) / self._steps
        return now - self._last + another > interval(self._save_seconds)

    def saved(self, step: int, seconds: float) -> None:
        """A checkpoint was written and took so long. The dearest so far counts, half of it forgotten each time."""
        del step
        self._save_seconds = max(seconds, (self._save_seconds or 0.0) / 2)
        self._last = self._clock()
