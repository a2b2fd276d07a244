"""From "Finished" to "it is better, and here is my model": clicks and seconds in the real browser, on the demo.

    python -m benchmarks.finished_to_model [--shots FOLDER] [--json FILE]

Trains the demo by "Try it now", then counts from the moment in which the run's page offers "Evaluate": to the
verdict, and to the adapter's certificate, which puts its file one click away. With --shots the playground's differences
and tokens are kept as pictures, in both themes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.browser.server import CHROMIUM, FLAGS, Server, start_server, stop_everything

SECOND = 1000
AIM_S = 120


class Clock:
    """Seconds since the run had finished, and the clicks since then."""

    def __init__(self) -> None:
        self._began, self.clicks = time.monotonic(), 0
        self.seconds: dict[str, float] = {}

    def click(self, what: Locator) -> None:
        what.click()
        self.clicks += 1

    def note(self, name: str) -> None:
        self.seconds[name] = round(time.monotonic() - self._began, 1)
        print(f"{name:24} {self.seconds[name]:6.1f} s  {self.clicks} clicks", flush=True)


def way(page: Page, server: Server) -> dict[str, Any]:
    page.goto(server.link())
    page.get_by_role("button", name="Try it now").click()
    better = page.get_by_role("button", name="Evaluate", exact=True)
    better.wait_for(timeout=400 * SECOND)
    clock = Clock()
    clock.click(better)
    page.get_by_role("heading").filter(has_text=re.compile("It is ")).wait_for(timeout=300 * SECOND)
    clock.note("verdict")
    clock.click(page.get_by_role("button", name="Export", exact=True))
    card = page.get_by_test_id("stLayoutWrapper").filter(has_text="Only the trained weights").last
    clock.click(card.get_by_role("button", name="Export", exact=True))
    page.get_by_role("button", name=re.compile(r"Download \(")).wait_for(timeout=300 * SECOND)
    clock.note("certificate")
    return {"clicks": clock.clicks, "seconds": clock.seconds, "aim_seconds": AIM_S}


def pictures(browser: Browser, server: Server, folder: Path) -> None:
    """The playground with the base and a checkpoint beside the run, in both themes."""
    folder.mkdir(parents=True, exist_ok=True)
    (run,) = server.save_dir.glob("runs/2*")
    steps = sorted(int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("step-*"))
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(server.link(f"playground?run={run.name}&beside=base,{run.name}@{steps[0]}"))
        page.get_by_role("button", name="Try a test row").click(timeout=60 * SECOND)
        page.get_by_text("tokens/s").nth(2).wait_for(timeout=200 * SECOND)
        page.screenshot(path=folder / f"differences-{scheme}.png")
        page.get_by_text("Tokens", exact=True).first.click()
        page.locator(".marked span[title]").first.hover(timeout=60 * SECOND)
        page.screenshot(path=folder / f"tokens-{scheme}.png")
        page.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shots", type=Path)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    home = Path(tempfile.mkdtemp())
    (home / "experiments").mkdir()
    server = start_server(home / "experiments")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            found = way(browser.new_page(viewport={"width": 1280, "height": 900}), server)
            if chosen.shots:
                pictures(browser, server, chosen.shots)
            browser.close()
    finally:
        stop_everything(server)
        shutil.rmtree(home, ignore_errors=True)
    told = {"date": str(date.today()), "machine": platform.machine(), "load": os.getloadavg()[0], **found}
    print(json.dumps(told))
    if chosen.json:
        chosen.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
