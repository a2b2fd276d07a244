"""A fine-tuning job as OpenAI's API shows it: folded from the record of the job and the directory of its run.

Nothing here is stored: after a crash of the worker or the server, the same files give the same job.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from toolkit.api.files.file_store import describe_file, no_such_file
from toolkit.api.jobs.job_requests import describe_hyperparameters
from toolkit.api.jobs.job_store import JobRecord, JobRefusal
from toolkit.api.jobs.tuned_models import ORGANIZATION, name_tuned_model
from toolkit.config import Config
from toolkit.errors import RunError, ToolkitError
from toolkit.runs.checkpoints import list_kept_checkpoints
from toolkit.runs.event_facts import Curve, read_event_facts, read_run_curves
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.ids import is_valid_id

RESULT_PURPOSE = "fine-tune-results"
RESULT_FILE_NAME = "step_metrics.csv"
_RESULT_ID = re.compile(r"file-result-([a-z0-9-]{1,40})")
_RESULT_COLUMNS = {
    "train_loss": "loss",
    "train_accuracy": "mean_token_accuracy",
    "valid_loss": "eval_loss",
    "valid_mean_token_accuracy": "eval_mean_token_accuracy",
}
"""Column of the result file -> metric of the run. A metric that the run does not measure leaves its cells empty."""


@dataclass(frozen=True)
class JobView:
    """A job with what its run says. run, status: None without a run. lost: why its run can't be read."""

    record: JobRecord
    run: RunDir | None = None
    status: RunStatus | None = None
    lost: str = ""

    @property
    def config(self) -> Config | None:
        """The settings of the run; None without one. Raises ToolkitError: they can't be read."""
        return read_run_config(self.run) if self.run is not None else None

    @property
    def state(self) -> str:
        """The status of the job, in OpenAI's words; "paused" is the one that its client does not list."""
        if self.record.refused is not None or self.lost:
            return "failed"
        if self.status is None:
            return "validating_files" if self.record.cancelled is None else "cancelled"
        if self.record.cancelled is not None and self.status.state in ("paused", "stopping"):
            return "cancelled"
        if self.status.state == "interrupted":  # it resumes by itself, unless its last event says why not
            return "failed" if self.status.explained else "running"
        return _STATES[self.status.state]

    @property
    def finished_at(self) -> float | None:
        """Unix seconds at which the job ended; None while it has not, and while it is paused."""
        if self.status is None or self.run is None:
            return self.record.checked if self.record.refused is not None else self.record.cancelled
        end = read_event_facts(self.run.events_path).end
        if self.state == "cancelled" and (end is None or self.record.cancelled is not None):
            return self.record.cancelled
        return float(end["t"]) if end is not None and self.state != "paused" else None

    @property
    def error(self) -> dict[str, Any] | None:
        """The `error` of a failed job."""
        refusal = self.record.refused
        if refusal is None and self.lost:
            refusal = JobRefusal(code="run_unreadable", message=self.lost)
        if refusal is None and self.state == "failed" and self.status is not None:
            message = f"{self.status.message} {self.status.hint}".strip()
            refusal = JobRefusal(code=self.status.reason or "failed", message=message)
        return refusal.model_dump() if refusal is not None else None

    def describe(self) -> dict[str, Any]:
        """Return OpenAI's job object; a run with damaged settings makes it a failed one."""
        try:
            return self._describe()
        except ToolkitError as error:
            return replace(self, run=None, status=None, lost=str(error))._describe()

    def _describe(self) -> dict[str, Any]:
        record, status, state = self.record, self.status, self.state
        config = self.config
        hyperparameters = describe_hyperparameters(record.asked, config)
        done = state == "succeeded" and self.run is not None
        remaining = status.remaining_s if status is not None and state == "running" else None
        tokens = int(status.last.get("tokens") or 0) if status is not None and self.finished_at else None
        finished, args = self.finished_at, (config or Config()).training.training_args
        return {
            "id": record.id,
            "object": "fine_tuning.job",
            "created_at": int(record.created),
            "finished_at": int(finished) if finished is not None else None,
            "estimated_finish": int(time.time() + remaining) if remaining is not None else None,
            "model": record.model,
            "fine_tuned_model": name_tuned_model(self.run) if done and self.run is not None else None,
            "organization_id": f"org-{ORGANIZATION}",
            "status": state,
            "error": self.error,
            "training_file": record.asked.training_file,
            "validation_file": record.asked.validation_file,
            "result_files": [result_file_id(self.run)] if done and self.run is not None else [],
            "hyperparameters": hyperparameters,
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            "seed": args.seed if record.asked.seed is None or config else record.asked.seed,
            "trained_tokens": tokens,
            "user_provided_suffix": record.asked.suffix,
            "metadata": record.asked.metadata,
            "integrations": [],
        }

    def describe_checkpoints(self) -> list[dict[str, Any]]:
        """Return OpenAI's checkpoint objects of the checkpoints that are kept, newest first."""
        run = self.run
        if run is None:
            return []
        curves = read_run_curves(run.events_path)
        return [self._checkpoint(run, step, path, curves) for step, path in list_kept_checkpoints(run).items()]

    def _checkpoint(self, run: RunDir, step: int, path: Path, curves: dict[str, Curve]) -> dict[str, Any]:
        names = {"train_loss": "loss", "valid_loss": "eval_loss", "full_valid_loss": "eval_loss"}
        at_step = {name: dict(iter(curves[metric])).get(step) for name, metric in names.items() if metric in curves}
        return {
            "id": f"ftckpt_{run.id}_{step}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(path.stat().st_mtime),
            "fine_tuned_model_checkpoint": name_tuned_model(run, step),
            "fine_tuning_job_id": self.record.id,
            "step_number": step,
            "metrics": {"step": step, **{name: value for name, value in at_step.items() if value is not None}},
        }


