"""Kernel records of kills for memory: the counts include all processes, the log names each of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fakes.run_fixtures import queue
from toolkit.lifecycle import child_watch, claims
from toolkit.lifecycle.child_watch import ChildWorker
from toolkit.lifecycle.claims import explain_run_death, take_claim
from toolkit.system import out_of_memory
from toolkit.system.locks import LockHolder, try_lock, write_lock_holder
from toolkit.system.out_of_memory import find_oom_victims

OWN, OTHER = 4711, 4712


def test_victims_are_read_from_the_kernel_log_since_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = time.monotonic()
    killed = "Memory cgroup out of memory: Killed process {} (python) total-vm:1kB"
    records = [(now - 100, killed.format(1)), (now - 5, killed.format(2)), (now - 4, "eth0: link up"),
               (now - 3, "Out of memory: " + killed.format(3).partition(": ")[2])]  # fmt: skip
    monkeypatch.setattr(out_of_memory, "_read_kernel_log", lambda handle: records)
    monkeypatch.setattr(out_of_memory, "PID_NAMESPACE", tmp_path / "ours")
    out_of_memory.PID_NAMESPACE.symlink_to(out_of_memory.ROOT_PID_NAMESPACE)
    log = tmp_path / "log"
    log.touch()
    assert find_oom_victims(time.time() - 50, log) == {2, 3}
    assert find_oom_victims(time.time() - 50, tmp_path / "none") is None
    monkeypatch.setattr(out_of_memory, "PID_NAMESPACE", tmp_path / "a container's")
    out_of_memory.PID_NAMESPACE.symlink_to("pid:[1]")
    assert find_oom_victims(time.time() - 50, log) is None, "its pids are not those of this namespace"


@pytest.mark.parametrize(
    ("count", "victims", "reason", "outside"),
    [
        (10, None, "killed", True),
        (11, None, "out_of_memory", False),
        (11, {OWN}, "out_of_memory", False),
        (11, {OTHER}, "killed", True),
        (None, None, "killed", False),
    ],
)
def test_a_kill_of_another_program_is_not_attributed_to_the_worker(
    count: int | None,
    victims: set[int] | None,
    reason: str,
    outside: bool,
    save_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = queue(save_dir)
    monkeypatch.setattr(claims, "count_oom_kills", lambda: 10)
    assert take_claim(run)
    handle = try_lock(run.lock_path)
    assert handle is not None
    write_lock_holder(handle, LockHolder(OWN, 0.0, 1, "boot", run.id))
    monkeypatch.setattr(claims, "count_oom_kills", lambda: count)
    monkeypatch.setattr(claims, "find_oom_victims", lambda since: victims)
    why = explain_run_death(run, -9)
    assert (why.reason, why.outside) == (reason, outside)
    if count == 11 and victims is None:  # a count that was read during the run is more precise
        assert explain_run_death(run, -9, earlier_oom_kills=11).reason == "killed"


def test_the_count_of_a_few_seconds_before_the_death_is_kept(monkeypatch: pytest.MonkeyPatch, save_dir: Path) -> None:
    now, count = [100.0], [3]
    monkeypatch.setattr(child_watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(child_watch, "count_oom_kills", lambda: count[0])
    child = ChildWorker(queue(save_dir), None, None)  # type: ignore[arg-type]
    assert child.earlier_oom_kills is None
    seen = []
    for _ in range(16):
        child.record_oom_kills()
        seen.append(child.earlier_oom_kills)
        now[0] += 1.0
        count[0] += 1
    assert seen == [3] * 10 + [8] * 5 + [13]
