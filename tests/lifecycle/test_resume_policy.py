"""A run goes on by itself when it was ended from outside, and stops when going on leads nowhere."""

from __future__ import annotations

import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.run_fixtures import fake_command, queue, wait_for
from toolkit.errors import RunError
from toolkit.lifecycle import claims, resume_policy
from toolkit.lifecycle import supervisor as supervising
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.resume_policy import (
    RETRYABLE_REASONS,
    can_resume,
    close_attempt,
    count_attempts_without_checkpoint,
    count_attempts_without_progress,
    ended_from_outside,
    list_attempts_without_checkpoint,
    request_resume,
)
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.end_reasons import Explanation
from toolkit.runs.events import EventWriter, read_events
from toolkit.runs.run_dir import RunDir, kill_run, request_run_stop
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.locks import read_lock_holder


def kinds(run: RunDir) -> list[str]:
    return [event["kind"] for event in read_events(run.events_path)[0]]


def past(step: int, attempt: int = 1):
    return lambda status: status.state == "running" and status.step >= step and status.attempt == attempt


def over(status: RunStatus) -> bool:
    return status.explained


def test_a_killed_worker_resumes_from_its_checkpoint(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=8, save_every=3, die="kill", die_at=5, dying=1)
    waits = queue(save_dir, steps=1)
    status = supervisor.run_to_end(run, lambda status: None)
    assert (status.state, status.attempt, status.step, status.saved_step) == ("finished", 2, 8, 6)
    events = read_events(run.events_path)[0]
    (broke,) = (event for event in events if event["kind"] == "interrupted")
    assert broke["reason"] == "killed"
    assert [event["step"] for event in events if event["kind"] == "log"] == [1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert [event["step"] for event in events if event["kind"] == "resumed"] == [3]
    wait_for(waits, over, supervisor)
    assert events[-1]["t"] <= read_events(waits.events_path)[0][0]["t"], (
        "the older run goes first, also when it resumes"
    )


def test_two_attempts_without_a_checkpoint_fail_the_run_until_a_user_resumes(
    save_dir: Path, supervisor: Supervisor
) -> None:
    run = queue(save_dir, steps=8, save_every=3, die="segv", die_at=5, dying=3)
    status = supervisor.run_to_end(run, lambda status: None)
    # the first attempt saved at step 3; the second and third did not reach step 6
    assert (status.state, status.attempt, status.reason) == ("failed", 3, "native_crash")
    assert "second attempt in a row" in status.message
    assert "Resume" in status.hint
    assert can_resume(status)
    request_resume(run)
    status = read_run_status(run)
    assert (status.state, status.explained, status.coming) == ("queued", False, 4)
    assert supervisor.run_to_end(run, lambda status: None).state == "finished"
    assert kinds(run).count("started") == 4


def test_a_paused_run_resumes_on_request(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=300, step_seconds=0.01, save_every=1)
    wait_for(run, past(3), supervisor)
    request_run_stop(run, pause=True)
    status = wait_for(run, over, supervisor)
    assert status.state == "paused"
    for _ in range(3):
        supervisor.tick()
    assert read_run_status(run).state == "paused", "nobody requested a resume"
    stopped_at = status.step
    request_resume(run)
    status = wait_for(run, past(stopped_at + 1, 2), supervisor)
    request_run_stop(run)
    status = wait_for(run, over, supervisor)
    assert (status.state, can_resume(status)) == ("stopped", True)
    logged = [event["step"] for event in read_events(run.events_path)[0] if event["kind"] == "log"]
    assert logged == sorted(set(logged)), "no step was trained twice"


def test_a_run_that_waits_to_resume_can_be_stopped(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=8)
    with EventWriter(run.events_path, 1) as events:
        events.append("started")
        events.append("interrupted", reason="killed", message="m", hint="h")
    run.claim_path.write_text("{}")
    status = read_run_status(run)
    assert (status.state, status.message, status.explained) == ("queued", "m", False)
    request_run_stop(run)
    supervisor.tick()
    status = read_run_status(run)
    assert (status.state, status.explained) == ("stopped", True)
    assert kinds(run) == ["started", "interrupted"]
    request_resume(run)
    assert read_run_status(run).state == "queued"
    assert supervisor.run_to_end(run, lambda status: None).state == "finished"


def test_a_canceled_run_can_be_queued_again(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=1)
    request_run_stop(run)
    supervisor.tick()
    assert read_run_status(run).state == "cancelled"
    request_resume(run)
    assert supervisor.run_to_end(run, lambda status: None).state == "finished"
    with pytest.raises(RunError, match="finished"):
        request_resume(run)


def test_a_running_run_cannot_be_resumed(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=1000, step_seconds=0.02)
    wait_for(run, past(1), supervisor)
    with pytest.raises(RunError, match="still running"):
        request_resume(run)


def test_a_requested_kill_is_not_retried(save_dir: Path, supervisor: Supervisor) -> None:
    run = queue(save_dir, steps=1000, step_seconds=0.02, save_every=1)
    wait_for(run, past(2), supervisor)
    kill_run(run, 0.2)
    status = wait_for(run, over, supervisor)
    assert status.state == "stopped"
    for _ in range(3):
        supervisor.tick()
    assert kinds(run).count("started") == 1


def test_a_run_resumes_after_a_reboot(save_dir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    run = queue(save_dir, steps=30, step_seconds=0.02, save_every=1)
    wait_for(run, past(2), supervisor)
    supervisor.stop()
    holder = read_lock_holder(run.lock_path)
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)
    monkeypatch.setattr(claims, "boot_id", lambda: "another boot")
    monkeypatch.setattr(supervising, "FOREIGN_GRACE_SECONDS", 0.2)
    another = Supervisor(save_dir, launcher=LocalLauncher(fake_command))
    status = another.run_to_end(run, lambda status: None)
    assert (status.state, status.attempt) == ("finished", 2)
    (broke,) = (event for event in read_events(run.events_path)[0] if event["kind"] == "interrupted")
    assert "restarted" in broke["message"]


def test_a_run_waits_for_disk_space_without_blocking_others(
    save_dir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    free = [10]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, free[0]))
    run, other = queue(save_dir, steps=3, save_every=1), queue(save_dir, steps=1)
    with EventWriter(run.events_path, 1) as events:
        events.append("started")
        close_attempt(events, [], Explanation("disk_full", "The disk is full.", "Free space."))
    run.claim_path.write_text("{}")
    assert supervisor.run_to_end(other, lambda status: None).state == "finished"
    status = read_run_status(run)
    assert (status.state, status.reason, status.message) == ("queued", "disk_full", "The disk is full.")
    free[0] = 10**9
    assert supervisor.run_to_end(run, lambda status: None).state == "finished"


