"""Who waits for a dataset: hears how far it is, and may say that nobody waits any more. Knows no file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from toolkit.errors import DataError

DataProgressReporter = Callable[[float, str], None]
"""(share done, at what)."""


class DataWorkStopped(DataError):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Watch:
    """tell: is told of every step of a longer work; stop: set when the work shall be given up."""

    tell: DataProgressReporter = lambda share, words: None
    stop: threading.Event = field(default_factory=threading.Event)

    def step(self, share: float, words: str) -> None:
        """Tell, and raise Stopped when nobody waits any more."""
        if self.stop.is_set():
            raise DataWorkStopped(f"The data was no longer wanted while {words} it.")
        self.tell(min(1.0, share), words)
