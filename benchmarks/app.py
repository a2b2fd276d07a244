"""How long the app makes a person wait, measured through the real server and headless Chromium.

    python -m benchmarks.app [--starts 5] [--reruns 40] [--out benchmarks/results/app.json]

Prints: process start to first page, p50/p95 of a form rerun (Enter in a box until the page shows the change), memory
of the app process after every page was visited, and for the default run the time from Start to the first loss point,
to the finished adapter, and to the end with its scores. Wall-clock figures: read them with the machine's name.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.server import CHROMIUM, FLAGS, Server, free_port, start_server, stop_everything

SECOND = 1000


def first_page(browser: Browser, starts: int) -> list[float]:
    """Seconds from the start of the process until the first page shows its heading, each in a fresh workspace."""
    taken = []
    for _ in range(starts):
        with_folder = Path(tempfile.mkdtemp()) / "experiments"
        with_folder.mkdir()
        begun = time.monotonic()
        server = start_server(with_folder, free_port())
        page = browser.new_page()
        page.goto(server.link())
        page.get_by_role("heading", name="Finetuning Toolkit", exact=True).wait_for()
        taken.append(time.monotonic() - begun)
        page.close()
        stop_everything(server)
        shutil.rmtree(with_folder.parent)
    return taken


WATCH = """value => {
  const box = document.activeElement;
  window.waited = new Promise((done, fail) => {
    let begun;
    setTimeout(() => fail(new Error("the change was not shown within a minute")), 60_000);
    box.addEventListener("keydown", () => { begun = performance.now(); }, { once: true, capture: true });
    const seen = new MutationObserver(() => {
      const lines = document.querySelectorAll('[data-testid="stCaptionContainer"]');
      if (![...lines].some(line => line.textContent.includes(value))) return;
      seen.disconnect();
      requestAnimationFrame(() => setTimeout(() => done((performance.now() - begun) / 1000)));
    });
    seen.observe(document.body, { subtree: true, childList: true, characterData: true });
  });
}"""
"""Runs in the page: from the key until the change is painted. To ask from outside again and again costs as much CPU
time as the rerun itself."""


def form_reruns(page: Page, count: int) -> list[float]:
    """Seconds from Enter in a box of the form until the list of changes shows the new value."""
    page.get_by_role("link", name="Configure").first.click()
    page.get_by_role("heading", name="Configure", exact=True).wait_for()
    page.get_by_text("Training", exact=True).first.click()
    box = page.get_by_role("textbox", name="Learning rate").first
    box.wait_for()
    taken = []
    for turn in range(count):
        value = f"0.00{turn % 9 + 1}{turn % 7 + 1}"
        box.fill(value)
        page.evaluate(WATCH, value)
        box.press("Enter")
        taken.append(page.evaluate("() => window.waited"))
        page.wait_for_timeout(300)
    return taken


def default_run(page: Page, server: Server) -> dict[str, float]:
    """Seconds from the click on Start until the events of the run, and its scores."""
    page.get_by_role("link", name="Data").first.click()
    button = page.get_by_role("button", name="Try it now")
    button.wait_for()
    clicked = time.time()
    button.click()
    page.wait_for_function(
        "() => document.body.innerText.includes('Finished')", timeout=300 * SECOND, polling=500
    )  # fmt: skip
    run = max(server.save_dir.glob("runs/2*"))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    first = {kind: next(e for e in events if e["kind"] == kind) for kind in ("log", "adapter", "scores", "finished")}
    return {
        "start_to_first_loss_s": first["log"]["t"] - clicked,
        "start_to_adapter_s": first["adapter"]["t"] - clicked,
        "start_to_scores_s": first["finished"]["t"] - clicked,
        "exact_match_base": first["scores"]["exact_match_base"],
        "exact_match_adapter": first["scores"]["exact_match"],
    }


def measure(starts: int, reruns: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = first_page(browser, starts)
        (folder / "experiments").mkdir()
        server = start_server(folder / "experiments")
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(server.link())
            run = default_run(page, server)
            for name in ("Playground", "Studies", "Runs"):
                page.get_by_role("link", name=name).first.click()
                page.get_by_role("heading", name=name, exact=True).wait_for()
            waits = form_reruns(page, reruns)
            memory = psutil.Process(server.process.pid).memory_info().rss
        finally:
            stop_everything(server)
    shutil.rmtree(folder)
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "first_page_s": {"median": statistics.median(opened), "max": max(opened), "n": starts},
        "form_rerun_s": {"p50": statistics.median(waits), "p95": statistics.quantiles(waits, n=20)[-1], "n": reruns},
        "app_memory_mb": memory / 1e6,
        "default_run": run,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--reruns", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = json.dumps(measure(given.starts, given.reruns), indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
