"""A job in a background process: evaluation, export, push or measurement.

    <name>.json        how far the job is and how it ended: schema, state, phase, fraction, message, hint
    <name>.lock        locked by the process while it is alive; the kernel releases it on any death
    <name>.start.lock  locked while a process is being started
    <name>.log         everything that the process prints

Only the process that holds the lock writes the state. "Running" follows from the lock, so a job whose last state is
"running" without a held lock has died. An evaluation reports into its event log in place of the JSON file.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, Field

from toolkit.errors import RunError, ToolkitError
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import open_regular_file, read_foreign_json
from toolkit.system.locks import WorkerLock, end_holder_processes, hold_lock, is_lock_held, read_lock_holder
from toolkit.system.spawn import reap_in_background, start_detached_process

logger = logging.getLogger(__name__)

JOB_SCHEMA = 1
JOB_FAILED_STATUS = 1
"""Exit status of a job that failed and reported why."""
START_TIMEOUT_SECONDS = 30.0  # a process takes its lock before it imports a heavy library: about a second
POLL_SECONDS = 0.02
MAX_LOG_TAIL_BYTES = 16_384
MAX_LOG_LINE_CHARACTERS = 300

JobStatus = Literal["new", "running", "done", "failed"]
ErrorExplainer = Callable[[Exception], tuple[str, str]]
"""(exception) -> (message, hint), for exceptions that are no ToolkitError."""


@dataclass(frozen=True)
class JobFiles:
    """The files of one job. state: where the process reports; its log is overwritten at every start unless kept."""

    state: Path
    lock: Path
    start_lock: Path
    log: Path

    @classmethod
    def in_folder(cls, folder: Path, name: str) -> JobFiles:
        """Return the files of the job `name` in `folder`, under their usual names."""
        return cls(
            folder / f"{name}.json", folder / f"{name}.lock", folder / f"{name}.start.lock", folder / f"{name}.log"
        )


@dataclass(frozen=True)
class JobState:
    """A job at one moment. fraction: 0 to 1 while it runs. message: the result when done, the reason when failed."""

    state: JobStatus
    phase: str = ""
    fraction: float = 0.0
    message: str = ""
    hint: str = ""


class _StateFile(BaseModel):
    """What a job has written. state: "" while there is no file, "made" when it is done."""

    state: str = ""
    phase: str = ""
    fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    message: str = ""
    hint: str = ""


class JobReporter(Protocol):
    """Where a job reports. It is entered once the lock is held and left before the lock is released."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def finish(self, result: str) -> None: ...

    def fail(self, message: str, hint: str) -> None: ...


Reporter = TypeVar("Reporter", bound=JobReporter)


