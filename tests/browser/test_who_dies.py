"""The browser is killed while a run is queued, loading, training, saving, evaluating or stopping: the run continues.

With the real app, a real browser and a fake worker; `benchmarks/who_dies.py` does the same with the real worker.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, expect

from tests.browser.server import ROOT, Server, open_window, start_server, stop_everything
from tests.fakes.run_fixtures import queue
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import read_run_status
from toolkit.system.locks import try_lock

SHOWN = {
    "queued": "next in the queue", "loading": "loading model", "training": "training", "saving": "training",
    "evaluating": "evaluating", "stopping": "Finishing the step",
}  # fmt: skip


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Browser) -> Iterator[Server]:
    """The app, opened once, because its first visit starts supervision."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parent.parent / "fakes" / "app"))
    save_dir = tmp_path / "experiments"
    (save_dir / "runs").mkdir(parents=True)
    running = start_server(save_dir)
    visit(browser, running)
    yield running
    stop_everything(running)


def visit(browser: Browser, app: Server) -> None:
    page = browser.new_page()
    page.goto(app.link())
    expect(page.get_by_role("button", name="Try it now")).to_be_visible(timeout=60_000)
    page.close()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def held_run(save_dir: Path, moment: str) -> RunDir:
    """Queue a run that stops at this moment until it is released; the slot is held until the run is written."""
    slots: list[int | None] = []
    until(
        lambda: bool(slots.append(try_lock(save_dir / "runs" / "slot.lock")) or slots[-1]),
        "the training slot did not become free",
    )
    slot = slots[-1]
    assert slot is not None
    try:
        steps = 100_000 if moment == "stopping" else 4
        return queue(save_dir, name=moment, steps=steps, save_every=2, hold=moment)
    finally:
        os.close(slot)


def test_a_killed_browser_does_not_affect_runs(driver: Playwright, app: Server) -> None:
    for moment, shown in SHOWN.items():
        holding = held_run(app.save_dir, "training" if moment == "queued" else moment)
        run = queue(app.save_dir, name="behind it", steps=2) if moment == "queued" else holding
        if moment != "stopping":
            until((holding.path / "here").exists, f"the run did not reach {moment}")
        window = open_window(driver, app.link(f"runs?run={run.id}"))
        if moment == "stopping":
            window.page.get_by_role("button", name="Stop", exact=True).click()
            until((holding.path / "here").exists, "the run did not reach the stop")
        expect(window.page.get_by_text(shown, exact=False).first).to_be_visible(timeout=60_000)
        window.die()
        (holding.path / "go").touch()
        until(lambda run=run: read_run_status(run).explained, f"{moment}: {read_run_status(run)}")  # type: ignore[misc]
        assert read_run_status(run).state == ("stopped" if moment == "stopping" else "finished"), moment
        assert [event["kind"] for event in read_events(run.events_path)[0]].count("started") == 1, moment


def test_two_apps_and_two_command_lines_start_each_run_once(app: Server, browser: Browser, tmp_path: Path) -> None:
    another = start_server(app.save_dir)
    try:
        visit(browser, another)
        (tmp_path / "config.yml").write_text(f"save_dir: {app.save_dir}\n")
        lines = [
            subprocess.Popen([sys.executable, "-m", "toolkit", "run", str(tmp_path / "config.yml")], cwd=ROOT,
                             stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
            for _ in range(2)
        ]  # fmt: skip
        for _ in range(4):
            queue(app.save_dir, steps=2)
        assert [line.wait(120) for line in lines] == [0, 0]
        runs = list_runs(app.save_dir)
        assert len(runs) == 6
        until(lambda: all(read_run_status(run).explained for run in runs), "not all of them ended")
    finally:
        stop_everything(another)
    assert {read_run_status(run).state for run in runs} == {"finished"}
    assert [len((run.path / "starts").read_text().split()) for run in runs] == [1] * 6
    spans = sorted((events[0]["t"], events[-1]["t"]) for events in (read_events(run.events_path)[0] for run in runs))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), "one at a time"
