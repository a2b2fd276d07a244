"""Who dies, when: {worker, app, both, browser} x {queued, loading, training, saving, evaluating, stopping}.

    python -m benchmarks.who_dies [--only app browser] [--json FILE]

The real app, the real worker on a tiny model, a real browser. A run is held at its moment, whoever it is dies by
SIGKILL, the moment passes, and an app that died is opened again. A cell is right when the run ends as it should
(finished with the weights of one that nothing happened to, or stopped where somebody had asked for it), began no more
often than it had to, and nobody pressed anything.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Playwright, sync_playwright

from tests.browser.server import CHROMIUM, FLAGS, Server, open_window, start_server, stop_everything
from tests.conftest import make_tiny_model
from tests.fakes.training import draft, events_of, make_run
from toolkit.runs.run_dir import RunDir, request_run_stop
from toolkit.runs.status import read_run_status
from toolkit.system.locks import read_lock_holder, try_lock

FAULTS = Path(__file__).resolve().parent.parent / "tests" / "fakes" / "faults"
VICTIMS = ("worker", "app", "both", "browser")
TRAINING = {"kind": "log", "step": 3}
MOMENTS: dict[str, dict[str, Any]] = {
    "queued": TRAINING,  # of the run before it
    "loading": {"kind": "phase", "phase": "loading model"},
    "training": TRAINING,
    "saving": {"kind": "commit"},
    "evaluating": {"kind": "phase", "phase": "evaluating"},
    "stopping": TRAINING,
}
PATIENCE = 600.0


class World:
    """The app as it is at the moment, and what a run that nothing happens to learns."""

    def __init__(self, place: Path, driver: Playwright) -> None:
        self.save_dir, self._driver = place / "save", driver
        (self.save_dir / "runs").mkdir(parents=True)
        self._model = make_tiny_model(place / "model", chat=True)
        self._browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        self.app: Server = self.opened()
        undisturbed = self.new_run(None)
        self.until(lambda: read_run_status(undisturbed).explained, "the first run did not end")
        self.expected = weights(undisturbed)

    def opened(self) -> Server:
        """The app, and somebody who opens it and leaves: it supervises from its first visit on."""
        app = start_server(self.save_dir)
        page = self._browser.new_page()
        page.goto(app.link())
        page.get_by_role("heading").first.wait_for(timeout=120_000)
        page.close()
        return app

    def new_run(self, at: dict[str, Any] | None) -> RunDir:
        """A queued run that will wait there; no supervisor sees it before that is written down."""
        slot = None
        while slot is None and at is not None:
            slot = try_lock(self.save_dir / "runs" / "slot.lock")
        run = make_run(draft(self.save_dir, self._model, num_train_epochs=4, save_steps=2))
        if at is not None and slot is not None:
            (run.path / "fault.json").write_text(json.dumps({"at": at, "do": "wait"}))
            os.close(slot)
        return run

    def cell(self, victim: str, moment: str) -> str:
        """What became of it: "right", or what was wrong."""
        holding = self.new_run(MOMENTS[moment])
        run = self.new_run(None) if moment == "queued" else holding
        self.until((holding.path / "here").exists, f"it never came to {moment}")
        window = open_window(self._driver, self.app.link(f"runs?run={run.id}")) if victim == "browser" else None
        if moment == "stopping" and window:
            window.page.get_by_role("button", name="Stop", exact=True).click()
            self.until(run.stop_path.exists, "the press of Stop did not arrive")
        elif moment == "stopping":
            request_run_stop(run)
        if window:
            window.page.get_by_role("button", name="Reuse settings").wait_for()
            window.die()
        if victim in ("worker", "both"):
            kill_worker(holding)
        if victim in ("app", "both"):
            self.app.process.kill()
            self.app.process.wait()
        (holding.path / "go").touch()
        if victim in ("app", "both"):
            self.app = self.opened()
        self.until(
            lambda: read_run_status(run).explained and read_run_status(holding).explained, f"{read_run_status(run)}"
        )
        return self.judge(victim, moment, run, holding)

    def judge(self, victim: str, moment: str, run: RunDir, holding: RunDir) -> str:
        status = read_run_status(run)
        if status.state != ("stopped" if moment == "stopping" else "finished"):
            return f"it is {status.state}: {status.message}"
        attempts = [event["attempt"] for event in events_of(holding, "started")]
        died = victim in ("worker", "both") and moment != "stopping"
        if attempts != ([1, 2] if died else [1]) or len(events_of(run, "started")) > len(attempts):
            return f"attempts {attempts}"
        if status.state == "finished" and {weights(run), weights(holding)} != {self.expected}:
            return "other weights"
        return "right"

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(what)
            time.sleep(0.05)


def weights(run: RunDir) -> str:
    return hashlib.sha256((run.adapter_dir / "adapter_model.safetensors").read_bytes()).hexdigest()


def kill_worker(run: RunDir) -> None:
    holder = read_lock_holder(run.lock_path)
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    cells: dict[str, str] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sync_playwright() as driver:
        own = {"FTK_STATE_DIR": str(Path(folder) / "state"), "FTK_SPARE": "1"}
        os.environ |= {**own, "PYTHONPATH": str(FAULTS), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        world = World(Path(folder), driver)
        try:
            for victim, moment in itertools.product(chosen.only, MOMENTS):
                cells[f"{victim}, {moment}"] = world.cell(victim, moment)
                print(f"{victim:8} {moment:10} {cells[f'{victim}, {moment}']}", flush=True)
        finally:
            stop_everything(world.app)
    right = sum(found == "right" for found in cells.values())
    print(f"{right} of {len(cells)} cells right")
    if chosen.json:
        figures = {"right": right, "of": len(cells), "cells": cells, "seconds": round(time.monotonic() - began),
                   "load": os.getloadavg()[0]}  # fmt: skip
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if right == len(cells) else 1)


if __name__ == "__main__":
    main()
