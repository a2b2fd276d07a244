"""Starts the process that reads a file, waits for it, and puts its end into words, whatever that end was.

Knows nothing of formats. No user text is in the child's arguments, and no secret in its environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from toolkit.data.limits import ReadOptions, UnreadableError
from toolkit.data.reader import REPORT, TABLE
from toolkit.errors import DataError

ROOT = Path(__file__).resolve().parent.parent.parent
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "TZ", "VIRTUAL_ENV", "SYSTEMROOT")
_FIXED = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the other pools reserve gigabytes of address space
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
}
_DEATHS = {
    signal.SIGKILL: "it was killed, most likely for want of memory",
    signal.SIGXCPU: "it took too long",
    signal.SIGSEGV: "it crashed",
    signal.SIGABRT: "it crashed",
    signal.SIGTERM: "it was stopped",
}


def read_in_child(
    module: str, request: str, folder: Path, limit_s: float, environment: Mapping[str, str] | None = None
) -> Path:
    """Run `python -m module` with `request` on its standard input; returns folder/table.parquet, which it wrote.

    Raises the DataError that the child reported, or one that explains its death; `limit_s` is wall clock, seconds.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    env = {**kept, **_FIXED, "PYTHONPATH": str(ROOT), **(environment or {})}
    log = folder / "stderr.log"
    with log.open("wb") as errors:
        try:
            done = subprocess.run(
                [sys.executable, "-m", module],
                input=request.encode(), stdout=subprocess.DEVNULL, stderr=errors,
                cwd=ROOT, env=env, timeout=limit_s, start_new_session=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            message = f"Reading the data took more than {limit_s:.0f} seconds and was given up."
            raise DataError(message, "Try a smaller file, or one object a line (JSONL) instead of one list.") from error
    report = folder / REPORT
    if done.returncode != 0 or not report.exists():
        raise _death(done.returncode, log)
    error_found = json.loads(report.read_text())["error"]
    if error_found is not None:
        offers = [ReadOptions(**offer) for offer in error_found["offers"]]
        if offers:
            raise UnreadableError(error_found["message"], error_found["hint"], offers)
        raise Refused(error_found["message"], error_found["hint"])
    return folder / TABLE


class Refused(DataError):
    """The child read the file and said no: it would say so again."""


def _death(returncode: int, log: Path) -> DataError:
    if returncode < 0:
        number = signal.Signals(-returncode)
        reason = f"{_DEATHS.get(number, 'it was ended')} ({number.name})"
    else:
        lines = log.read_text(errors="replace").strip().splitlines()
        reason = f"it ended with code {returncode}" + (f": {lines[-1][:300]}" if lines else "")
    message = f"The process that read the data did not finish: {reason}."
    return DataError(message, "Your data and your settings are untouched. Try a smaller part of the file.")
