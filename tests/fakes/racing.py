"""Several processes that start the same run at once, each with its own supervisor."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import RunDir
from toolkit.runs.worker_process import CommandBuilder


def race(
    make_run: Callable[[], RunDir], command: CommandBuilder, processes: int, timeout: float = 120
) -> tuple[int, int]:
    """Start one new run in several processes at once; return (worker processes, attempts) that started."""
    run = make_run()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(processes)
    racers = [context.Process(target=_racer, args=(run.save_dir, run, command, barrier)) for _ in range(processes)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout)
        if racer.exitcode != 0:
            racer.kill()
            raise AssertionError(f"a process ended with exit code {racer.exitcode}")
    began = [event for event in read_events(run.events_path)[0] if event["kind"] == "started"]
    return len((run.path / "starts").read_text().split()), len(began)


def _racer(save_dir: Path, run: RunDir, command: CommandBuilder, barrier: threading.Barrier) -> None:
    own = Supervisor(save_dir, launcher=LocalLauncher(command), poll_seconds=0.01)
    barrier.wait()
    own.run_to_end(run, lambda status: None)
