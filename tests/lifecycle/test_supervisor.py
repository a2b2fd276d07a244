"""The supervisor with real processes: each run starts once, one at a time, and every end is explained."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.run_fixtures import FAKE, fake_command, queue, wait_for
from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.lifecycle import supervisor as module
from toolkit.lifecycle.claims import read_claim, read_log_tail
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.resume_policy import request_resume
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import (
    RunDir,
    approve_run,
    create_run,
    delete_run,
    is_run_approved,
    kill_run,
    list_runs,
    request_run_stop,
)
from toolkit.runs.status import read_run_status
from toolkit.system.locks import is_lock_held, is_process_alive, read_lock_holder


def over(status) -> bool:
    return status.explained


def running(status) -> bool:
    return status.state == "running" and status.step >= 1


def kinds(run: RunDir) -> list[str]:
    return [event["kind"] for event in read_events(run.events_path)[0]]


def test_a_queued_run_is_started_and_finishes(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir)
    assert read_run_status(run).state == "queued"
    seen = []
    status = supervisor.run_to_end(run, lambda status: seen.append(status.state))
    assert status.state == "finished"
    assert (status.step, status.total_steps, status.fraction) == (3, 3, 1.0)
    assert status.scores["exact_match"] == 1.0
    assert "starting" in seen
    assert not is_lock_held(run.slot_path)


class CountingLauncher(LocalLauncher):
    """A launcher that counts how often it was asked to keep the next start ready."""

    kept_ready = 0

    def maintain(self, *, busy: bool) -> None:
        self.kept_ready += 1


def test_the_next_start_is_kept_ready_only_while_others_follow(save_dir: Path) -> None:
    launcher = CountingLauncher(fake_command)
    supervisor = Supervisor(save_dir, launcher=launcher, poll_seconds=0.02)
    assert supervisor.run_to_end(queue(save_dir), lambda status: None).state == "finished"
    assert launcher.kept_ready == 0, "a single run would wait for imports that serve nothing else"
    seen: list[int] = []
    status = supervisor.run_to_end(queue(save_dir), lambda status: seen.append(launcher.kept_ready), others_follow=True)
    assert status.state == "finished"
    assert seen == list(range(1, len(seen) + 1)), "before every poll"


def test_runs_train_one_at_a_time_oldest_first(save_dir: Path, supervisor: Supervisor) -> None:
    runs = [queue(save_dir, name=str(index), step_seconds=0.05) for index in range(3)]
    assert [run.id for run in runs] == sorted(run.id for run in runs)
    supervisor.run_to_end(runs[-1], lambda status: None)
    spans = [(events[0]["t"], events[-1]["t"]) for events in (read_events(run.events_path)[0] for run in runs)]
    assert spans == sorted(spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("how", "reason", "words"),
    [
        ("kill", "killed", "killed from outside"),
        ("segv", "native_crash", "SIGSEGV"),
        ("abort", "native_crash", "SIGABRT"),
        ("exit", "bug", "exit code 3"),
        ("raise", "bug", "a wrong turn"),
        ("oom", "out_of_memory", "ran out of memory"),
    ],
)
def test_every_death_is_explained_and_the_queue_continues(
    save_dir: Path, supervisor: Supervisor, how: str, reason: str, words: str
) -> None:
    run = queue(save_dir, die=how, die_at=2)
    after = queue(save_dir, steps=1)
    assert supervisor.run_to_end(after, lambda status: None).state == "finished"
    status = read_run_status(run)
    assert (status.state, status.reason) == ("failed", reason)
    assert words in status.message
    assert status.hint
    assert kinds(run).count("failed") == 1
    # a reason that a second attempt may survive is retried once; a bug is not
    assert status.attempt == kinds(run).count("started") == (1 if reason == "bug" else 2)
    assert ("second attempt in a row" in status.message) == (reason != "bug")
    assert "last words" in read_log_tail(run, lines=30)


def test_a_stop_lets_the_worker_finish_its_step(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=1000, step_seconds=0.02)
    wait_for(run, running, supervisor)
    request_run_stop(run)
    assert read_run_status(run).state in ("stopping", "stopped")
    status = wait_for(run, over, supervisor)
    assert status.state == "stopped"
    assert 1 <= status.step < 1000


def test_a_stopped_queued_run_is_canceled_and_never_starts(save_dir: Path, supervisor: Supervisor) -> None:
    first, second, third = queue(save_dir), queue(save_dir), queue(save_dir)
    request_run_stop(second)
    assert kill_run(third) is False
    supervisor.run_to_end(first, lambda status: None)
    assert [read_run_status(run).state for run in (second, third)] == ["cancelled", "cancelled"]
    for _ in range(3):
        supervisor.tick()
    assert not second.claim_path.exists()
    assert not second.events_path.exists()


def test_a_kill_ends_an_unresponsive_worker_and_its_children(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=1000, step_seconds=0.02, deaf=True, children=2)
    wait_for(run, running, supervisor)
    holder = read_lock_holder(run.lock_path)
    assert holder is not None
    assert os.getpgid(holder.pid) == holder.pid, "the worker leads its own process group"
    children = [(p.pid, p.create_time()) for p in module_children(holder.pid)]
    assert len(children) == 2
    assert kill_run(run, grace_seconds=0.3) is True
    assert not holder.is_alive()
    assert not any(is_process_alive(pid, began) for pid, began in children)
    status = wait_for(run, over, supervisor)
    assert status.state == "stopped"
    assert "on request" in status.message


def module_children(pid: int):
    import psutil

    return psutil.Process(pid).children(recursive=True)


def test_a_reused_pid_is_not_signaled(save_dir: Path) -> None:
    run = queue(save_dir)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    holder = {"pid": bystander.pid, "create_time": 1.0, "pgid": bystander.pid, "attempt": 1}
    script = (
        f"import fcntl, os, time; h = os.open({str(run.lock_path)!r}, os.O_CREAT | os.O_RDWR); "
        "fcntl.flock(h, fcntl.LOCK_EX); print('held', flush=True); time.sleep(30)"
    )
    keeper = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"held\n"
        run.lock_path.write_text(json.dumps({**holder, "boot": module.boot_id(), "run": run.id}))
        assert kill_run(run, 0.2) is False
        assert bystander.poll() is None
    finally:
        for process in (bystander, keeper):
            process.kill()
            process.wait()


def test_a_new_supervisor_finds_the_running_worker(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=40, step_seconds=0.02)
    waiting = queue(save_dir, steps=1)
    wait_for(run, running, supervisor)
    supervisor.stop()  # the app ends, the worker continues
    another = Supervisor(save_dir, launcher=LocalLauncher(fake_command))
    another.tick()
    assert read_run_status(run).state == "running"
    assert read_run_status(waiting).state == "queued"
    assert wait_for(waiting, over, another).state == "finished"
    assert read_run_status(run).state == "finished"
    assert kinds(run).count("started") == 1


def test_a_run_survives_the_death_of_the_app(save_dir: Path, supervisor: Supervisor) -> None:
    going = queue(save_dir, steps=50, step_seconds=0.02)
    context = multiprocessing.get_context("fork")
    app = context.Process(target=tick_for_ever, args=(save_dir,))
    app.start()
    wait_for(going, running)
    assert app.pid is not None
    os.kill(app.pid, signal.SIGKILL)
    app.join()
    dies = queue(save_dir, die="kill", die_at=2)
    assert wait_for(going, over, supervisor).state == "finished"
    assert wait_for(dies, over, supervisor).state == "failed"


def tick_for_ever(save_dir: Path) -> None:
    own = Supervisor(save_dir, launcher=LocalLauncher(fake_command))
    while True:
        own.tick()
        time.sleep(0.02)


def test_a_run_resumes_after_worker_and_app_have_died(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=1000, step_seconds=0.02)
    app = multiprocessing.get_context("fork").Process(target=tick_for_ever, args=(save_dir,))
    app.start()
    wait_for(run, running)
    holder = read_lock_holder(run.lock_path)
    assert holder is not None
    assert app.pid is not None
    os.kill(app.pid, signal.SIGKILL)
    os.kill(holder.pid, signal.SIGKILL)
    app.join()
    wait_for(run, lambda status: status.state == "interrupted")
    status = wait_for(run, lambda status: status.state == "running" and status.attempt == 2, supervisor)
    assert kinds(run).count("interrupted") == 1
    assert not status.message


def test_a_claimed_attempt_that_never_started_is_retried(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir)
    run.claim_path.write_text("")  # the process that claimed it died before it had written the claim
    assert read_run_status(run).state == "interrupted"
    status = wait_for(run, over, supervisor)
    assert (status.state, status.attempt) == ("finished", 2)
    assert kinds(run)[:2] == ["interrupted", "started"]


def test_the_slot_is_held_until_the_worker_has_its_own_lock(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, before_lock=0.6, steps=1)
    waiting = queue(save_dir, steps=1)
    supervisor.tick()
    supervisor.stop()  # even if the app ends right after the start
    assert read_run_status(run).state == "starting"
    with pytest.raises(RunError, match="still running"):
        delete_run(run)
    another = Supervisor(save_dir, launcher=LocalLauncher(fake_command))
    another.tick()
    assert read_run_status(waiting).state == "queued"
    wait_for(waiting, over, another)
    assert kinds(run).count("started") == 1
    assert read_run_status(run).state == "finished"


def test_eight_processes_start_each_run_once_and_one_at_a_time(save_dir: Path) -> None:
    runs = [queue(save_dir, steps=2) for _ in range(4)]
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(8)
    racers = [context.Process(target=race, args=(save_dir, barrier, runs[-1])) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(30)
    assert [racer.exitcode for racer in racers] == [0] * 8
    assert [read_run_status(run).state for run in runs] == ["finished"] * 4
    assert [kinds(run).count("started") for run in runs] == [1] * 4
    spans = [(events[0]["t"], events[-1]["t"]) for events in (read_events(run.events_path)[0] for run in runs)]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def race(save_dir: Path, barrier: threading.Barrier, last: RunDir) -> None:
    own = Supervisor(save_dir, launcher=LocalLauncher(fake_command), poll_seconds=0.01)
    barrier.wait()
    own.run_to_end(last, lambda status: None)


def test_a_run_that_cannot_start_does_not_affect_others(save_dir: Path, supervisor: Supervisor) -> None:
    broken = queue(save_dir)
    broken.config_path.write_text("# finetuning-toolkit config, schema 99\n")
    good = queue(save_dir, steps=1)
    assert supervisor.run_to_end(good, lambda status: None).state == "finished"
    status = read_run_status(broken)
    assert status.state == "failed"
    assert "newer version" in status.message


def test_a_missing_interpreter_fails_the_run(save_dir: Path) -> None:
    own = Supervisor(save_dir, launcher=LocalLauncher(lambda run, config: ["/nonexistent/python"]))
    run = queue(save_dir)
    status = own.run_to_end(run, lambda status: None)
    assert status.state == "failed"
    assert "/nonexistent/python" in status.message
    assert not is_lock_held(run.slot_path)


def test_an_error_with_one_run_does_not_affect_others(
    save_dir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = queue(save_dir), queue(save_dir, steps=1)
    true_claim = module.take_claim

    def claim(run: RunDir, *how: Any) -> bool:
        if run.id == bad.id:
            raise OSError(28, "No space left on device")
        return true_claim(run, *how)

    monkeypatch.setattr(module, "take_claim", claim)
    assert supervisor.run_to_end(good, lambda status: None).state == "finished"
    assert read_run_status(bad).state == "queued"


def test_a_temporarily_unreadable_folder_does_not_end_the_supervisor(
    save_dir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue(save_dir, steps=1)
    true_list = module.list_runs
    trouble = iter([OSError(116, "Stale file handle"), FileNotFoundError("deleted between two looks")])

    def listed(folder: Path) -> list[RunDir]:
        for error in trouble:
            raise error
        return true_list(folder)

    monkeypatch.setattr(module, "list_runs", listed)
    assert supervisor.run_to_end(run, lambda status: None).state == "finished"


def test_an_end_that_cannot_be_written_is_retried_after_a_pause(
    save_dir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue(save_dir, die="exit", die_at=1)
    tried = []

    def close(dead: RunDir, *what: int | None) -> bool:
        tried.append(dead.id)
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(module, "close_dead_attempt", close)
    deadline = time.monotonic() + 20
    while not tried and time.monotonic() < deadline:
        supervisor.tick()
        time.sleep(0.02)
    for _ in range(5):
        supervisor.tick()
    assert tried == [run.id]


def test_a_worker_that_does_not_exit_is_ended(
    save_dir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORKER_LINGER_SECONDS", 0.3)
    run = queue(save_dir, steps=1, linger=60)
    waiting = queue(save_dir, steps=1)
    assert wait_for(waiting, over, supervisor).state == "finished"
    assert read_run_status(run).state == "finished"


def test_one_supervisor_per_save_dir_is_started(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "probe_machine_in_background", lambda *_: None)
    first = Supervisor(save_dir, launcher=LocalLauncher(fake_command), poll_seconds=0.02)
    second = Supervisor(save_dir, launcher=LocalLauncher(fake_command))
    try:
        first.start()
        first.start()
        second.start()
        names = [thread.name for thread in threading.enumerate() if str(save_dir) in thread.name]
        assert len(names) == 1
        assert not second.is_alive
        run = queue(save_dir, steps=1)
        assert wait_for(run, over).state == "finished"
    finally:
        first.stop()
    second.start()
    assert second.is_alive
    second.stop()


def test_a_running_run_cannot_be_deleted(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=1000, step_seconds=0.02)
    wait_for(run, running, supervisor)
    with pytest.raises(RunError, match="still running"):
        delete_run(run)
    kill_run(run, 1)
    wait_for(run, over, supervisor)
    delete_run(run)
    assert list_runs(save_dir) == []
    assert not list((save_dir / "runs").glob(".trash-*"))
    supervisor.tick()


def test_the_worker_command_contains_no_user_text(save_dir: Path) -> None:
    from toolkit.runs.worker_process import worker_command, worker_environment

    run = create_run(Config(save_dir=str(save_dir)), None, name="; rm -rf /")
    assert worker_command(run, Config()) == [sys.executable, "-m", "toolkit.worker.train", run.id]
    environment = worker_environment(run, Config(), 1)
    assert environment["FTK_SAVE_DIR"] == str(save_dir)
    assert environment["HF_HUB_OFFLINE"] == os.environ.get("HF_HUB_OFFLINE", "1")
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    assert FAKE.exists()
    assert read_claim(run) is None


def test_runs_of_a_folder_that_is_new_to_this_app_wait_for_a_persons_word(
    save_dir: Path, tmp_path: Path, supervisor: Supervisor
) -> None:
    elsewhere = queue(tmp_path / "elsewhere", steps=1)
    run = RunDir(save_dir / "runs" / elsewhere.id)
    shutil.copytree(elsewhere.path, run.path)
    for approved in (json.loads(run.meta_path.read_bytes())["approved"], None, "", 7, "0" * 64):
        meta = {**json.loads(run.meta_path.read_bytes()), "approved": approved}
        run.meta_path.write_text(json.dumps({name: value for name, value in meta.items() if value is not None}))
        supervisor._paused_until.clear()
        supervisor.tick()
        assert read_run_status(run).state == "queued"
    own = queue(save_dir, steps=1)
    wait_for(own, lambda status: status.state == "finished", supervisor)  # one that waits does not hold up the queue
    assert read_run_status(run).state == "queued"
    approve_run(run)
    wait_for(run, lambda status: status.state == "finished", supervisor)


def test_a_resume_is_a_persons_word(save_dir: Path, tmp_path: Path, supervisor: Supervisor) -> None:
    elsewhere = queue(tmp_path / "elsewhere", steps=1)
    request_run_stop(elsewhere)
    run = RunDir(save_dir / "runs" / elsewhere.id)
    shutil.copytree(elsewhere.path, run.path)
    assert not is_run_approved(run)
    request_resume(run)
    wait_for(run, lambda status: status.state == "finished", supervisor)
