"""Pushing an export to the Hugging Face Hub: what is pushed, how far the push is, and starting its process.

    exports/hub.request.json  what to push
    exports/hub.json          progress and end, see `system/background_job.py`; the result is the repository's address

The token is the Hub's own login or HF_TOKEN. Only the process that pushes reads it; it is never asked for, passed on
or written to a file. Only an export that passed its certificate is pushed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from toolkit.errors import RunError
from toolkit.export.export_forms import find_export_form
from toolkit.export.export_state import read_export_state
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.runs.worker_process import worker_environment
from toolkit.system.background_job import JobFiles, JobState, read_job, start_job
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import read_foreign_json

PUSH_WORKER = "toolkit.worker.push"
REPOSITORY_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
"""owner/name with the Hub's characters, each part at most 96."""


@dataclass(frozen=True)
class HubPush:
    """form: key of the export. golden: whether to send the golden prompts, which are rows of the user's data."""

    form: str
    repo: str
    private: bool = True
    golden: bool = False


_PUSH = TypeAdapter(HubPush)


def push_job(run: RunDir) -> JobFiles:
    """Return the files of the process that pushes."""
    return JobFiles.in_folder(run.exports_dir, "hub")


def push_request_path(run: RunDir) -> Path:
    """Return the file that says what to push."""
    return run.exports_dir / "hub.request.json"


def read_push_request(run: RunDir) -> HubPush:
    """Return what the last push was asked to send. Raises RunError."""
    try:
        return _PUSH.validate_python(read_foreign_json(push_request_path(run)))
    except (OSError, ValueError) as error:
        raise RunError(f"{push_request_path(run)} can't be read: {error}.", "Start the push again.") from error


def read_hub_state(run: RunDir) -> JobState:
    """Return the state of the last push; `message` is the repository's address once it is done. Raises RunError."""
    return read_job(push_job(run))


def start_push(run: RunDir, push: HubPush) -> subprocess.Popen[bytes]:
    """Push an export; return once the process is at work.

    Raises RunError: the name is not valid, the export has not passed its certificate, or a push is running.
    """
    if not REPOSITORY_PATTERN.fullmatch(push.repo):
        raise RunError(f"'{push.repo[:100]}' is not a valid repository name.", "Use the form owner/name.")
    if read_export_state(run, find_export_form(push.form).key).state != "passed":
        message = f"The export '{push.form}' is not verified."
        raise RunError(message, "Export it first: only verified exports can be pushed.")
    if read_hub_state(run).state == "running":  # the running one reads the request: leave its file alone
        raise RunError("A push of this run is already running.", "Wait until it has finished.")
    durable_write(push_request_path(run), json.dumps(asdict(push)))
    environment = worker_environment(run, read_run_config(run), attempt=1)
    # the worker's environment is offline for a local base model; a push needs the network all the same
    environment["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "0")
    process = start_job(push_job(run), PUSH_WORKER, [run.id], environment)
    if process is None:
        raise RunError("A push of this run is already running.", "Wait until it has finished.")
    return process
