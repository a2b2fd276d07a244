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
from toolkit.export.export_process import begin
from toolkit.export.export_state import ExportState, Form, export_state, known, lock_path, pushed_state
from toolkit.runs.run_dir import RunDir, read_config
from toolkit.runs.worker_process import worker_environment
from toolkit.system.durable import durable_write
from toolkit.system.locks import is_held

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
HUB = Form("hub", "Hugging Face Hub", "A repository of yours on the hub, with the model card.")


@dataclass(frozen=True)
class Push:
    """form: which export. golden: whether the golden prompts, rows of your data, go along."""

    form: str
    repo: str
    private: bool = True
    golden: bool = False


def request_path(run: RunDir) -> Path:
    return run.exports_dir / "hub.request.json"


def read_request(run: RunDir) -> Push:
    return Push(**json.loads(request_path(run).read_bytes()))


def hub_state(run: RunDir) -> ExportState:
    """How far the last push is; `message` is the repository's address once it is done."""
    return pushed_state(run, HUB)


def start_push(run: RunDir, push: Push) -> subprocess.Popen[bytes]:
    """Returns once it has begun. Raises RunError: no such name, nothing checked to push, or a push is going on."""
    if not REPO.fullmatch(push.repo):
        raise RunError(f"'{push.repo[:100]}' is no name of a repository.", "It looks like owner/name.")
    if export_state(run, known(push.form).key).state != "passed":
        message = f"The export '{push.form}' has not passed its certificate."
        raise RunError(message, "Make it first: only what answers as the run did is pushed.")
    if is_held(lock_path(run, HUB.key)):
        raise RunError("A push of this run is going on.", "Wait for it.")
    durable_write(request_path(run), json.dumps(asdict(push)))
    environment = worker_environment(run, read_config(run), attempt=1)
    environment["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "0")  # a local model may still go to the hub
    return begin(["toolkit.worker.push", run.id], environment, run.exports_dir / "hub.log", lock_path(run, HUB.key))
