"""Several processes that start the same run at once, each with its own supervisor."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import RunDir, find_run_holder
from toolkit.runs.status import read_run_status
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


def race_for_slots(
    save_dir: Path,
    runs: Sequence[RunDir],
    command: CommandBuilder,
    processes: int,
    kills: int,
    rng: random.Random,
    poll_seconds: float = 0.01,
) -> dict[str, int]:
    """Start many runs in many processes at once, and kill -9 some of these processes and of the workers meanwhile.

    Only workers of first attempts are killed: a run gives up after two attempts without a checkpoint. Returns the
    number of runs that did not finish ("lost"), of those with an attempt that did not start exactly one worker
    ("doubled"), of those whose worker found its slot in use ("shared"), and of the processes that were killed.
    """
    context = multiprocessing.get_context("fork")
    # no barrier: a process that is killed while it leaves one takes its lock along, and the others wait for ever
    ready, go = os.pipe(), os.pipe()
    given = (save_dir, runs, command, poll_seconds, ready, go)
    racers = [context.Process(target=_slot_racer, args=given) for _ in range(processes)]
    for racer in racers:
        racer.start()
    for _ in racers:
        assert os.read(ready[0], 1)
    for end in (go[1], go[0], *ready):  # the end of the first one lets all of them go
        os.close(end)
    killed = _kill_some(racers, runs, kills, rng)
    own = Supervisor(save_dir, launcher=LocalLauncher(command), poll_seconds=poll_seconds)
    for run in runs:
        own.run_to_end(run, lambda status: None)
    own.stop()
    for racer in racers:
        racer.join(300)
        assert racer.exitcode in (0, -signal.SIGKILL), f"a process ended with exit code {racer.exitcode}"
    return {
        "lost": sum(read_run_status(run).state != "finished" for run in runs),
        "doubled": sum(not _started_once_each(run) for run in runs),
        "shared": sum((run.path / "double").exists() for run in runs),
        "killed": killed,
    }


def _started_once_each(run: RunDir) -> bool:
    """Return whether each attempt started one worker; one that was killed at once has left no event."""
    began = [event["attempt"] for event in read_events(run.events_path)[0] if event["kind"] == "started"]
    workers = len((run.path / "starts").read_text().split())
    return len(began) == len(set(began)) <= workers <= read_run_status(run).attempt


def _kill_some(racers: Sequence[BaseProcess], runs: Sequence[RunDir], kills: int, rng: random.Random) -> int:
    living, spared, killed = list(racers), list(runs), 0
    deadline = time.monotonic() + 30
    while killed < kills and spared and time.monotonic() < deadline:
        time.sleep(rng.uniform(0, 0.05))
        if rng.random() < 0.5 and len(living) > 1:
            living.pop(rng.randrange(len(living))).kill()
            killed += 1
            continue
        run = rng.choice(spared)
        holder = find_run_holder(run)
        # of the first attempt only: with one that never started it would be the second in a row without a checkpoint
        if holder is not None and holder.attempt == 1 and holder.is_alive():
            with suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGKILL)
            spared.remove(run)
            killed += 1
        elif read_run_status(run).attempt > 1 or read_run_status(run).explained:
            spared.remove(run)
    return killed


def _slot_racer(
    save_dir: Path,
    runs: Sequence[RunDir],
    command: CommandBuilder,
    poll_seconds: float,
    ready: tuple[int, int],
    go: tuple[int, int],
) -> None:
    own = Supervisor(save_dir, launcher=LocalLauncher(command), poll_seconds=poll_seconds)
    os.close(go[1])
    os.write(ready[1], b".")
    os.read(go[0], 1)
    for run in runs:
        own.run_to_end(run, lambda status: None)
