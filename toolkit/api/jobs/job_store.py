"""What was asked of the API: `<save_dir>/api/jobs/<id>.json`, one small file for each fine-tuning job.

The file says what was asked, and what happened before there was a run: the notes and the refusal of the checks, and a
cancellation. Everything later is read from the run.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from toolkit.api.files.file_store import make_store_folder
from toolkit.api.jobs.job_requests import JobRequest
from toolkit.errors import RunError
from toolkit.runs.run_dir import RunDir, list_runs, read_run_meta
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import read_foreign_json
from toolkit.system.ids import make_timed_id
from toolkit.worker.serving.request_models import RequestError

_JOB_ID = re.compile(r"ftjob-[0-9a-f]{24}")
_TIME_DIGITS = 15
"""Characters of a run's id that are date and time."""
CLOCK_SLACK_SECONDS = 60.0
UnixTime = Annotated[float, Field(ge=0, le=2**35)]

logger = logging.getLogger(__name__)


class JobRefusal(BaseModel):
    """Why the checks refused a job, in the words of OpenAI's `error`."""

    code: str
    message: str
    param: str | None = None


class JobRecord(BaseModel):
    """One job. model: the base model. run: the run's id, "" until the checks have passed. Times are Unix seconds."""

    id: Annotated[str, Field(pattern=r"^ftjob-[0-9a-f]{24}$")]
    created: UnixTime
    model: str
    asked: JobRequest
    run: str = ""
    checked: UnixTime | None = None
    cancelled: UnixTime | None = None
    refused: JobRefusal | None = None
    notes: list[str] = []

    @property
    def is_open(self) -> bool:
        """Whether the checks have still to decide about the job."""
        return not self.run and self.refused is None and self.cancelled is None


class JobStore:
    """The jobs of a save_dir. Several threads may use it; one process at a time does."""

    def __init__(self, save_dir: Path) -> None:
        self.save_dir, self.folder = save_dir, make_store_folder(save_dir / "api" / "jobs")
        self._lock = threading.RLock()
        self._records = {record.id: record for record in map(self._read, self.folder.glob("ftjob-*.json")) if record}

    def create_job(self, asked: JobRequest, model: str) -> JobRecord:
        """Store a new job and return it. Raises OSError."""
        record = JobRecord(id=f"ftjob-{secrets.token_hex(12)}", created=time.time(), model=model, asked=asked)
        return self._write(record)

    def list_jobs(self) -> list[JobRecord]:
        """Return all jobs, newest first."""
        with self._lock:
            return sorted(self._records.values(), key=lambda record: (record.created, record.id), reverse=True)

    def find_job(self, job_id: str) -> JobRecord:
        """Return a job. Raises RequestError (404): there is none with this id."""
        with self._lock:
            record = self._records.get(job_id)
        if record is None:
            message = f"There is no fine-tuning job '{job_id[:80]}'."
            hint = "List the jobs with GET /v1/fine_tuning/jobs."
            raise RequestError(message, hint, status=404, code="not_found", param="fine_tuning_job_id")
        return record

    def note_cancel(self, job_id: str, at: float | None) -> JobRecord:
        """Note when a job was cancelled, or with None that it was resumed, and return it as it is then."""
        with self._lock:
            return self._write(self.find_job(job_id).model_copy(update={"cancelled": at}))

    def refuse_job(self, job_id: str, refusal: JobRefusal) -> None:
        """Record why the checks refused a job, unless it was cancelled meanwhile."""
        with self._lock:
            record = self.find_job(job_id)
            if record.is_open:
                self._write(record.model_copy(update={"refused": refusal, "checked": time.time()}))

    def start_job(self, job_id: str, notes: list[str], make_run: Callable[[], RunDir]) -> None:
        """Queue the run of a job whose checks have passed, unless it was cancelled meanwhile. Raises RunError."""
        with self._lock:
            record = self.find_job(job_id)
            if not record.is_open:
                return
            checked = self._write(record.model_copy(update={"notes": notes, "checked": time.time()}))
            self._write(checked.model_copy(update={"run": make_run().id}))

    def recover_open_jobs(self) -> list[JobRecord]:
        """Return the jobs that the checks have still to decide about, oldest first.

        A server that was killed between creating a run and noting it left a run that names its job.
        """
        open_jobs = [record for record in reversed(self.list_jobs()) if record.is_open]
        if not open_jobs:
            return []
        oldest = make_timed_id(open_jobs[0].created - CLOCK_SLACK_SECONDS)[:_TIME_DIGITS]
        made = {_job_of(run): run for run in list_runs(self.save_dir) if run.id[:_TIME_DIGITS] >= oldest}
        for record in open_jobs:
            if record.id in made:
                self._write(record.model_copy(update={"run": made[record.id].id}))
        return [record for record in open_jobs if record.id not in made]

    def _read(self, path: Path) -> JobRecord | None:
        try:
            record = JobRecord.model_validate(read_foreign_json(path))
        except (OSError, ValueError) as error:
            logger.warning("%s can't be read: %s", path, error)
            return None
        return record if _JOB_ID.fullmatch(path.stem) and record.id == path.stem else None

    def _write(self, record: JobRecord) -> JobRecord:
        with self._lock:
            durable_write(self.folder / f"{record.id}.json", record.model_dump_json(indent=1))
            self._records[record.id] = record
            return record


def _job_of(run: RunDir) -> str:
    """Return the job that a run was made for, or ""."""
    try:
        meta: dict[str, Any] = read_run_meta(run)
    except RunError as error:
        logger.warning("run %s can't be read: %s", run.id, error)
        return ""
    return str(meta.get("job") or "")
