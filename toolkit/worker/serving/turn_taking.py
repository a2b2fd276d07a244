"""A fair lock, with which several answers share one model: one thread computes at a time, in order of arrival.

An answer yields after a slice of time, so that a short question does not wait for the end of a long answer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    """A lock that threads get in the order in which they asked for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock inside the block."""
        self._acquire()
        try:
            yield
        finally:
            self._release()

    @property
    def contended(self) -> bool:
        """Whether another thread waits for the lock."""
        return bool(self._waiting)

    def yield_turn(self) -> None:
        """Let all threads that wait now go first. Call it while holding the lock."""
        self._release()
        self._acquire()

    def _acquire(self) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: not self._held and self._waiting[0] is ticket)
            self._waiting.popleft()
            self._held = True

    def _release(self) -> None:
        with self._changed:
            self._held = False
            self._changed.notify_all()
