"""Starts the process that makes an export, plays one again or pushes one, and waits for it where somebody wants to.

The process is in a session of its own, so an export survives the app. No user text is in its arguments. What it does
is `worker/export.py`'s, what state it is in `exports.py`'s.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from toolkit.errors import RunError
from toolkit.export.export_state import ExportState, export_lock_path, find_export_form, read_export_state
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.runs.worker_process import worker_environment
from toolkit.system.locks import LockHolder, boot_id, end_holder_processes, is_lock_held
from toolkit.system.spawn import reap_in_background, start_detached_process

_POLL_SECONDS = 0.2
_START_SECONDS = 30.0
FAILED_EXIT_STATUS = 1
"""Exit status of an export that did not come about and says why in its own file."""


def start_export(run: RunDir, form: str, *, check_only: bool = False) -> subprocess.Popen[bytes]:
    """Make an export and play it; with check_only play the one that is there. Returns once the process has begun.

    Raises RunError: no adapter, or the same export is being made just now.
    """
    find_export_form(form)
    if not (run.adapter_dir / "COMMIT.json").exists():
        raise RunError(f"Run {run.id} has no adapter yet.", "Wait until it has finished, or choose another run.")
    run.exports_dir.mkdir(exist_ok=True)
    lock = export_lock_path(run, form)
    if is_lock_held(lock):
        raise RunError("This export is being made just now.", "Wait for it.")
    environment = worker_environment(run, read_run_config(run), attempt=1)
    argv = ["toolkit.worker.export", run.id, form, *(["check"] if check_only else [])]
    return start_locked_process(argv, environment, run.exports_dir / f"{form}.log", lock)


def start_locked_process(
    argv: Sequence[str], environment: Mapping[str, str], log: Path, lock: Path
) -> subprocess.Popen[bytes]:
    """Start `python -m` argv; returns once it holds its lock, or has ended. Raises RunError when it never began."""
    with log.open("wb") as output:
        process = start_detached_process([sys.executable, "-m", *argv], environment, output)
    reap_in_background(process, log.stem)
    end = time.monotonic() + _START_SECONDS
    while not is_lock_held(lock) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    if process.poll() not in (None, 0, FAILED_EXIT_STATUS):
        raise RunError("It could not be started.", f"Its log is {log}.")
    return process


def export_to_end(
    run: RunDir, form: str, look: Callable[[ExportState], None], *, check_only: bool = False
) -> ExportState:
    """Make it and wait, calling `look` now and then; Ctrl-C ends the export too. Raises RunError."""
    process = start_export(run, form, check_only=check_only)
    try:
        while process.poll() is None:
            look(read_export_state(run, form))
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        _end_export(process)
        raise
    return read_export_state(run, form)


def _end_export(process: subprocess.Popen[bytes]) -> None:
    """The process and what it has started itself: a replay would go on alone, without the export's lock."""
    try:
        began = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        return
    end_holder_processes(LockHolder(process.pid, began, 1, boot_id()))
    process.wait()
