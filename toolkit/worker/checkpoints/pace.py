"""When to write the next checkpoint: little work at stake, little time spent on it. Pure but for the clock.

Automatic: a checkpoint costs at most 1 % of the time between two, and at most 60 s of work are at stake. Where both
can't hold (a checkpoint takes more than 0.6 s), the 1 % holds and the interval grows. Work is training: an evaluation
that may outlast the interval gets a checkpoint before it, and whoever dies in its midst makes it again, without a step.
An attempt that goes on after a death saves as soon as what it replays is proved: then nothing is replayed twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

MAX_UNSAVED_SECONDS = 60.0
FIRST_INTERVAL_SECONDS = 10.0
TARGET_SAVE_SHARE = 0.005
MAX_SAVE_SHARE = 0.01


def checkpoint_interval(save_seconds: float | None) -> float:
    """Seconds from one checkpoint to the next; None: none was written yet, so that its cost is not known."""
    if save_seconds is None:
        return FIRST_INTERVAL_SECONDS
    return max(
        min(max(FIRST_INTERVAL_SECONDS, save_seconds / TARGET_SAVE_SHARE), MAX_UNSAVED_SECONDS),
        save_seconds / MAX_SAVE_SHARE,
    )


class CheckpointPace:
    """every: steps between two checkpoints as the user fixed them; None is automatic. also: steps at which one is due
    whatever the interval says."""

    def __init__(
        self, every: int | None = None, also: Collection[int] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._every, self._also, self._clock = every, also, clock
        self._save_seconds: float | None = None
        self._last = self._began = clock()
        self._steps = 0
        self._spent = 0.0

    def begin(self) -> None:
        """Training begins now: loading was no work that could be lost."""
        self._last = self._began = self._clock()

    def due(self, step: int) -> bool:
        """Whether to save at the end of this step; call it once a step."""
        self._steps += 1
        if step in self._also:
            return True
        if self._every is not None:
            return step % self._every == 0
        another = (self._clock() - self._began) / self._steps
        return self._worth_it() and self._seconds_since_save() + another > checkpoint_interval(self._save_seconds)

    def due_before(self, seconds: float | None) -> bool:
        """Whether to save before something that is no training and takes so long (None: nobody knows yet)."""
        if self._every is not None:
            return False
        unknown_or_long = seconds is None or self._seconds_since_save() + seconds > checkpoint_interval(
            self._save_seconds
        )
        return self._worth_it() and unknown_or_long

    def saved(self, step: int, seconds: float) -> None:
        """A checkpoint was written and took so long. The dearest so far counts, half of it forgotten each time."""
        del step
        self._save_seconds = max(seconds, (self._save_seconds or 0.0) / 2)
        self._spent += seconds
        self._last = self._clock()

    def _seconds_since_save(self) -> float:
        return self._clock() - self._last

    def _worth_it(self) -> bool:
        """Whether one more keeps to the 1 %: of the time since the last one, or of the whole training."""
        cost = self._save_seconds or 0.0
        return cost <= MAX_SAVE_SHARE * self._seconds_since_save() or self._spent + cost <= MAX_SAVE_SHARE * (
            self._clock() - self._began
        )
