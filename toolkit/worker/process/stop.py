"""A request to stop a worker: a file in the run directory, SIGTERM or SIGINT."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

from toolkit.runs.run_dir import PAUSE_REQUEST


class StopRequested(Exception):
    """A stop was requested; raised between two phases or inside a long one."""


class StopSignal:
    """Whether this process was asked to stop. path: the file that requests a stop by existing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signalled = False

    def listen(self) -> StopSignal:
        """Treat SIGTERM and SIGINT as requests from now on. Call it in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        return self

    def is_requested(self) -> bool:
        return self._signalled or self._path.exists()

    @property
    def was_signalled(self) -> bool:
        """Whether a signal asked for it."""
        return self._signalled

    @property
    def wants_pause(self) -> bool:
        """Whether the run is to be paused, so that it can be resumed later, rather than stopped."""
        try:
            return self._path.read_text(encoding="utf-8").strip() == PAUSE_REQUEST
        except FileNotFoundError:
            return False

    def raise_if_requested(self) -> None:
        """Raise StopRequested if a stop was requested."""
        if self.is_requested():
            raise StopRequested

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
