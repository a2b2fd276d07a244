"""The warm worker's desk: questions come in, are answered in their turn on two threads, and are handed out once.

Quick questions and long ones never wait for each other. Asking the same again joins the one under way; another body
of the same kind in the same lane takes its place. Knows no HTTP and no library: `questions.py` names who answers.
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
"""An answer that nobody fetched for so long is thrown away."""
WAITING_PHASE = "waiting for its turn"


class JobCancelled(Exception):
    """Raised inside an answer that nobody wants any more."""


@dataclass(eq=False)
class QuestionJob:
    """One question under way. phase, done, total: what a person reads meanwhile."""

    kind: str
    body: Mapping[str, Any]
    phase: str = WAITING_PHASE
    done: int = 0
    total: int = 0
    value: dict[str, Any] | None = None
    error: ToolkitError | None = None
    looked: float = field(default_factory=time.monotonic)
    given_up: threading.Event = field(default_factory=threading.Event)
    future: Future[None] | None = None

    @property
    def over(self) -> bool:
        return self.value is not None or self.error is not None

    def tell(self, phase: str, done: int = 0, total: int = 0) -> None:
        """Say what is being done; raises GivenUp when nobody wants it any more. Call it often in a long answer."""
        if self.given_up.is_set():
            raise JobCancelled
        self.phase, self.done, self.total = phase, done, total


class RequestQueue:
    """Everything here but the answers themselves happens on the server's one thread."""

    def __init__(self) -> None:
        self.phase = "importing the training libraries"
        self.broken: ToolkitError | None = None
        self._imported = threading.Event()
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="quick")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="long")
        self._jobs: dict[tuple[str, str], QuestionJob] = {}
        self.used = time.monotonic()

    def begin(self) -> None:
        self._quick.submit(self._import_libraries)

    @property
    def ready(self) -> bool:
        return self._imported.is_set()

    @property
    def busy(self) -> bool:
        return any(not job.over for job in self._jobs.values())

    def look(self, kind: str, body: Mapping[str, Any], lane: str) -> QuestionJob:
        """The job of this question, begun if it is new. Raises ToolkitError for an unknown kind."""
        if kind not in WARM_QUESTIONS:
            raise ToolkitError(f"The warm worker knows no question '{kind[:80]}'.", "Restart the app: it has changed.")
        self.used = time.monotonic()
        job = self._jobs.get((lane, kind))
        if job is None or json.dumps(job.body, sort_keys=True) != json.dumps(body, sort_keys=True):
            if job is not None:
                self._cancel_job(job)
            job = self._jobs[lane, kind] = QuestionJob(kind, body)
            threads = self._quick if WARM_QUESTIONS[kind].quick else self._long
            job.future = threads.submit(self._answer, job, WARM_QUESTIONS[kind].answers)
        job.looked = self.used
        return job

    def discard_delivered_job(self, job: QuestionJob, lane: str) -> None:
        """The asker has it now: forget it, so that asking again computes anew."""
        if self._jobs.get((lane, job.kind)) is job:
            del self._jobs[lane, job.kind]

    def cancel(self, kind: str, lane: str) -> None:
        job = self._jobs.pop((lane, kind), None)
        if job is not None:
            self._cancel_job(job)

    def discard_unfetched_jobs(self) -> None:
        """Throw away what nobody fetched."""
        now = time.monotonic()
        for key, job in list(self._jobs.items()):
            if job.over and now - job.looked > UNFETCHED_ANSWER_SECONDS:
                del self._jobs[key]

    def close(self) -> None:
        for job in self._jobs.values():
            self._cancel_job(job)
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)

    def _cancel_job(self, job: QuestionJob) -> None:
        job.given_up.set()
        if job.future is not None:
            job.future.cancel()

    def _import_libraries(self) -> None:
        warnings.simplefilter("ignore", FutureWarning)  # transformers announces renames
        try:
            libraries.import_libraries()
            self.phase = "ready"
        except Exception as error:  # noqa: BLE001 - raised again by whoever closes the page
            self.broken = as_toolkit_error(error, WARM_SERVICE)
            self.phase = "failed"
        self._imported.set()

    def _answer(self, job: QuestionJob, answers: str) -> None:
        try:
            self._imported.wait()
            if self.broken is not None:
                raise self.broken
            job.tell("reading the question")
            module, _, name = answers.rpartition(".")
            answer: Callable[[Mapping[str, Any], QuestionJob], dict[str, Any]] = getattr(
                importlib.import_module(module), name
            )
            job.value = answer(job.body, job)
        except JobCancelled:
            job.error = ToolkitError("It was given up: a newer question took its place.", "Ask again.")
        except Exception as error:  # noqa: BLE001 - raised again by whoever closes the page
            job.error = as_toolkit_error(error, WARM_SERVICE)
