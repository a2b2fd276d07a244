"""One thread computes at a time, and whoever waits longest is next: how several answers share one model fairly.

An answer passes the baton on after a slice of time, so a short question does not wait for a long one to end. Knows no
model.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the baton, and give it back at the end."""
        self._take()
        try:
            yield
        finally:
            self._give()

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for it."""
        return bool(self._waiting)

    def yield_turn(self) -> None:
        """For its holder: let everybody who waits now go first."""
        self._give()
        self._take()

    def _take(self) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: not self._held and self._waiting[0] is ticket)
            self._waiting.popleft()
            self._held = True

    def _give(self) -> None:
        with self._changed:
            self._held = False
            self._changed.notify_all()