def test_elapsed_time_counts_only_the_time_of_running_workers(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = queue(save_dir)
    now = [1000.0]
    monkeypatch.setattr("toolkit.runs.events.time.time", lambda: now[0])
    with EventWriter(run.events_path, 1) as events:
        events.append("started")
        now[0] += 10
        events.append("progress", step=4)
        now[0] += 3600
        events.append("interrupted", reason="killed", message="", hint="")
    with EventWriter(run.events_path, 2) as events:
        events.append("started")
        events.append("resumed", step=2)
        now[0] += 5
        assert read_run_status(run).step == 2
        events.append("finished", step=8)
    assert read_run_status(run).elapsed_s == 15


@pytest.mark.parametrize(
    ("saved", "requeued", "attempt", "count"),
    [([], [], 1, 1), ([], [], 2, 2), ([1], [], 2, 1), ([1, 2], [], 2, 0), ([1], [3], 4, 1), ([], [3], 5, 2)],
)
def test_attempts_without_a_checkpoint_are_counted(
    saved: list[int], requeued: list[int], attempt: int, count: int
) -> None:
    events = [{"kind": "saved", "attempt": one} for one in saved]
    events += [{"kind": "requeued", "attempt": one} for one in requeued]
    assert count_attempts_without_checkpoint(events, attempt) == count


@pytest.mark.parametrize(
    ("began", "attempt", "count"), [([1], 2, 1), ([1], 3, 2), ([1, 3], 3, 2), ([], 2, 2), ([1, 2], 2, 2)]
)
def test_one_attempt_that_never_started_is_not_counted(began: list[int], attempt: int, count: int) -> None:
    assert count_attempts_without_checkpoint([{"kind": "started", "attempt": one} for one in began], attempt) == count


def ended(attempt: int, reached: int | None = None, *, outside: bool = True, saved: bool = False) -> list[Any]:
    """The events of an attempt that was ended at this step; None: before it began to train."""
    events: list[Any] = [{"kind": "started", "attempt": attempt}]
    if reached is not None:
        events += [{"kind": "plan", "attempt": attempt}, {"kind": "log", "attempt": attempt, "step": reached}]
    events += [{"kind": "saved", "attempt": attempt, "step": reached}] if saved else []
    return [*events, {"kind": "interrupted", "attempt": attempt, **({"outside": True} if outside else {})}]


def test_an_attempt_killed_while_loading_is_not_counted() -> None:
    events = ended(1, 5) + ended(2) + ended(3)
    assert list_attempts_without_checkpoint(events, 3) == [3, 2, 1]
    assert count_attempts_without_checkpoint(events, 3) == 1, "the first one had started to train"
    assert count_attempts_without_checkpoint(events + ended(4, 5), 4) == 2
    assert count_attempts_without_checkpoint(ended(1, outside=False) + ended(2, outside=False), 2) == 2, (
        "the run itself is the cause"
    )
    before = [event for event in ended(1) if event["kind"] != "interrupted"]
    assert [count_attempts_without_checkpoint(before, 1, ended_from_outside=outside) for outside in (True, False)] == [
        0,
        1,
    ]
    assert [ended_from_outside(events, attempt) for attempt in (0, 1, 2, 4)] == [False, True, True, False]


def test_attempts_without_progress_are_counted_whatever_ends_them() -> None:
    events = ended(1, 7, saved=True) + ended(2, 6, saved=True) + ended(3, 7) + ended(4)
    assert [count_attempts_without_progress(events, attempt) for attempt in (1, 2, 3, 4)] == [0, 1, 2, 3]
    assert count_attempts_without_progress(events + ended(5, 8), 5) == 0
    assert count_attempts_without_progress([*events, {"kind": "requeued", "attempt": 4}, *ended(5, 3)], 5) == 0


def test_a_run_killed_repeatedly_while_loading_fails_in_the_end(
    save_dir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_policy, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 4)
    run = queue(save_dir, steps=3, hold="loading", holds=True)
    status = read_run_status(run)
    while not status.explained:
        until = wait_for(run, lambda status: status.explained or holding(run, status.attempt), supervisor)
        if not until.explained:
            holder = read_lock_holder(run.lock_path)
            assert holder is not None
            os.kill(holder.pid, signal.SIGKILL)
            status = wait_for(run, lambda now, seen=until: now.explained or now.attempt > seen.attempt, supervisor)  # type: ignore[misc]
        else:
            status = until
    assert (status.state, status.attempt) == ("failed", 4)
    assert "4th attempt in a row without a new step" in status.message
    assert can_resume(status)


def holding(run: RunDir, attempt: int) -> bool:
    here = run.path / "here"
    return attempt > 0 and here.exists() and here.read_text() == str(attempt)


def test_all_retryable_reasons_exist() -> None:
    import inspect

    from toolkit.cluster import lease
    from toolkit.runs import end_reasons
    from toolkit.worker import train

    text = inspect.getsource(end_reasons) + inspect.getsource(lease) + Path(train.__file__).read_text()
    assert all(f'"{reason}"' in text for reason in RETRYABLE_REASONS)
