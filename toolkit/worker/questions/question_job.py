"""One question to the background worker, its progress and its outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import ToolkitError

WAITING_PHASE = "waiting for its turn"


class JobCancelled(Exception):
    """Raised inside a job that was canceled."""


@dataclass(eq=False)
class QuestionJob:
    """One question. phase, done, total: progress to show. last_asked: time.monotonic() of the last request for it."""

    kind: str
    body: Mapping[str, Any]
    phase: str = WAITING_PHASE
    done: int = 0
    total: int = 0
    value: dict[str, Any] | None = None
    error: ToolkitError | None = None
    last_asked: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)
    future: Future[None] | None = None

    @property
    def finished(self) -> bool:
        """Whether there is an answer or an error."""
        return self.value is not None or self.error is not None

    def report_progress(self, phase: str, done: int = 0, total: int = 0, *, patient: bool = False) -> None:
        """Set the progress. Call it often in a long job: this is where a canceled job ends.

        Without a call for STALL_SECONDS (`answer_process.py`) the process is ended; patient: for DOWNLOAD_SECONDS.
        Raises JobCancelled: the job was canceled.
        """
        if self.cancelled.is_set():
            raise JobCancelled
        self.phase, self.done, self.total = phase, done, total
