"""What an open page costs the app: a run with 50,000 points that goes on, and ten such runs in one chart.

    PYTHONPATH=. python -m benchmarks.live_page [--points 50000] [--seconds 20] [--out benchmarks/results/live.json]

Counts the CPU seconds of the app's process while a real browser shows the page and the run logs a step a tenth of a
second, and divides by the page's refreshes: CPU time, so that a busy machine measures the same. The share of one core
that the page takes from training is the CPU per second of watching.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import sync_playwright

from tests.browser.server import CHROMIUM, FLAGS, start_server, stop_everything
from toolkit.config import Config
from toolkit.data.sources import open_table
from toolkit.runs.events import EventWriter, encode
from toolkit.runs.lock import WorkerLock
from toolkit.runs.rundir import RunDir, create_run

REFRESH_S = {"run": 1.0, "study": 2.0}
"""How often the pages look again (ui/run_view.py, ui/study_view.py)."""


def log(number: int, step: int, dice: random.Random) -> dict[str, Any]:
    loss = 2 * math.exp(-step / 9000) + 0.2 + 0.1 * dice.random()
    return {"n": number, "attempt": 1, "t": time.time(), "kind": "log", "step": step, "epoch": step / 1000,
            "loss": loss, "grad_norm": dice.random(), "learning_rate": 1e-3, "tokens_per_second": 4000.0,
            "tokens": step * 800, "memory_bytes": 600_000_000, "peak_bytes": 640_000_000}  # fmt: skip


def told_run(save_dir: Path, points: int, name: str, *, over: bool, study: str = "") -> RunDir:
    """A run with so many log events on disk."""
    config = Config(save_dir=str(save_dir))
    run = create_run(config, open_table(config.data, save_dir), name=name, study=study)
    run.claim_path.touch()
    dice = random.Random(name)
    with run.events_path.open("wb") as file:
        file.write(encode({"n": 1, "attempt": 1, "t": time.time(), "kind": "started", "pid": 1}))
        file.write(encode({"n": 2, "attempt": 1, "t": time.time(), "kind": "plan", "total_steps": 2 * points}))
        for step in range(1, points + 1):
            file.write(encode(log(step + 2, step, dice)))
        if over:
            file.write(encode({"n": points + 3, "attempt": 1, "t": time.time(), "kind": "finished", "step": points}))
    return run


class Writing(threading.Thread):
    """Holds the run's lock and logs a step a tenth of a second, as a worker does."""

    def __init__(self, run: RunDir, points: int) -> None:
        super().__init__(daemon=True)
        self._run, self._step, self.leave = run, points, threading.Event()

    def run(self) -> None:
        dice = random.Random(1)
        with WorkerLock(self._run.lock_path, 1, self._run.id), EventWriter(self._run.events_path) as writer:
            while not self.leave.wait(0.1):
                self._step += 1
                event = log(0, self._step, dice)
                writer.append("log", **{k: v for k, v in event.items() if k not in ("n", "attempt", "t", "kind")})


def watch(page: Any, url: str, process: psutil.Process, seconds: float, period: float) -> dict[str, float]:
    page.goto(url)
    page.locator(".js-plotly-plot").first.wait_for(timeout=180_000)
    page.wait_for_timeout(4000)
    before, begun = sum(process.cpu_times()[:2]), time.monotonic()
    page.wait_for_timeout(seconds * 1000)
    spent, waited = sum(process.cpu_times()[:2]) - before, time.monotonic() - begun
    return {"cpu_ms_a_refresh": 1000 * spent / (waited / period), "share_of_a_core": spent / waited}


def measure(points: int, seconds: float) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp())
    save_dir = folder / "experiments"
    save_dir.mkdir()
    for number in range(10):
        told_run(save_dir, points, f"trial {number}", over=number < 9, study="ten")
    living = max(save_dir.glob("runs/2*"))
    writing = Writing(RunDir(living), points)
    writing.start()
    server = start_server(save_dir)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            process = psutil.Process(server.process.pid)
            run = watch(page, f"{server.url}/runs?run={living.name}", process, seconds, REFRESH_S["run"])
            study = watch(page, f"{server.url}/studies", process, seconds, REFRESH_S["study"])
            page.goto("about:blank")
            page.wait_for_timeout(5000)
            before = sum(process.cpu_times()[:2])
            page.wait_for_timeout(seconds * 1000)
            idle = (sum(process.cpu_times()[:2]) - before) / seconds
            browser.close()
    finally:
        writing.leave.set()
        stop_everything(server)
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "date": date.today().isoformat(), "cores": psutil.cpu_count(), "load_average": psutil.getloadavg()[0],
        "points": points, "live_run": run, "ten_runs_overlaid": study, "share_of_a_core_without_a_page": idle,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = json.dumps(measure(given.points, given.seconds), indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
