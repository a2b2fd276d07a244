"""Request queue of the background worker: two lanes, one for quick and one for long questions.

Each answer is delivered once. Asking the same question again returns the running job; a question of the same kind with
another body in the same lane replaces it. `registry.py` names the function that answers each kind, and
`answer_process.py` calls it in a process of its own.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.services.warm_process import WARM_SERVICE
from toolkit.worker.questions.answer_process import AnswerForks, AnswerLane
from toolkit.worker.questions.question_job import JobCancelled, QuestionJob
from toolkit.worker.questions.registry import WARM_QUESTIONS
from toolkit.worker.serving.guard import as_toolkit_error

UNFETCHED_ANSWER_SECONDS = 600.0
"""Finished answers that were not fetched for this long are discarded; a closed page does not cancel its questions."""


class RequestQueue:
    """The questions in progress. Call the public methods on one thread only, that of the server.

    Create it before any thread of this process: it forks.
    """

    def __init__(self) -> None:
        self._forks = AnswerForks()
        self._quick_lane, self._long_lane = AnswerLane(self._forks), AnswerLane(self._forks)
        self.phase = "importing the training libraries"
        self.broken: ToolkitError | None = None
        self._imported = threading.Event()
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="quick")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="long")
        self._jobs: dict[tuple[str, str], QuestionJob] = {}
        self.used = time.monotonic()

    def start(self) -> None:
        """Start to import the training libraries; questions wait until that is done."""
        self._quick.submit(self._wait_for_imports)

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
            question = WARM_QUESTIONS[kind]
            threads, lane_of_kind = (self._quick, self._quick_lane) if question.quick else (self._long, self._long_lane)
            job.future = threads.submit(self._answer, job, question.answers, lane_of_kind)
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
        """Cancel all jobs and end the processes."""
        for job in self._jobs.values():
            self._cancel_job(job)
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)
        self._forks.close()

    def _cancel_job(self, job: QuestionJob) -> None:
        job.cancelled.set()
        if job.future is not None:
            job.future.cancel()

    def _wait_for_imports(self) -> None:
        self.broken = self._forks.wait_for_imports()
        self.phase = "ready" if self.broken is None else "failed"
        self._imported.set()

    def _answer(self, job: QuestionJob, answers: str, lane: AnswerLane) -> None:
        try:
            self._imported.wait()
            if self.broken is not None:
                raise self.broken
            job.report_progress("reading the question")
            job.value = lane.answer(job, answers)
        except JobCancelled:
            job.error = ToolkitError("This question was canceled, because a newer one replaced it.", "Ask again.")
        except Exception as error:  # noqa: BLE001 - stored in the job and shown to the user
            job.error = as_toolkit_error(error, WARM_SERVICE)
