"""The guard on a node trains only under a lease that is renewed, and leaves no process when it or its task is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.fakes.training import ROOT, draft
from toolkit.cluster.lease import LeaseHolder, NodeReport, begun_path, read_report
from toolkit.config import Config
from toolkit.runs.run_dir import RunDir, create_run

pytestmark = pytest.mark.worker
GUARD = """
import sys
from toolkit.worker.cluster import node_guard
child = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()} '); time.sleep(900)"
trainer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, sys.argv[1]])"
node_guard.worker_command = lambda run, config, folder: [sys.executable, "-c", trainer, str(run.path / "pids")]
node_guard.main(sys.argv[1], 1)
"""
"""Its training is a process that starts another one and waits for it."""


@pytest.fixture
def run(save_dir: Path) -> RunDir:
    return create_run(Config.model_validate(draft(save_dir, Path("bundled:demo-model"))), None)


def launch_guard(run: RunDir, **variables: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "FTK_SAVE_DIR": str(run.save_dir), **variables}
    command, pipe = [sys.executable, "-c", GUARD, run.id], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe)


@contextmanager
def start_guard(run: RunDir, lease_seconds: int) -> Iterator[subprocess.Popen[bytes]]:
    """lease_seconds: short only where its end is what is tested; a slow machine must not lose another one."""
    process = launch_guard(run, FTK_ATTEMPT="1", FTK_NODE="node-7", FTK_CLUSTER_LEASE=str(lease_seconds))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def renew_until(lease: LeaseHolder, happened: Callable[[], object], **more: bool) -> None:
    deadline = time.monotonic() + 200
    while not happened():
        assert time.monotonic() < deadline
        lease.renew(**more)
        time.sleep(0.1)


def start_training(run: RunDir) -> tuple[LeaseHolder, int]:
    """Renew the lease until the training runs; return the lease and the pid of its inner process."""
    lease, pids = LeaseHolder(run.path, 1), run.path / "pids"
    renew_until(lease, lambda: pids.exists() and pids.read_text().endswith(" "))
    assert begun_path(run.path, 1).read_text() == "node-7"
    return lease, int(pids.read_text())


def result_of(guard: subprocess.Popen[bytes], run: RunDir) -> NodeReport:
    assert guard.stdout is not None
    guard.wait(200)
    printed = NodeReport(**json.loads(guard.stdout.read().splitlines()[-1]))
    assert read_report(run.path, 1) in (printed, None)
    return printed


def test_nothing_is_left_when_the_lease_is_lost(run: RunDir) -> None:
    with start_guard(run, 15) as guard:
        lease, pid = start_training(run)
        assert_nothing_is_left(guard, run, pid)
        lease.close()


def test_nothing_is_left_when_the_task_is_lost(run: RunDir) -> None:
    with start_guard(run, 300) as guard:
        lease, pid = start_training(run)
        assert psutil.pid_exists(pid) and guard.stdin is not None
        guard.stdin.close()
        guard.stdin = None
        assert_nothing_is_left(guard, run, pid)
        lease.close()


def assert_nothing_is_left(guard: subprocess.Popen[bytes], run: RunDir, pid: int) -> None:
    assert result_of(guard, run).reason == "node_lost"
    assert read_report(run.path, 1) is not None, "the next attempt need not wait"
    assert is_gone(pid)


def test_a_requested_end_is_passed_on(run: RunDir) -> None:
    with start_guard(run, 300) as guard:
        lease, pid = start_training(run)
        renew_until(lease, lambda: guard.poll() is not None, end=True)
        assert result_of(guard, run) == NodeReport(1, -15, result_oom(run), "node-7")
        assert is_gone(pid), "what the training left behind"
        lease.close()


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def result_oom(run: RunDir) -> bool | None:
    """What the machine's count said; other programs may have been killed for memory meanwhile."""
    found = read_report(run.path, 1)
    assert found is not None
    return found.oom


def test_an_old_lease_starts_nothing(run: RunDir) -> None:
    LeaseHolder(run.path, 1).close()
    with start_guard(run, 2) as guard:
        assert result_of(guard, run).reason == "node_lost"
        assert not (run.path / "pids").exists() and not begun_path(run.path, 1).exists()


def test_a_node_with_another_key_is_refused(run: RunDir, tmp_path: Path) -> None:
    for folder, words in ((run.save_dir, "has another key"), (tmp_path / "gone", "does not have the folder")):
        guard = launch_guard(run, FTK_STATE_DIR=str(tmp_path / "another"), FTK_SAVE_DIR=str(folder))
        printed, _ = guard.communicate(timeout=120)
        report = NodeReport(**json.loads(printed.splitlines()[-1]))
        assert report.reason == "node_refused" and words in report.message
