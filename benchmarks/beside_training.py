"""A real training while nobody looks, while a page is open elsewhere, and while a browser on this machine shows it.

Part of `live_page.py`. The three take turns on one run, so that what else the machine does falls on all alike. Knows no
page's content.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, sync_playwright

from benchmarks.open_page import OpenPage
from tests.browser.server import CHROMIUM, FLAGS, Server
from toolkit.data.storage.open_table import open_table
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.settings.validation import parse_draft
from toolkit.system.locks import read_lock_holder

WAYS = ("nobody_looks", "open_elsewhere", "browser_here")


def beside(server: Server, query: str, folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Steps a second, and a CPU-second of the worker, against those while nobody looks: round by round, and the median.

    Beside them the share of a core that the app and the browser took.
    """
    run, supervisor = training(folder)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for turn in range(rounds):
            for way in (*WAYS[turn % len(WAYS) :], *WAYS[: turn % len(WAYS)]):  # each goes first as often as the others
                with looked_at(way, server, query, browser):
                    found[way].append(look(run, server, seconds))
    supervisor.stop()
    return {"browser_here": compared(found, WAYS[2]), "open_elsewhere": compared(found, WAYS[1]), "rounds": found}


def training(folder: Path) -> tuple[RunDir, Supervisor]:
    """A run of the demo without an end in sight, past its first steps."""
    args = {"num_train_epochs": 500, "logging_steps": 1, "eval_steps": 10**6}
    config = parse_draft({"save_dir": str(folder), "training": {"training_args": args}})
    supervisor = Supervisor(folder)
    supervisor.start()
    run = create_run(config, open_table(config.data, folder))
    while not steps(run):
        time.sleep(0.5)
    time.sleep(5)
    return run, supervisor


@contextmanager
def looked_at(way: str, server: Server, query: str, browser: Browser) -> Iterator[None]:
    """The page open in this way, past its first drawing."""
    if way == "open_elsewhere":
        page = OpenPage(server, "runs", query)
        page.start()
        page.ready.wait()
        yield
        page.close()
    elif way == "browser_here":
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(server.link(f"runs?{query}"), timeout=120_000)
        tab.locator(".js-plotly-plot").nth(4).wait_for(timeout=120_000)
        tab.wait_for_timeout(3000)
        yield
        tab.close()
    else:
        yield


def look(run: RunDir, server: Server, seconds: float) -> dict[str, float]:
    """So many seconds of the run."""
    time.sleep(1)
    holder = read_lock_holder(run.lock_path)
    assert holder is not None
    worker, app = psutil.Process(holder.pid), psutil.Process(server.process.pid)
    before, begun, clock = (cpu(worker), cpu(app), browsers()), time.time(), time.monotonic()
    time.sleep(seconds)
    waited, after = time.monotonic() - clock, (cpu(worker), cpu(app), browsers())
    times = [at for at in steps(run) if at > begun]
    spent = [now - then for now, then in zip(after, before, strict=True)]
    return {
        "steps_a_second": (len(times) - 1) / (times[-1] - times[0]),
        "steps_a_cpu_second": len(times) / spent[0],
        "app_share_of_a_core": spent[1] / waited,
        "browser_share_of_a_core": spent[2] / waited,
    }


def compared(found: dict[str, list[dict[str, float]]], way: str) -> dict[str, Any]:
    """How this way compares with nobody looking."""
    pairs = list(zip(found[way], found[WAYS[0]], strict=True))
    speed = [one["steps_a_second"] / alone["steps_a_second"] for one, alone in pairs]
    work = [one["steps_a_cpu_second"] / alone["steps_a_cpu_second"] for one, alone in pairs]
    shares = {name: statistics.median(one[name] for one in found[way]) for name in found[way][0] if "share" in name}
    return {"speed": statistics.median(speed), "speeds": speed, "steps_a_cpu_second": statistics.median(work), **shares}


def steps(run: RunDir) -> list[float]:
    return [event["t"] for event in read_events(run.events_path)[0] if event["kind"] == "log"]


def cpu(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def browsers() -> float:
    """CPU time of the browsers that this process started."""
    return sum(cpu(one) for one in psutil.Process().children(recursive=True) if "chrom" in one.name())