_STATES = {
    "queued": "queued",
    "starting": "running",
    "running": "running",
    "stopping": "running",
    "finished": "succeeded",
    "paused": "paused",
    "stopped": "cancelled",
    "cancelled": "cancelled",
    "failed": "failed",
}
"""State of a run -> status of its job; that of an interrupted one depends on more."""


def view_job(record: JobRecord, save_dir: Path) -> JobView:
    """Return a job with what its run says now."""
    if not record.run:
        return JobView(record)
    try:
        run = open_run(save_dir, record.run)
        return JobView(record, run, read_run_status(run))
    except RunError as error:
        return JobView(record, lost=f"Its run is gone or can't be read: {error.message}")


def result_file_id(run: RunDir) -> str:
    """Return the id of the file with a run's metrics."""
    return f"file-result-{run.id}"


def find_result_run(save_dir: Path, file_id: str) -> RunDir | None:
    """Return the run whose metrics a file has; None if the id is of another kind. Raises RequestError (404)."""
    found = _RESULT_ID.fullmatch(file_id)
    if found is None:
        return None
    try:
        if is_valid_id(found[1]) and read_run_status(run := open_run(save_dir, found[1])).state == "finished":
            return run
    except RunError as error:
        raise no_such_file(file_id) from error
    raise no_such_file(file_id)


def describe_result_file(run: RunDir) -> dict[str, Any]:
    """Return OpenAI's file object of a run's metrics."""
    end = read_event_facts(run.events_path).end
    stamp = run.events_path.stat()
    size = _measure_result_file(run, stamp.st_mtime_ns, stamp.st_size)
    created = float(end["t"]) if end is not None else 0.0
    return describe_file(result_file_id(run), RESULT_FILE_NAME, size, created, RESULT_PURPOSE)


@lru_cache(maxsize=20_000)
def _measure_result_file(run: RunDir, *stamp: int) -> int:
    """Return the bytes of a run's metrics. stamp: of the log, which is read again once it has changed."""
    return len(encode_result_file(run))


def encode_result_file(run: RunDir) -> bytes:
    """Return a run's metrics as CSV, one line for each step, in Base64 as OpenAI sends them."""
    curves = {name: dict(iter(curve)) for name, curve in read_run_curves(run.events_path).items()}
    columns = [curves.get(metric, {}) for metric in _RESULT_COLUMNS.values()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", *_RESULT_COLUMNS))
    for step in sorted({step for column in columns for step in column}):
        writer.writerow((step, *(f"{column[step]:.6g}" if step in column else "" for column in columns)))
    return base64.b64encode(text.getvalue().encode())
