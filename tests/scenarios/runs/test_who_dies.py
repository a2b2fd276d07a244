"""Any process may die at any moment: the run still ends correctly, once, without help. A benchmark does many more."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.run_fixtures import fake_command, queue, wait_for
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import RunDir, request_run_stop
from toolkit.runs.status import read_run_status
from toolkit.system.locks import read_lock_holder

MOMENTS = ("queued", "starting", "loading", "training", "saving", "evaluating", "stopping")
VICTIMS = ("worker", "app", "both")
PATIENCE = 60.0


def app(save_dir: Path) -> None:
    own = Supervisor(save_dir, launcher=LocalLauncher(fake_command))
    while True:
        own.tick()
        time.sleep(0.02)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def started(run: RunDir) -> list[int]:
    """Return the attempts that started, in order."""
    return [event["attempt"] for event in read_events(run.events_path)[0] if event["kind"] == "started"]


@pytest.mark.parametrize(("victim", "moment"), list(itertools.product(VICTIMS, MOMENTS)))
def test_a_run_survives_the_death_of_any_process(
    victim: str, moment: str, save_dir: Path, supervisor: Supervisor
) -> None:
    before = queue(save_dir, steps=4, save_every=2, hold="training") if moment == "queued" else None
    hold = "starting" if moment == "queued" else moment
    run = queue(save_dir, steps=4, save_every=2, **({} if before else {"hold": hold}))
    watched = before or run
    process = multiprocessing.get_context("fork").Process(target=app, args=(save_dir,))
    process.start()
    try:
        if moment == "stopping":
            until(lambda: bool(started(run)), "it never began")
            request_run_stop(run)
        until((watched.path / "here").exists, f"it never came to {moment}")
        if victim in ("worker", "both"):
            kill_worker(watched)
        if victim in ("app", "both"):
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        (watched.path / "go").touch()
        watcher = supervisor if victim != "worker" else None  # the app is opened again
        status = wait_for(run, lambda status: status.explained, watcher)
    finally:
        process.kill()
        process.join()
    dies = victim != "app"
    expected = "stopped" if moment == "stopping" else "finished"
    assert status.state == expected
    assert started(run) == sorted(set(started(run))), "an attempt started twice"
    assert len(started(watched)) == 1 + dies - (dies and moment in ("starting", "stopping"))
    if before:
        assert read_run_status(before).state == "finished"
        assert len(started(run)) == 1


def kill_worker(run: RunDir) -> None:
    """Find the worker by its lock, or by the file that it writes at its start."""
    holder = read_lock_holder(run.lock_path)
    pid = holder.pid if holder and holder.pid else int((run.path / "starts").read_text().split()[-1])
    os.kill(pid, signal.SIGKILL)
