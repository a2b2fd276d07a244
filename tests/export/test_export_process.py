"""The processes that make exports: none is left behind, none begins twice, and none loses its run under way."""

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
from toolkit.export.export_state import ExportState, export_lock_path
from toolkit.runs.run_dir import delete_run, list_runs
from toolkit.system.durable import scratch_dir
from toolkit.system.locks import hold_lock, is_lock_held

BUSY = """
import subprocess, sys, time
from pathlib import Path
from toolkit.system.locks import try_lock
here = Path(sys.argv[1])
held = try_lock(here / "busy.lock")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(here / "child").write_text(str(child.pid))
time.sleep(600)
"""


def test_ctrl_c_ends_what_the_export_has_started_too(
    save_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue(save_dir)
    (tmp_path / "busy.py").write_text(BUSY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    lock = tmp_path / "busy.lock"
    monkeypatch.setattr(
        export_process, "start_export",
        lambda *_, **__: export_process.start_locked_process(["busy", str(tmp_path)], environment, tmp_path / "log", lock),
    )  # fmt: skip

    def look(state: ExportState) -> None:
        assert is_lock_held(lock), (tmp_path / "log").read_text()
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_process.export_to_end(run, "adapter", look)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the export's own child is still there"
        time.sleep(0.02)


def test_a_run_whose_export_goes_is_not_deleted(save_dir: Path) -> None:
    run = queue(save_dir)
    run.exports_dir.mkdir()
    with hold_lock(export_lock_path(run, "adapter")), pytest.raises(RunError, match="still going"):
        delete_run(run)
    assert list_runs(save_dir) == [run]
    delete_run(run)
    assert list_runs(save_dir) == []


def test_what_a_killed_process_left_goes_first(tmp_path: Path) -> None:
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new" / "left").touch()
    with scratch_dir(tmp_path / ".new") as folder:
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
