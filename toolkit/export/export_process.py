"""Starting the process that makes an export or checks one again, and waiting for it.

The process has a session of its own, so an export survives the app. No user text is in its arguments.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from toolkit.errors import RunError
from toolkit.export.export_forms import find_export_form
from toolkit.export.export_state import ExportState, export_job, read_export_state
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.runs.worker_process import worker_environment
from toolkit.system.background_job import cancel_job, start_job
from toolkit.system.durable import COMMIT_NAME

EXPORT_WORKER = "toolkit.worker.export"
POLL_SECONDS = 0.2


def start_export(run: RunDir, form: str, *, check_only: bool = False) -> subprocess.Popen[bytes]:
    """Make an export and replay it; with check_only replay the existing one. Return once the process is at work.

    Raises RunError: the run has no adapter, this export is already being made, or the process can't be started.
    """
    find_export_form(form)
    if not (run.adapter_dir / COMMIT_NAME).exists():
        raise RunError(f"Run {run.id} has no adapter yet.", "Wait until it has finished, or choose another run.")
    run.exports_dir.mkdir(exist_ok=True)
    environment = worker_environment(run, read_run_config(run), attempt=1)
    arguments = [run.id, form, *(["check"] if check_only else [])]
    process = start_job(export_job(run, form), EXPORT_WORKER, arguments, environment)
    if process is None:
        raise RunError("This export is already running.", "Wait until it has finished.")
    return process


def export_to_end(
    run: RunDir, form: str, on_state: Callable[[ExportState], None], *, check_only: bool = False
) -> ExportState:
    """Make an export and wait for it, calling `on_state` several times a second. Raises RunError.

    Ctrl-C ends the export and the processes that it has started.
    """
    process = start_export(run, form, check_only=check_only)
    try:
        while process.poll() is None:
            on_state(read_export_state(run, form))
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        cancel_job(export_job(run, form))
        process.wait()
        raise
    return read_export_state(run, form)
