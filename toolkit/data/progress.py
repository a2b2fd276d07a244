"""Progress and cancellation of work on a dataset."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from toolkit.errors import DataError

DataProgressReporter = Callable[[float, str], None]
"""Takes the share done (0 to 1) and the current step in words."""
ShareReporter = Callable[[float], None]
"""Takes the share done (0 to 1)."""


class DataWorkStopped(DataError):
    """The work was canceled because its result is no longer needed."""


@dataclass(frozen=True)
class Watch:
    """What the caller of a long operation passes in. report: called with every step; stop: set it to cancel."""

    report: DataProgressReporter = lambda share, words: None
    stop: threading.Event = field(default_factory=threading.Event)

    def step(self, share: float, words: str) -> None:
        """Report a step. Raises DataWorkStopped once `stop` is set."""
        if self.stop.is_set():
            raise DataWorkStopped(f"The work was canceled during this step: {words}.")
        self.report(min(1.0, share), words)
