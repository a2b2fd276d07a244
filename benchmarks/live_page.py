"""What an open page costs: a run with 50,000 points that goes on, ten such runs in one chart, and a training beside it.

    PYTHONPATH=. python -m benchmarks.live_page [--points 50000] [--seconds 20] [--rounds 6] [--json FILE]

The app is the real one; `open_page.py` holds the page open. Prints, for each page: p50 and p95 of its reruns, the
CPU time of the app's process for each refresh, the bytes sent, and what the first look at the ten logs took. Then
`beside_training.py`: the speed of a real training beside the open page. CPU times hold on a busy machine; wall times
and ratios of speed need a quiet one, so read them with the load. About six minutes.
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

from benchmarks.beside_training import beside, cpu
from benchmarks.open_page import OpenPage
from tests.browser.server import Server, start_server, stop_everything
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.runs.events import EventWriter, encode_event
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.system.locks import WorkerLock

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
        encode_event({"n": 1, **first, "kind": "started", "pid": 1}),
        encode_event({"n": 2, **first, "kind": "plan", "total_steps": 2 * points, "epochs": 2 * points / 1000}),
        encode_event({"n": 3, **first, "kind": "phase", "phase": "training"}),
    ]
    for step in range(1, points + 1):
        at = began + STEP_S * step
        lines.append(encode_event(log(step + 3, step, at, dice)))
        if step % (points // 50) == 0:
            seen = {"step": step, "eval_loss": 2 * math.exp(-step / 9000) + 0.3}
            lines.append(encode_event({"n": step + 3, "attempt": 1, "t": at, "kind": "eval", **seen}))
    return b"".join(lines)


def told_run(save_dir: Path, lines: bytes, name: str, *, over: bool, study: str = "") -> RunDir:
    """A run with this log on disk."""
    config = Config(save_dir=str(save_dir))
    run = create_run(config, open_table(config.data, save_dir), name=name, study=study)
    run.claim_path.touch()
    end = encode_event({"n": 10**9, "attempt": 1, "t": time.time(), "kind": "finished", "step": 1}) if over else b""
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
    page, unopened = OpenPage(server, name, query), cpu(process)
    page.start()
    page.ready.wait()
    first, opening = page.reruns[0].seconds if page.reruns else math.nan, cpu(process) - unopened
    time.sleep(2)
    already, before, begun = len(page.reruns), cpu(process), time.monotonic()
    time.sleep(seconds)
    spent, waited = cpu(process) - before, time.monotonic() - begun
    page.close()
    again = page.reruns[already:]
    waits = sorted(rerun.seconds for rerun in again)
    return {
        "first_s": first,
        "first_cpu_s": opening,
        "reruns": len(again),
        "p50_ms": 1000 * statistics.median(waits),
        "p95_ms": 1000 * waits[math.ceil(0.95 * len(waits)) - 1],
        "cpu_ms_a_rerun": 1000 * spent / len(again),
        "kilobytes_a_rerun": sum(rerun.bytes for rerun in again) / len(again) / 1000,
        "share_of_a_core": spent / waited,
    }


def measure(points: int, seconds: float, rounds: int) -> dict[str, Any]:
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
        memory = process.memory_info().rss / 1e6
        turns = beside(server, query, training, rounds, seconds / 2) if rounds else {}
    finally:
        writing.leave.set()
        stop_everything(server)
        stop_everything(Server(0, training, server.process, ""))
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "date": date.today().isoformat(), "cores": psutil.cpu_count(), "load_average": psutil.getloadavg()[0],
        "points": points, "live_run": live, "ten_runs_overlaid": study, "share_of_a_core_without_a_page": idle,
        "app_memory_mb": memory, "training_beside_an_open_page": turns,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    text = json.dumps(measure(given.points, given.seconds, given.rounds), indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