class StateFileReporter:
    """Reports into the job's JSON file. Call it with the phase and the fraction done (0 to 1)."""

    def __init__(self, files: JobFiles) -> None:
        self._path = files.state

    def __enter__(self) -> Self:
        self("starting", 0.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def __call__(self, phase: str, fraction: float) -> None:
        self._write("running", phase, fraction)

    def finish(self, result: str) -> None:
        self._write("made", "", 1.0, result)  # the word for "done" in the files of every earlier version

    def fail(self, message: str, hint: str) -> None:
        self._write("failed", "", 1.0, message, hint)

    def _write(self, state: str, phase: str, fraction: float, message: str = "", hint: str = "") -> None:
        body = {
            "schema": JOB_SCHEMA,
            "state": state,
            "phase": phase,
            "fraction": round(fraction, 3),
            "message": message,
            "hint": hint,
        }
        durable_write(self._path, json.dumps(body, ensure_ascii=False))


def start_job(
    files: JobFiles, module: str, arguments: Sequence[str], environment: Mapping[str, str], *, keep_log: bool = False
) -> subprocess.Popen[bytes] | None:
    """Start `python -m module` with its arguments; return once it holds its lock or has ended.

    Return None and start nothing while the job is running or is being started. keep_log: append to the log.
    Raises RunError when the process can't be started, or ends before it reports anything.
    """
    with hold_lock(files.start_lock) as free:
        if not free or is_lock_held(files.lock):
            return None
        before = _read_stamp(files.state)
        try:
            with files.log.open("ab" if keep_log else "wb") as log:
                process = start_detached_process([sys.executable, "-m", module, *arguments], environment, log)
        except OSError as error:
            raise RunError(f"The process can't be started: {error}.", "Free memory or disk space.") from error
        reap_in_background(process, files.log.stem)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not is_lock_held(files.lock) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if process.poll() is not None and _read_stamp(files.state) == before:
            last = read_last_log_line(files.log)
            raise RunError(
                "The process ended before it began its work" + (f": {last}" if last else "."),
                f"Its log is {files.log}.",
            )
    return process


def is_job_running(files: JobFiles) -> bool:
    """Return whether the job's process is alive or is just being started."""
    return is_lock_held(files.start_lock) or is_lock_held(files.lock)


def read_job(files: JobFiles) -> JobState:
    """Return the state of a job that reports into its JSON file. Raises RunError for a damaged file."""
    running = is_job_running(files)  # before the file: a process that ends in between has written its last state
    body = _read_state_file(files.state)
    if running:
        return JobState("running", body.phase or "starting", body.fraction)
    match body.state:
        case "":
            return JobState("new")
        case "made":
            return JobState("done", message=body.message)
        case "running":
            return JobState("failed", message=describe_silent_death(files), hint=f"Its log is {files.log}.")
    return JobState("failed", message=body.message, hint=body.hint)


def cancel_job(files: JobFiles, grace_seconds: float = 5.0) -> bool:
    """End the job's process and the processes that it has started. Return whether one was running."""
    deadline = time.monotonic() + grace_seconds
    while is_lock_held(files.lock) and time.monotonic() < deadline:
        holder = read_lock_holder(files.lock)
        if holder is not None and holder.pid == os.getpid():
            return False
        if holder is not None and end_holder_processes(holder, grace_seconds):
            return True
        time.sleep(POLL_SECONDS)  # the process has its lock, but has not written its pid into it yet
    return False


def describe_silent_death(files: JobFiles) -> str:
    """Return what to say about a process that died without reporting an error: the last line of its log, if any."""
    last = read_last_log_line(files.log)
    return "The process ended without an error message" + (f". The last line of its log: {last}" if last else ".")


def read_last_log_line(log: Path) -> str:
    """Return the last line of a log that is not empty, at most 300 characters; "" when there is none."""
    try:
        with open_regular_file(log) as file:
            file.seek(max(0, log.stat().st_size - MAX_LOG_TAIL_BYTES))
            lines = file.read(MAX_LOG_TAIL_BYTES).decode(errors="replace").strip().splitlines()
    except OSError:  # there is no log, or it is not a file
        return ""
    return lines[-1].strip()[:MAX_LOG_LINE_CHARACTERS] if lines else ""


def job_main(
    files: JobFiles, reporter: Reporter, work: Callable[[Reporter], str], explain: ErrorExplainer, *, run: str = ""
) -> int:
    """Carry out a job in its own process: hold the lock, do the work, report how it ended. Return the exit status.

    work returns the result to report. run: the id of the run, for the body of the lock.
    Raises RunError when another process holds the lock.
    """
    faulthandler.enable()
    with WorkerLock(files.lock, run=run), reporter:
        try:
            result = work(reporter)
        except ToolkitError as error:
            reporter.fail(error.message, error.hint)
            return JOB_FAILED_STATUS
        except Exception as error:
            logger.exception("job %s", files.lock)
            reporter.fail(*explain(error))
            return JOB_FAILED_STATUS
        reporter.finish(result)
    return 0


def _read_stamp(path: Path) -> tuple[int, int] | None:
    """Return size and modification time (ns) of a file, None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _read_state_file(path: Path) -> _StateFile:
    try:
        return _StateFile.model_validate(read_foreign_json(path))
    except FileNotFoundError:
        return _StateFile()
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read: {error}.", "Delete the file, then start the job again.") from error
