"""Locks are held for life, released by any death and not inherited; no foreign process is signaled."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from toolkit.errors import RunError
from toolkit.system import locks as module
from toolkit.system.locks import (
    LockHolder,
    WorkerLock,
    describe_self,
    end_holder_processes,
    hold_lock,
    is_lock_held,
    is_process_alive,
    read_lock_holder,
    try_lock,
)  # fmt: skip


def test_the_lock_is_held_during_the_block(tmp_path: Path) -> None:
    path = tmp_path / "worker.lock"
    assert not is_lock_held(path)
    with WorkerLock(path, 3, "run-1"):
        assert is_lock_held(path)
        assert try_lock(path) is None
        with hold_lock(path) as mine:
            assert not mine
        holder = read_lock_holder(path)
        assert holder is not None
        assert (holder.pid, holder.attempt, holder.run) == (os.getpid(), 3, "run-1")
        assert holder.is_alive()
        assert holder.launcher_pid is None
    assert not is_lock_held(path)


def test_a_second_worker_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 0.1)
    path = tmp_path / "worker.lock"
    with WorkerLock(path), pytest.raises(RunError, match="Another worker"), WorkerLock(path):
        raise AssertionError("two workers hold one lock")


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "worker.lock"
    context = multiprocessing.get_context("fork")
    with WorkerLock(path):
        child = context.Process(target=time.sleep, args=(20,))
        child.start()
        assert is_lock_held(path), "the exit of the child must not release it"
    try:
        deadline = time.monotonic() + 10
        while is_lock_held(path):  # until the child has started
            assert time.monotonic() < deadline, "the child must not keep it"
            time.sleep(0.01)
        assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_a_kill_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "worker.lock"
    script = (
        "import sys, time; from pathlib import Path; from toolkit.system.locks import WorkerLock\n"
        "with WorkerLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(30)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert is_lock_held(path)
    holder = read_lock_holder(path)
    assert holder is not None
    assert holder.is_alive()
    process.kill()
    process.wait()
    assert not is_lock_held(path)
    assert not holder.is_alive()


@pytest.mark.parametrize("body", ["", "{", "[]", '{"pid": 1}', '{"unknown": 1}'])
def test_an_unreadable_body_is_none(tmp_path: Path, body: str) -> None:
    (tmp_path / "lock").write_text(body)
    assert read_lock_holder(tmp_path / "lock") is None
    assert read_lock_holder(tmp_path / "missing") is None


def test_a_process_is_identified_by_pid_and_start_time() -> None:
    me = describe_self(1)
    assert is_process_alive(me.pid, me.create_time)
    assert not is_process_alive(me.pid, me.create_time - 10)
    assert not is_process_alive(0, 0.0)
    assert not replace(me, boot="another start of the machine").is_alive()


@pytest.mark.parametrize("change", [{"create_time": 1.0}, {"boot": "another"}, {"pid": 0}])
def test_no_process_is_signaled_unless_everything_matches(change: dict[str, object]) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        began = psutil.Process(process.pid).create_time()
        holder = replace(LockHolder(process.pid, began, 1, module.boot_id()), **change)  # type: ignore[arg-type]
        assert end_holder_processes(holder, 0.1) is False
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_the_launcher_and_all_ranks_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import subprocess, sys, time\n"
        "rank = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "for _ in range(2): subprocess.Popen(rank, start_new_session=True)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert launcher.stdout is not None
    launcher.stdout.readline()
    top = psutil.Process(launcher.pid)
    first, second = top.children()
    holder = LockHolder(first.pid, first.create_time(), 1, module.boot_id(), "r", launcher.pid, top.create_time())
    assert end_holder_processes(holder, 2) is True
    launcher.wait(5)
    assert not first.is_running()
    assert not second.is_running()


def test_a_rank_records_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert describe_self(1).launcher_pid == os.getppid()
