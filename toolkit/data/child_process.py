"""Starts the process that reads a file, waits for it, and puts its end into words, whatever that end was.

Knows nothing of formats. No user text is in the child's arguments, and no secret in its environment.
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
from toolkit.data.readers.read_file import TABLE_FILE, TASK_PROGRESS_FILE, TASK_REPORT_FILE
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
    signal.SIGXCPU: "it took too long",
    signal.SIGSEGV: "it crashed",
    signal.SIGABRT: "it crashed",
    signal.SIGTERM: "it was stopped",
}


def make_table_in_child(
    module: str, request: str, folder: Path, limit_s: float, environment: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> Path:  # fmt: skip
    """Run `python -m module` with `request` on its standard input; returns folder/table.parquet, which it wrote.

    Raises the DataError that the child reported, or one that explains its death; `limit_s` is wall clock, seconds.
    """
    watch = watch or Watch()
    run_in_child(module, request, folder, limit_s, environment, stop=watch.stop, tell=watch.tell)
    return folder / TABLE_FILE


def run_in_child(
    module: str, request: str, folder: Path, limit_s: float, environment: Mapping[str, str] | None = None,
    *, doing: str = "Reading", stop: threading.Event | None = None, tell: DataProgressReporter | None = None,
) -> None:  # fmt: skip
    """Run `python -m module` with `request` on its standard input until it has left its report in `folder`.

    Raises what `read_in_child` does, in which `doing` the data is named, and Stopped soon after `stop` was set. `tell`
    hears what the child leaves about its progress.
    """
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    env = {**kept, **_FIXED_ENVIRONMENT, "PYTHONPATH": str(PROJECT_ROOT), **(environment or {})}
    log = folder / "stderr.log"
    with tempfile.TemporaryFile() as asked, log.open("wb") as errors:
        asked.write(request.encode())
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=asked, stdout=subprocess.DEVNULL, stderr=errors, cwd=PROJECT_ROOT, env=env, start_new_session=True,
        )  # fmt: skip
        _wait_for_exit(process, limit_s, doing, stop, lambda: _report_progress(folder, tell))
    report = folder / TASK_REPORT_FILE
    if process.returncode != 0 or not report.exists():
        raise _exit_error(process.returncode, log, doing)
    error_found = json.loads(report.read_text())["error"]
    if error_found is not None:
        offers = [Offer.load(offer) for offer in error_found["offers"]]
        if offers:
            raise UnreadableError(error_found["message"], error_found["hint"], offers)
        raise ChildRefusedError(error_found["message"], error_found["hint"])


def _report_progress(folder: Path, tell: DataProgressReporter | None) -> None:
    if tell is None:
        return
    try:
        told = json.loads((folder / TASK_PROGRESS_FILE).read_text())
    except (OSError, ValueError):  # nothing is told yet
        return
    tell(float(told["share"]), str(told["words"]))


def _wait_for_exit(
    process: subprocess.Popen[bytes], limit_s: float, doing: str, stop: threading.Event | None, look: Callable[[], None]
) -> None:
    """Until the process has ended by itself; otherwise it is killed, and why is raised."""
    end = time.monotonic() + limit_s
    try:
        while True:
            try:
                process.wait(0.1 if stop is not None else limit_s)
                return
            except subprocess.TimeoutExpired as waiting:
                look()
                if stop is not None and stop.is_set():
                    raise DataWorkStopped(f"{doing} the data was stopped.") from waiting
                if time.monotonic() >= end:
                    message = f"{doing} the data took more than {limit_s:.0f} seconds and was given up."
                    hint = "Try a smaller file, or one object a line (JSONL) instead of one list."
                    raise DataError(message, hint) from waiting
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class ChildRefusedError(DataError):
    """The child read the file and said no: it would say so again."""


def _exit_error(returncode: int, log: Path, doing: str) -> DataError:
    if returncode < 0:
        number = signal.Signals(-returncode)
        reason = f"{_EXIT_REASONS.get(number, 'it was ended')} ({number.name})"
    else:
        lines = log.read_text(errors="replace").strip().splitlines()
        reason = f"it ended with code {returncode}" + (f": {lines[-1][:300]}" if lines else "")
    message = f"{doing} the data did not finish: {reason}."
    return DataError(message, "Your data and your settings are untouched. Try a smaller part of the file.")
