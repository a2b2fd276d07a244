"""Run a data task in a child process, report its progress, and explain how it ended.

The child's arguments contain no user text, and its environment contains no secrets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from toolkit.data.progress import DataProgressReporter, DataWorkStopped, Watch
from toolkit.data.read_options import Offer, UnreadableError
from toolkit.data.task_process import TABLE_FILE, TASK_PROGRESS_FILE, TASK_REPORT_FILE
from toolkit.errors import DataError
from toolkit.system.out_of_memory import LIKELY_KILLED_FOR_MEMORY
from toolkit.system.paths import PROJECT_ROOT

_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "TZ", "VIRTUAL_ENV", "SYSTEMROOT")
_FIXED_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the other pools reserve gigabytes of address space
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
}
_EXIT_REASONS = {
    signal.SIGKILL: LIKELY_KILLED_FOR_MEMORY,
    signal.SIGXCPU: "it took too much CPU time",
    signal.SIGSEGV: "it crashed",
    signal.SIGABRT: "it crashed",
    signal.SIGTERM: "it was stopped",
}


def make_table_in_child(
    module: str,
    request: str,
    folder: Path,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> Path:
    """Run the task `module` as `run_in_child` does, and return the table that it wrote to `folder`."""
    watch = watch or Watch()
    run_in_child(module, request, folder, limit_s, environment, stop=watch.stop, report_progress=watch.report)
    return folder / TABLE_FILE


def run_in_child(
    module: str,
    request: str,
    folder: Path,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
    *,
    doing: str = "Reading",
    stop: threading.Event | None = None,
    report_progress: DataProgressReporter | None = None,
) -> None:
    """Run `python -m module` with `request` on its standard input until it ends.

    limit_s: wall clock time in seconds; environment: added to the child's. Raises ChildRefusedError or UnreadableError
    with what the child reported, DataError that explains its death ("`doing` the data did not finish"), and
    DataWorkStopped soon after `stop` is set.
    """
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    env = {**kept, **_FIXED_ENVIRONMENT, "PYTHONPATH": str(PROJECT_ROOT), **(environment or {})}
    log = folder / "stderr.log"
    with tempfile.TemporaryFile() as request_file, log.open("wb") as errors:
        request_file.write(request.encode())
        request_file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=request_file,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=PROJECT_ROOT,
            env=env,
            start_new_session=True,  # Ctrl-C in the terminal ends the app, which ends its children itself
        )
        _wait_for_exit(process, limit_s, doing, stop, lambda: _forward_progress(folder, report_progress))
    report = folder / TASK_REPORT_FILE
    if process.returncode != 0 or not report.exists():
        raise _exit_error(process.returncode, log, doing)
    error = json.loads(report.read_text())["error"]
    if error is not None:
        offers = [Offer.load(offer) for offer in error["offers"]]
        if offers:
            raise UnreadableError(error["message"], error["hint"], offers)
        raise ChildRefusedError(error["message"], error["hint"])


def _forward_progress(folder: Path, report_progress: DataProgressReporter | None) -> None:
    if report_progress is None:
        return
    try:
        progress = json.loads((folder / TASK_PROGRESS_FILE).read_text())
    except (OSError, ValueError):  # nothing has been reported yet
        return
    report_progress(float(progress["share"]), str(progress["words"]))


def _wait_for_exit(
    process: subprocess.Popen[bytes],
    limit_s: float,
    doing: str,
    stop: threading.Event | None,
    on_poll: Callable[[], None],
) -> None:
    """Wait until the process ends. Kill it and raise why when it is stopped or takes too long."""
    end = time.monotonic() + limit_s
    try:
        while True:
            try:
                process.wait(0.1 if stop is not None else limit_s)
                return
            except subprocess.TimeoutExpired as waiting:
                on_poll()
                if stop is not None and stop.is_set():
                    raise DataWorkStopped(f"{doing} the data was stopped.") from waiting
                if time.monotonic() >= end:
                    message = f"{doing} the data took more than {limit_s:.0f} seconds and was stopped."
                    hint = "Use a smaller file, or one object per line (JSONL) instead of one list."
                    raise DataError(message, hint) from waiting
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class ChildRefusedError(DataError):
    """The child process refused the data. It would refuse the same data again."""


def _exit_error(returncode: int, log: Path, doing: str) -> DataError:
    if returncode < 0:
        number = signal.Signals(-returncode)
        reason = f"{_EXIT_REASONS.get(number, 'it was terminated')} ({number.name})"
    else:
        lines = log.read_text(errors="replace").strip().splitlines()
        reason = f"it exited with code {returncode}" + (f": {lines[-1][:300]}" if lines else "")
    message = f"{doing} the data did not finish: {reason}."
    return DataError(message, "Your data and settings are unchanged. Try a smaller part of the file.")
