"""Launchers start, watch and end workers; the supervisor needs nothing else of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.fakes.run_fixtures import fake_command, queue, wait_for
from toolkit.config import Config
from toolkit.lifecycle.launcher import ForkLauncher, LocalLauncher, LocalWorker
from toolkit.lifecycle.slots import HeldSlots
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.runs.status import read_run_status
from toolkit.system.locks import LockHolder, try_lock


class FakeLauncher:
    """Starts no process. waits: answer of `should_wait`. log: names of the methods that were called."""

    fast_probe: Callable[[], bytes] | None = None

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.log: list[str] = []

    def maintain(self, *, busy: bool) -> None:
        self.log.append("maintain")

    def should_wait(self, config: Config) -> bool:
        return self.waits

    def start(self, run: RunDir, config: Config, attempt: int, slots: HeldSlots) -> LocalWorker:
        self.log.append(f"start {attempt}")
        raise OSError("this machine starts no processes")

    def end(self, holder: LockHolder) -> bool:
        return False

    def close(self) -> None:
        self.log.append("close")


def start_fake_worker(run: RunDir, launcher: LocalLauncher) -> LocalWorker:
    slot = try_lock(run.slot_path)
    assert slot is not None
    try:
        run.claim_path.touch()
        return launcher.start(run, read_run_config(run), 1, HeldSlots((slot,)))
    finally:
        os.close(slot)


def test_a_local_worker_reports_its_exit_code(save_dir: Path) -> None:
    run = queue(save_dir, steps=1)
    worker = start_fake_worker(run, LocalLauncher(fake_command))
    assert worker.wait(20)
    assert worker.poll() == 0
    assert (worker.holder.run, worker.holder.attempt) == (run.id, 1)


def test_a_local_worker_is_ended_by_its_launcher(save_dir: Path) -> None:
    launcher = LocalLauncher(fake_command)
    run = queue(save_dir, steps=1000, step_seconds=0.02)
    worker = start_fake_worker(run, launcher)
    wait_for(run, lambda status: status.step >= 1)
    assert worker.poll() is None
    assert not worker.wait(0.01)
    assert launcher.end(worker.holder)
    assert worker.wait(20)
    assert not launcher.end(worker.holder), "nothing is left to end"


def test_a_run_that_should_wait_stays_queued(save_dir: Path) -> None:
    run, launcher = queue(save_dir), FakeLauncher(waits=True)
    supervisor = Supervisor(save_dir, launcher=launcher)
    supervisor.tick()
    assert read_run_status(run).state == "queued"
    launcher.waits = False
    supervisor.tick()
    assert launcher.log == ["start 1"]


def test_a_failed_start_fails_the_run(save_dir: Path) -> None:
    run = queue(save_dir)
    Supervisor(save_dir, launcher=FakeLauncher()).tick()
    status = read_run_status(run)
    assert status.state == "failed"
    assert "starts no processes" in status.message


def test_a_run_starts_as_a_new_process_without_a_ready_standby_worker(save_dir: Path) -> None:
    launcher = ForkLauncher(save_dir)
    launcher._local = LocalLauncher(fake_command)
    run = queue(save_dir, steps=1)
    slot = try_lock(run.slot_path)
    assert slot is not None
    worker = launcher.start(run, read_run_config(run), 1, HeldSlots((slot,)))
    os.close(slot)
    assert worker.wait(20)
    assert worker.poll() == 0
    launcher.close()


def test_a_worker_that_ends_at_once_is_described_all_the_same(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pid: int) -> psutil.Process:
        raise psutil.NoSuchProcess(pid)

    run = queue(save_dir, steps=1)
    monkeypatch.setattr("toolkit.runs.worker_process.psutil.Process", gone)
    worker = start_fake_worker(run, LocalLauncher(fake_command))
    assert worker.wait(60)
    assert worker.poll() == 0
    assert not worker.holder.create_time
