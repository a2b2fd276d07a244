"""Background jobs: one start at a time, a state that follows from file and lock, and an explained end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from toolkit.errors import RunError, ToolkitError
from toolkit.system import locks
from toolkit.system.background_job import (
    JOB_FAILED_STATUS,
    JobFiles,
    JobState,
    StateFileReporter,
    cancel_job,
    is_job_running,
    job_main,
    read_job,
    start_job,
)
from toolkit.system.locks import WorkerLock, hold_lock

JOB_MODULE = """
import subprocess, sys, time
from pathlib import Path
from toolkit.system.background_job import JobFiles, StateFileReporter, job_main

files = JobFiles.in_folder(Path(sys.argv[1]), "one")

def work(progress):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (files.state.parent / "child.new").write_text(str(child.pid))
    (files.state.parent / "child.new").rename(files.state.parent / "child")
    progress("counting", 0.25)
    print("about to wait", flush=True)
    time.sleep(600)
    return ""

raise SystemExit(job_main(files, StateFileReporter(files), work, lambda error: ("", "")))
"""


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    return JobFiles.in_folder(tmp_path, "one")


def explain(error: Exception) -> tuple[str, str]:
    return f"explained: {error}", "what to do"


def run_here(files: JobFiles, work: Callable[[StateFileReporter], str]) -> int:
    return job_main(files, StateFileReporter(files), work, explain)


def start(files: JobFiles, tmp_path: Path, code: str, *, keep_log: bool = False) -> object:
    (tmp_path / "job_module.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    return start_job(files, "job_module", [str(tmp_path)], environment, keep_log=keep_log)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_result_of_a_job_is_its_message(files: JobFiles) -> None:
    assert read_job(files) == JobState("new")

    def work(progress: StateFileReporter) -> str:
        assert read_job(files) == JobState("running", "starting")
        progress("counting", 0.5)
        assert read_job(files) == JobState("running", "counting", 0.5)
        return "42"

    assert run_here(files, work) == 0
    assert read_job(files) == JobState("done", message="42")


def test_a_failed_job_gives_its_reason(files: JobFiles) -> None:
    def refuse(_: StateFileReporter) -> str:
        raise ToolkitError("It does not fit.", "Make it smaller.")

    def break_down(_: StateFileReporter) -> str:
        raise KeyError("gone")

    assert run_here(files, refuse) == JOB_FAILED_STATUS
    assert read_job(files) == JobState("failed", message="It does not fit.", hint="Make it smaller.")
    assert run_here(files, break_down) == JOB_FAILED_STATUS
    assert read_job(files) == JobState("failed", message="explained: 'gone'", hint="what to do")


def test_a_process_that_dies_without_a_word_is_reported_as_failed(files: JobFiles, tmp_path: Path) -> None:
    start(files, tmp_path, JOB_MODULE)
    wait_until(lambda: read_job(files).phase == "counting" and "about" in files.log.read_text())
    assert cancel_job(files)
    state = read_job(files)
    assert state.state == "failed"
    assert state.message == "The process ended without an error message. The last line of its log: about to wait"
    assert str(files.log) in state.hint


def test_cancelling_ends_the_processes_that_the_job_has_started(files: JobFiles, tmp_path: Path) -> None:
    start(files, tmp_path, JOB_MODULE)
    wait_until((tmp_path / "child").exists)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    assert cancel_job(files)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert not is_job_running(files)
    assert not cancel_job(files), "nothing is left to cancel"


def test_a_job_is_running_once_the_start_returns_and_is_not_started_twice(
    files: JobFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_SECONDS", 0.2)
    assert start(files, tmp_path, JOB_MODULE) is not None
    assert is_job_running(files)
    assert start(files, tmp_path, JOB_MODULE) is None
    with pytest.raises(RunError):
        run_here(files, lambda _: "")
    cancel_job(files)
    with hold_lock(files.start_lock):
        assert read_job(files).state == "running", "a page drawn in this moment must look again"
        assert start(files, tmp_path, JOB_MODULE) is None


def test_a_process_that_never_begins_is_an_error(files: JobFiles, tmp_path: Path) -> None:
    files.log.write_text("an earlier attempt\n")
    with pytest.raises(RunError, match=r"ended before it began.*no such luck"):
        start(files, tmp_path, "raise SystemExit('no such luck')", keep_log=True)
    assert files.log.read_text().startswith("an earlier attempt")
    with pytest.raises(RunError, match="ended before it began"):
        start(files, tmp_path, "raise SystemExit('no such luck')")
    assert files.log.read_text() == "no such luck\n"


def test_states_of_earlier_versions_are_read(files: JobFiles) -> None:
    files.state.write_text('{"schema": 1, "state": "made", "phase": "", "fraction": 1.0, "message": "", "hint": ""}')
    assert read_job(files) == JobState("done")
    files.state.write_text('{"schema": 1, "state": "running", "phase": "merging", "fraction": 0.4}')
    with WorkerLock(files.lock):
        assert read_job(files) == JobState("running", "merging", 0.4)
    assert read_job(files).state == "failed"
    files.state.write_text("{")
    with pytest.raises(RunError, match="can't be read"):
        read_job(files)
