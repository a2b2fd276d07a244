"""Pushing an export to the hub: what was asked, how far it is, and starting the process that does it.

The token is the hub's own login or HF_TOKEN: it is read by the process that pushes, never asked for, passed on or
written down. Only an export that passed its certificate is pushed. What goes out is `worker/push.py`'s to choose.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit.errors import RunError
from toolkit.export.export_process import start_locked_process
from toolkit.export.export_state import (
    ExportForm,
    ExportState,
    export_lock_path,
    find_export_form,
    read_export_state,
    read_push_state,
)
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.runs.worker_process import worker_environment
from toolkit.system.durable import durable_write
from toolkit.system.locks import is_lock_held

REPOSITORY_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
HUB_FORM = ExportForm("hub", "Hugging Face Hub", "A repository of yours on the hub, with the model card.")


@dataclass(frozen=True)
class HubPush:
    """form: which export. golden: whether the golden prompts, rows of your data, go along."""

    form: str
    repo: str
    private: bool = True
    golden: bool = False


def push_request_path(run: RunDir) -> Path:
    return run.exports_dir / "hub.request.json"


def read_push_request(run: RunDir) -> HubPush:
    return HubPush(**json.loads(push_request_path(run).read_bytes()))


def read_hub_state(run: RunDir) -> ExportState:
    """How far the last push is; `message` is the repository's address once it is done."""
    return read_push_state(run, HUB_FORM)


def start_push(run: RunDir, push: HubPush) -> subprocess.Popen[bytes]:
    """Returns once it has begun. Raises RunError: no such name, nothing checked to push, or a push is going on."""
    if not REPOSITORY_PATTERN.fullmatch(push.repo):
        raise RunError(f"'{push.repo[:100]}' is no name of a repository.", "It looks like owner/name.")
    if read_export_state(run, find_export_form(push.form).key).state != "passed":
        message = f"The export '{push.form}' has not passed its certificate."
        raise RunError(message, "Make it first: only what answers as the run did is pushed.")
    if is_lock_held(export_lock_path(run, HUB_FORM.key)):
        raise RunError("A push of this run is going on.", "Wait for it.")
    durable_write(push_request_path(run), json.dumps(asdict(push)))
    environment = worker_environment(run, read_run_config(run), attempt=1)
    environment["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "0")  # a local model may still go to the hub
    return start_locked_process(
        ["toolkit.worker.push", run.id], environment, run.exports_dir / "hub.log", export_lock_path(run, HUB_FORM.key)
    )
