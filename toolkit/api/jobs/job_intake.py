"""The thread that takes new jobs in: it makes their checks, one job after another, and queues their runs.

A job that was open when a server ended is taken in again by the next one.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from toolkit.api.jobs.job_checks import JobChecker, RefusedJobError
from toolkit.api.jobs.job_store import JobRefusal, JobStore
from toolkit.errors import ToolkitError

logger = logging.getLogger(__name__)


class JobIntake:
    """Takes the jobs of a store in. on_queued: called after a run was queued."""

    def __init__(self, jobs: JobStore, checker: JobChecker, on_queued: Callable[[], None]) -> None:
        self._jobs, self._checker, self._on_queued = jobs, checker, on_queued
        self._waiting: queue.Queue[str] = queue.Queue()

    def start(self) -> None:
        """Start the thread, with the jobs that an earlier server has left open."""
        for record in self._jobs.recover_open_jobs():
            self.submit(record.id)
        threading.Thread(target=self._work, name="job intake", daemon=True).start()

    def submit(self, job_id: str) -> None:
        """Take a job in when those before it are done."""
        self._waiting.put(job_id)

    def take_in(self, job_id: str) -> None:
        """Make the checks of a job; queue its run, or record why it is refused. Raises OSError."""
        record = self._jobs.find_job(job_id)
        if not record.is_open:
            return
        try:
            checked = self._checker.check_job(record)
            self._jobs.start_job(job_id, list(checked.notes), lambda: checked.queue_run(record))
            self._on_queued()
        except RefusedJobError as error:
            self._jobs.refuse_job(job_id, error.refusal)
        except ToolkitError as error:
            self._jobs.refuse_job(job_id, JobRefusal(code=error.reason or "checks_failed", message=str(error)))

    def _work(self) -> None:
        while True:
            job_id = self._waiting.get()
            try:
                self.take_in(job_id)
            except Exception as error:
                logger.exception("job %s", job_id)
                message = f"The checks failed: {type(error).__name__}. Details are in the output of the server."
                self._record_failure(job_id, message)

    def _record_failure(self, job_id: str, message: str) -> None:
        try:
            self._jobs.refuse_job(job_id, JobRefusal(code="internal_error", message=message))
        except OSError as error:
            logger.warning("job %s stays open until the next start: %s", job_id, error)
