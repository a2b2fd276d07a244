"""What an open page costs: a run with 50,000 points that goes on, ten such runs in one chart, and a training beside it.

    PYTHONPATH=. python -m benchmarks.live_page [--points 50000] [--seconds 20] [--pairs 4] [--json FILE]

The app is the real one; `open_page.py` holds the page open. Prints, for each page: p50 and p95 of its reruns, the
CPU time of the app's process for each refresh, the bytes sent. Then a real training runs alone and with the live page
open, in turns: the ratio of its steps a second, pair by pair. CPU times hold on a busy machine; wall times and the
ratio need a quiet one, so read them with the load. About three minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from benchmarks.open_page import OpenPage
from tests.browser.server import Server, start_server, stop_everything
from toolkit.config import Config
from toolkit.data.sources import open_table
from toolkit.runs.events import EventWriter, encode, read_events
from toolkit.runs.lock import WorkerLock
from toolkit.runs.rundir import RunDir, create_run
from toolkit.runs.supervisor import Supervisor
from toolkit.validation import parse

RUNS = 10


STEP_S = 0.1


def log(number: int, step: int, at: float, dice: random.Random) -> dict[str, Any]:
    loss = 2 * math.exp(-step / 9000) + 0.2 + 0.1 * dice.random()
    return {"n": number, "attempt": 1, "t": at, "kind": "log", "step": step, "epoch": step / 1000,
            "loss": loss, "grad_norm": dice.random(), "learning_rate": 1e-3, "tokens_per_second": 4000.0,
            "tokens": step * 800, "memory_bytes": 600_000_000, "peak_bytes": 640_000_000}  # fmt: skip


def told(points: int) -> bytes:
    """The log of a run with so many points, its end left open."""
    dice, began = random.Random(7), time.time() - STEP_S * points
    first = {"attempt": 1, "t": began}
    lines = [
        encode({"n": 1, **first, "kind": "started", "pid": 1}),
        encode({"n": 2, **first, "kind": "plan", "total_steps": 2 * points, "epochs": 2 * points / 1000}),
        encode({"n": 3, **first, "kind": "phase", "phase": "training"}),
    ]
    for step in range(1, points + 1):
        at = began + STEP_S * step
        lines.append(encode(log(step + 3, step, at, dice)))
        if step % (points // 50) == 0:
            seen = {"step": step, "eval_loss": 2 * math.exp(-step / 9000) + 0.3}
            lines.append(encode({"n": step + 3, "attempt": 1, "t": at, "kind": "eval", **seen}))
    return b"".join(lines)


def told_run(save_dir: Path, lines: bytes, name: str, *, over: bool, study: str = "") -> RunDir:
    """A run with this log on disk."""
    config = Config(save_dir=str(save_dir))
    run = create_run(config, open_table(config.data, save_dir), name=name, study=study)
    run.claim_path.touch()
    end = encode({"n": 10**9, "attempt": 1, "t": time.time(), "kind": "finished", "step": 1}) if over else b""
    run.events_path.write_bytes(lines + end)
    return run


class Writing(threading.Thread):
    """Holds the run's lock and logs a step every STEP_S, as a worker does."""

    def __init__(self, run: RunDir, points: int) -> None:
        super().__init__(daemon=True)
        self._run, self._step, self.leave = run, points, threading.Event()

    def run(self) -> None:
        dice = random.Random(1)
        with WorkerLock(self._run.lock_path, 1, self._run.id), EventWriter(self._run.events_path) as writer:
            while not self.leave.wait(STEP_S):
                self._step += 1
                event = log(0, self._step, 0.0, dice)
                writer.append("log", **{k: v for k, v in event.items() if k not in ("n", "attempt", "t", "kind")})


def watch(server: Server, name: str, query: str, seconds: float) -> dict[str, float]:
    """One page, open for so long after it stood."""
    process = psutil.Process(server.process.pid)
    page = OpenPage(server.port, name, query)
    page.start()
    page.ready.wait()
    first = page.reruns[0].seconds if page.reruns else math.nan
    time.sleep(2)
    already, before, begun = len(page.reruns), cpu(process), time.monotonic()
    time.sleep(seconds)
    spent, waited = cpu(process) - before, time.monotonic() - begun
    page.close()
    again = page.reruns[already:]
    waits = sorted(rerun.seconds for rerun in again)
    return {
        "first_s": first,
        "reruns": len(again),
        "p50_ms": 1000 * statistics.median(waits),
        "p95_ms": 1000 * waits[math.ceil(0.95 * len(waits)) - 1],
        "cpu_ms_a_rerun": 1000 * spent / len(again),
        "kilobytes_a_rerun": sum(rerun.bytes for rerun in again) / len(again) / 1000,
        "share_of_a_core": spent / waited,
    }


def cpu(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def slowed(server: Server, query: str, folder: Path, pairs: int, seconds: float) -> dict[str, Any]:
    """A real training without and with the page, in turns: how its steps a second compare in each pair."""
    config = parse({"save_dir": str(folder), "training": {"training_args": {"num_train_epochs": 500, "logging_steps": 1,
                    "eval_steps": 10**6}}})  # fmt: skip
    supervisor = Supervisor(folder)
    supervisor.start()
    run = create_run(config, open_table(config.data, folder))
    while not steps(run):
        time.sleep(0.5)
    time.sleep(5)
    ratios = []
    for pair in range(pairs):
        speed = {}
        for is_open in (True, False) if pair % 2 else (False, True):  # each goes first as often as the other
            speed[is_open] = speed_while(run, OpenPage(server.port, "runs", query) if is_open else None, seconds)
        ratios.append(speed[True] / speed[False])
    supervisor.stop()
    return {"pairs": ratios, "median": statistics.median(ratios)}


def speed_while(run: RunDir, page: OpenPage | None, seconds: float) -> float:
    """Steps a second of the run."""
    if page is not None:
        page.start()
        page.ready.wait()
    time.sleep(1)
    begun = time.time()
    time.sleep(seconds)
    times = [at for at in steps(run) if at > begun]
    if page is not None:
        page.close()
    return (len(times) - 1) / (times[-1] - times[0])


def steps(run: RunDir) -> list[float]:
    return [event["t"] for event in read_events(run.events_path)[0] if event["kind"] == "log"]


def measure(points: int, seconds: float, pairs: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp())
    save_dir, training = folder / "experiments", folder / "training"
    save_dir.mkdir()
    lines = told(points)
    runs = [told_run(save_dir, lines, f"trial {n}", over=n < RUNS - 1, study="ten") for n in range(RUNS)]
    writing = Writing(runs[-1], points)
    writing.start()
    os.environ.update(FTK_SPARE="0", FTK_WARM="off")  # what they import meanwhile is not the page's
    server = start_server(save_dir)
    query = f"run={runs[-1].id}"
    try:
        live = watch(server, "runs", query, seconds)
        study = watch(server, "studies", "study=ten", seconds)
        process = psutil.Process(server.process.pid)
        time.sleep(3)
        before = cpu(process)
        time.sleep(seconds / 2)
        idle = (cpu(process) - before) / (seconds / 2)
        beside = slowed(server, query, training, pairs, seconds / 2) if pairs else {}
    finally:
        writing.leave.set()
        stop_everything(server)
        stop_everything(Server(0, training, server.process))
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "date": date.today().isoformat(), "cores": psutil.cpu_count(), "load_average": psutil.getloadavg()[0],
        "points": points, "live_run": live, "ten_runs_overlaid": study, "share_of_a_core_without_a_page": idle,
        "training_beside_an_open_page": beside,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    text = json.dumps(measure(given.points, given.seconds, given.pairs), indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
