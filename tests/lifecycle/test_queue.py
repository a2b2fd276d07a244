"""The order of the queue: by age until a run is moved, and kept across restarts."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.run_fixtures import fake_command
from tests.fakes.run_fixtures import queue as queue_run
from toolkit.errors import RunError
from toolkit.lifecycle import queue as module
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.queue import list_queued_runs, move_queued_run
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import RunDir, request_run_stop
from toolkit.system.locks import try_lock


def names(save_dir: Path) -> list[str]:
    return [run.id for run in list_queued_runs(save_dir)]


def test_runs_are_ordered_by_age_until_one_is_moved(save_dir: Path) -> None:
    a, b, c = (queue_run(save_dir) for _ in range(3))
    assert names(save_dir) == [a.id, b.id, c.id]
    assert move_queued_run(c, "first")
    assert names(save_dir) == [c.id, a.id, b.id]
    assert move_queued_run(a, "down")
    assert names(save_dir) == [c.id, b.id, a.id]
    assert move_queued_run(a, "up")
    assert not move_queued_run(c, "up")
    assert not move_queued_run(c, "first")
    assert not move_queued_run(b, "down")
    assert names(save_dir) == [c.id, a.id, b.id]
    later = queue_run(save_dir)
    assert names(save_dir) == [c.id, a.id, b.id, later.id]


def test_the_supervisor_keeps_the_order_after_a_restart(save_dir: Path, supervisor: Supervisor) -> None:
    runs = [queue_run(save_dir, steps=1) for _ in range(3)]
    move_queued_run(runs[2], "first")
    move_queued_run(runs[0], "down")
    request_run_stop(runs[1])  # canceled: no run waits for it
    another = Supervisor(save_dir, launcher=LocalLauncher(fake_command), poll_seconds=0.02)
    another.run_to_end(runs[0], lambda status: None)
    began = {run.id: read_events(run.events_path)[0][0]["t"] for run in (runs[2], runs[0])}
    assert began[runs[2].id] < began[runs[0].id]
    assert not runs[1].events_path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99, "order": ["x"]}', '{"schema": 1, "order": null}'])
def test_an_unreadable_file_means_order_by_age(save_dir: Path, text: str) -> None:
    a, b = queue_run(save_dir), queue_run(save_dir)
    module._queue_path(save_dir).write_text(text)
    assert names(save_dir) == [a.id, b.id]
    assert move_queued_run(b, "first")
    assert names(save_dir) == [b.id, a.id]


def test_a_locked_queue_is_an_error(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, b = queue_run(save_dir), queue_run(save_dir)
    monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 0.05)
    handle = try_lock(module._queue_path(save_dir).with_suffix(".lock"))
    assert handle is not None
    with pytest.raises(RunError, match="another program"):
        move_queued_run(b, "up")
    os.close(handle)


def shuffle(save_dir: Path, runs: list[RunDir], barrier: threading.Barrier, seed: int) -> None:
    rng = random.Random(seed)
    barrier.wait()
    for _ in range(20):
        move_queued_run(rng.choice(runs), rng.choice(["first", "up", "down"]))


def test_many_may_move_at_once_and_no_run_is_lost(save_dir: Path) -> None:
    runs = [queue_run(save_dir) for _ in range(6)]
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    movers = [context.Process(target=shuffle, args=(save_dir, runs, barrier, seed)) for seed in range(4)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join(60)
    assert [mover.exitcode for mover in movers] == [0] * 4
    assert sorted(names(save_dir)) == sorted(run.id for run in runs)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["first", "up", "down"])), max_size=12))
def test_moves_do_what_a_list_would(tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, str]]) -> None:
    save_dir = tmp_path_factory.mktemp("queue")
    runs = [queue_run(save_dir) for _ in range(4)]
    model = [run.id for run in runs]
    for number, where in moves:
        at = model.index(runs[number].id)
        to = {"first": 0, "up": at - 1, "down": at + 1}[where]
        moved = move_queued_run(runs[number], where)  # type: ignore[arg-type]
        assert moved == (to != at and 0 <= to < 4)
        if moved:
            model.insert(to, model.pop(at))
        assert names(save_dir) == model
