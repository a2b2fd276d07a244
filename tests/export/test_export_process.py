"""The processes that make exports: none is left behind, and none loses its run while it is at work."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.fakes.run_fixtures import queue
from toolkit.errors import RunError
from toolkit.export import export_process
from toolkit.export.export_state import ExportState, export_job
from toolkit.runs.run_dir import delete_run, list_runs
from toolkit.system.durable import scratch_dir
from toolkit.system.locks import hold_lock

BUSY = """
import os, subprocess, sys, time
from pathlib import Path
from toolkit.export.export_state import export_job
from toolkit.runs.run_dir import open_run
from toolkit.system.background_job import StateFileReporter, job_main

run = open_run(Path(os.environ["FTK_SAVE_DIR"]), sys.argv[1])

def work(progress):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (run.path / "child").write_text(str(child.pid))
    time.sleep(600)
    return ""

job = export_job(run, sys.argv[2])
raise SystemExit(job_main(job, StateFileReporter(job), work, lambda error: ("", "")))
"""


def test_ctrl_c_ends_the_processes_that_an_export_has_started(
    save_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue(save_dir)
    run.adapter_dir.mkdir()
    (run.adapter_dir / "COMMIT.json").touch()
    (tmp_path / "busy.py").write_text(BUSY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(export_process, "EXPORT_WORKER", "busy")

    def interrupt(state: ExportState) -> None:
        assert state.state == "running", export_job(run, "adapter").log.read_text()
        if (run.path / "child").exists() and (run.path / "child").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_process.export_to_end(run, "adapter", interrupt)
    child = int((run.path / "child").read_text())
    deadline = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the export's own child is still alive"
        time.sleep(0.02)


def test_a_run_with_a_running_export_is_not_deleted(save_dir: Path) -> None:
    run = queue(save_dir)
    run.exports_dir.mkdir()
    with hold_lock(export_job(run, "adapter").lock), pytest.raises(RunError, match="still running"):
        delete_run(run)
    assert list_runs(save_dir) == [run]
    delete_run(run)
    assert list_runs(save_dir) == []


def test_a_scratch_folder_starts_empty_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new" / "left").touch()
    with scratch_dir(tmp_path / ".new") as folder:
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
