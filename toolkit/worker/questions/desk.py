"""Request queue of the background worker: two threads, one for quick and one for long questions.

Each answer is delivered once. Asking the same question again returns the running job; a question of the same kind with
another body in the same lane replaces it. `registry.py` names the function that answers each kind.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.services.warm_process import WARM_SERVICE
from toolkit.worker.process import libraries
from toolkit.worker.questions.registry import WARM_QUESTIONS
from toolkit.worker.serving.guard import as_toolkit_error

UNFETCHED_ANSWER_SECONDS = 600.0
"""Finished answers that were not fetched for this long are discarded; a closed page does not cancel its questions."""
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

    def report_progress(self, phase: str, done: int = 0, total: int = 0) -> None:
        """Set the progress. Call it often in a long job: this is where a canceled job ends.

        Raises JobCancelled: the job was canceled.
        """
        if self.cancelled.is_set():
            raise JobCancelled
        self.phase, self.done, self.total = phase, done, total


class RequestQueue:
    """The questions in progress. Call the public methods on one thread only, that of the server; jobs run on others."""

    def __init__(self) -> None:
        self.phase = "importing the training libraries"
        self.broken: ToolkitError | None = None
        self._imported = threading.Event()
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="quick")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="long")
        self._jobs: dict[tuple[str, str], QuestionJob] = {}
        self.used = time.monotonic()

    def start(self) -> None:
        """Start to import the training libraries; questions wait until that is done."""
        self._quick.submit(self._import_libraries)

    @property
    def ready(self) -> bool:
        """Whether the import of the libraries has ended, successfully or not."""
        return self._imported.is_set()

    @property
    def busy(self) -> bool:
        """Whether a question is unanswered."""
        return any(not job.finished for job in self._jobs.values())

    def get_or_start_job(self, kind: str, body: Mapping[str, Any], lane: str) -> QuestionJob:
        """Return the job of this question; start it if it is new, and cancel the one that it replaces.

        Raises ToolkitError: the kind is unknown.
        """
        if kind not in WARM_QUESTIONS:
            message = f"The background worker does not know the question '{kind[:80]}'."
            raise ToolkitError(message, "The app was updated. Restart it.")
        self.used = time.monotonic()
        job = self._jobs.get((lane, kind))
        if job is None or json.dumps(job.body, sort_keys=True) != json.dumps(body, sort_keys=True):
            if job is not None:
                self._cancel_job(job)
            job = self._jobs[lane, kind] = QuestionJob(kind, body)
            threads = self._quick if WARM_QUESTIONS[kind].quick else self._long
            job.future = threads.submit(self._answer, job, WARM_QUESTIONS[kind].answers)
        job.last_asked = self.used
        return job

    def discard_delivered_job(self, job: QuestionJob, lane: str) -> None:
        """Remove a job whose answer was delivered, so that the same question is computed again."""
        if self._jobs.get((lane, job.kind)) is job:
            del self._jobs[lane, job.kind]

    def discard_unfetched_jobs(self) -> None:
        """Remove finished jobs that were not fetched for UNFETCHED_ANSWER_SECONDS."""
        now = time.monotonic()
        for key, job in list(self._jobs.items()):
            if job.finished and now - job.last_asked > UNFETCHED_ANSWER_SECONDS:
                del self._jobs[key]

    def close(self) -> None:
        """Cancel all jobs; the threads end once their current job notices it."""
        for job in self._jobs.values():
            self._cancel_job(job)
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)

    def _cancel_job(self, job: QuestionJob) -> None:
        job.cancelled.set()
        if job.future is not None:
            job.future.cancel()

    def _import_libraries(self) -> None:
        warnings.simplefilter("ignore", FutureWarning)  # transformers warns about renames in later versions
        try:
            libraries.import_libraries()
            self.phase = "ready"
        except Exception as error:  # noqa: BLE001 - stored in the job and shown to the user
            self.broken = as_toolkit_error(error, WARM_SERVICE)
            self.phase = "failed"
        self._imported.set()

    def _answer(self, job: QuestionJob, answers: str) -> None:
        try:
            self._imported.wait()
            if self.broken is not None:
                raise self.broken
            job.report_progress("reading the question")
            module, _, name = answers.rpartition(".")
            answer: Callable[[Mapping[str, Any], QuestionJob], dict[str, Any]] = getattr(
                importlib.import_module(module), name
            )
            job.value = answer(job.body, job)
        except JobCancelled:
            job.error = ToolkitError("This question was canceled, because a newer one replaced it.", "Ask again.")
        except Exception as error:  # noqa: BLE001 - stored in the job and shown to the user
            job.error = as_toolkit_error(error, WARM_SERVICE)
