"""The polite request to stop: a file in the run directory, or SIGTERM. Knows no library and no event."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

from toolkit.runs.run_dir import PAUSE_REQUEST


class StopRequested(Exception):
    """Raised between two phases, or inside a long one, once a stop was asked for."""


class StopSignal:
    """Whether anybody asked this process to stop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signalled = False

    def listen(self) -> StopSignal:
        """Take SIGTERM and SIGINT as requests from now on; call from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        return self

    def asked(self) -> bool:
        return self._signalled or self._path.exists()

    @property
    def wants_pause(self) -> bool:
        """Whether whoever asked means to go on later."""
        try:
            return self._path.read_text(encoding="utf-8").strip() == PAUSE_REQUEST
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Raise StopAsked if a stop was asked for."""
        if self.asked():
            raise StopRequested

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
