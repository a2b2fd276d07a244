"""When to write the next checkpoint: lose little work to a kill, and spend little time on saving.

Automatic mode: saving takes at most 1 % of the time, and at most 60 s of training are unsaved. Where both can't hold (a
checkpoint takes more than 0.6 s), the 1 % holds and the interval grows. Only training counts as work: an evaluation
that may outlast the interval gets a checkpoint before it, and a worker killed during the evaluation repeats it without
repeating a step. An attempt after a kill saves as soon as its replayed steps are verified, so that no step is replayed
twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

MAX_UNSAVED_SECONDS = 60.0
"""Seconds of training that a kill may cost."""
FIRST_INTERVAL_SECONDS = 10.0
"""Shortest interval, and the one before the first save has been measured: short runs too are soon worth resuming."""
TARGET_SAVE_SHARE = 0.005
"""Share of the training time that saving takes as long as a save takes less than 0.3 s."""
MAX_SAVE_SHARE = 0.01
"""Largest share of the training time for saving. A save of 0.3 to 0.6 s uses it to keep MAX_UNSAVED_SECONDS."""


def checkpoint_interval(save_seconds: float | None) -> float:
    """Return the seconds between two checkpoints. save_seconds: what one save takes; None if none was made yet."""
    if save_seconds is None:
        return FIRST_INTERVAL_SECONDS
    wanted = min(max(FIRST_INTERVAL_SECONDS, save_seconds / TARGET_SAVE_SHARE), MAX_UNSAVED_SECONDS)
    # the outer bound comes last: a slow save lengthens the interval beyond MAX_UNSAVED_SECONDS
    return max(wanted, save_seconds / MAX_SAVE_SHARE)


class CheckpointPace:
    """Decide at each step whether to save.

    step_interval: steps between two checkpoints as the user set them; None is automatic. extra_steps: steps at which a
    checkpoint is due in any case. clock: seconds, monotonic.
    """

    def __init__(
        self,
        step_interval: int | None = None,
        extra_steps: Collection[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step_interval, self._extra_steps, self._clock = step_interval, extra_steps, clock
        self._save_seconds: float | None = None
        self._last = self._began = clock()
        self._steps = 0
        self._spent = 0.0

    def start_clock(self) -> None:
        """Start counting now: the time before the first step is loading, not training that could be lost."""
        self._last = self._began = self._clock()

    def due(self, step: int) -> bool:
        """Return whether to save at the end of this step. Call it once a step."""
        self._steps += 1
        if step in self._extra_steps:
            return True
        if self._step_interval is not None:
            return step % self._step_interval == 0
        # the next chance to save comes one step later, so the interval must not end within that step
        step_seconds = (self._clock() - self._began) / self._steps
        interval = checkpoint_interval(self._save_seconds)
        return self._within_budget() and self._seconds_since_save() + step_seconds > interval

    def due_before(self, seconds: float | None) -> bool:
        """Return whether to save before an evaluation that takes `seconds` (None: not known yet)."""
        if self._step_interval is not None:
            return False
        too_long = seconds is None or self._seconds_since_save() + seconds > checkpoint_interval(self._save_seconds)
        return self._within_budget() and too_long

    def note_saved(self, step: int, seconds: float) -> None:
        """Note that a checkpoint was written and took `seconds`."""
        del step
        # the slowest save counts, halved at each new one: one slow write must not set the interval for good
        self._save_seconds = max(seconds, (self._save_seconds or 0.0) / 2)
        self._spent += seconds
        self._last = self._clock()

    def _seconds_since_save(self) -> float:
        return self._clock() - self._last

    def _within_budget(self) -> bool:
        """Whether one more save keeps to MAX_SAVE_SHARE, of the time since the last one or of the whole training."""
        cost = self._save_seconds or 0.0
        total = self._clock() - self._began
        return cost <= MAX_SAVE_SHARE * self._seconds_since_save() or self._spent + cost <= MAX_SAVE_SHARE * total
