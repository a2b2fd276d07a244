"""How many clicks and typed fields three journeys take, in the real app with a real browser.

    PYTHONPATH=. python -m benchmarks.journeys [--only demo|own] [--json FILE]

From the first page to the answered test row of the demo and to its verdict, without scrolling at 1280x800; from a CSV
file of tickets to a verdict; and on to a downloaded, checked adapter. A click is counted only where the button is in
view or the journey may scroll. Prints each step; fails if a journey takes more than it may. About five minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

from tests.browser.server import CHROMIUM, FLAGS, Server, start_server, stop_everything

VIEWPORT = {"width": 1280, "height": 800}
SECOND = 1000
WAIT = 300 * SECOND
VERDICT = re.compile(r"^\S* ?(It is better than|It is worse than|These rows show no significant|It differs from)")
ROW_CLICKS, VERDICT_CLICKS = 3, 4
OWN_CLICKS, OWN_FIELDS, ADAPTER_CLICKS = 8, 2, 2
SUBJECTS = {
    "Billing": ("invoice is wrong", "was charged twice", "need a refund"),
    "Shipping": ("parcel is late", "package is lost", "address must change"),
    "Login": ("password fails", "account is locked", "code does not arrive"),
}


@dataclass
class Journey:
    """What a user did. may_scroll: whether a control may be out of view."""

    page: Page
    may_scroll: bool = False
    steps: list[str] = field(default_factory=list)
    clicks: int = 0
    fields: int = 0

    def click(self, target: Locator, name: str) -> None:
        """Click what is in view, as a user would."""
        expect(target).to_be_enabled(timeout=WAIT)
        if not self.may_scroll:
            self.require_in_view(target, name)
        target.click()
        self.clicks += 1
        self.steps.append(f"click {self.clicks}: {name}")

    def give_file(self, file: Path) -> None:
        """Choose a file in the upload box, which takes a click."""
        box = self.page.get_by_test_id("stFileUploader").filter(has_text="file, up to")
        box.locator("input[type=file]").set_input_files(file)
        self.clicks += 1
        self.steps.append(f"click {self.clicks}: Upload {file.name}")

    def require_in_view(self, target: Locator, name: str) -> None:
        """Fail if the target is not on the screen as the page stands."""
        box = target.bounding_box()
        inside = box is not None and box["y"] >= 0 and box["y"] + box["height"] <= VIEWPORT["height"]
        assert inside, f"{name} is out of view: {box}"


def walk_demo(page: Page) -> Journey:
    """Walk from the first page to the answered test row, and to the verdict."""
    journey = Journey(page)
    journey.click(page.get_by_role("button", name="Try it now"), "Try it now")
    journey.click(page.get_by_role("button", name="Chat", exact=True), "Chat")
    journey.click(page.get_by_role("button", name="Try a test row"), "Try a test row")
    answered = page.get_by_text(re.compile(r"^\S* ?(in)?correct$")).first  # below the answer itself
    expect(answered).to_be_visible(timeout=WAIT)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0, timeout=WAIT)
    journey.require_in_view(answered, "the answer")
    assert journey.clicks <= ROW_CLICKS, journey.steps
    journey.click(page.get_by_role("button", name="Evaluate", exact=True), "Evaluate")
    verdict = page.get_by_role("heading").filter(has_text=VERDICT).first
    expect(verdict).to_be_visible(timeout=WAIT)
    journey.require_in_view(verdict, "the verdict")
    assert journey.clicks <= VERDICT_CLICKS, journey.steps
    return journey


def write_tickets(file: Path, rows: int = 160) -> None:
    """Write a table of support tickets with a text and a label."""
    dice = random.Random(3)
    lines = ["ticket_id,text,category"]
    for number in range(rows):
        label = dice.choice(list(SUBJECTS))
        lines.append(f"{number + 1},Hello my {dice.choice(SUBJECTS[label])} since day {number}.,{label}")
    file.write_text("\n".join(lines) + "\n")


def walk_own_file(page: Page, folder: Path) -> tuple[Journey, Journey]:
    """Walk from a CSV file of tickets to a verdict, and from there to the downloaded adapter."""
    file = folder / "tickets.csv"
    write_tickets(file)
    journey = Journey(page, may_scroll=True)
    journey.click(page.get_by_text("Upload", exact=True).first, "Upload")
    journey.give_file(file)
    expect(page.get_by_text("160 rows").first).to_be_visible(timeout=WAIT)
    journey.click(page.get_by_role("button", name="Configure the training"), "Configure the training")
    journey.click(page.get_by_role("button", name="Start", exact=True), "Start")
    journey.click(page.get_by_role("button", name="Evaluate", exact=True), "Evaluate")
    expect(page.get_by_role("heading").filter(has_text=VERDICT).first).to_be_visible(timeout=WAIT)
    assert journey.clicks <= OWN_CLICKS and journey.fields <= OWN_FIELDS, journey.steps
    rest = Journey(page, may_scroll=True)
    rest.click(page.get_by_role("button", name="Export", exact=True), "Export")
    download = page.get_by_role("button", name=re.compile(r"Download \(")).first
    expect(download).to_be_visible(timeout=WAIT)
    with page.expect_download(timeout=60 * SECOND):
        rest.click(download, "Download")
    expect(page.get_by_text(re.compile("Verified: (same|close)")).first).to_be_visible(timeout=WAIT)
    assert rest.clicks <= ADAPTER_CLICKS, rest.steps
    return journey, rest


def open_app(folder: Path) -> Server:
    """Start the app on an empty output folder."""
    (folder / "experiments").mkdir(parents=True)
    return start_server(folder / "experiments")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the counts to this file")
    parser.add_argument("--only", choices=("demo", "own"), help="walk one of them only, on a busy machine")
    args = parser.parse_args()
    counts = {}
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name in (args.only,) if args.only else ("demo", "own"):
            folder = Path(place) / name
            server = open_app(folder)
            try:
                page = browser.new_page(viewport=VIEWPORT)  # type: ignore[arg-type]
                page.set_default_timeout(WAIT)
                page.goto(server.link())
                walked = [walk_demo(page)] if name == "demo" else walk_own_file(page, folder)
            finally:
                stop_everything(server)
            for part, journey in zip((name, "adapter"), walked, strict=False):
                counts[part] = {"clicks": journey.clicks, "typed fields": journey.fields, "steps": journey.steps}
                print(f"{part}: {journey.clicks} clicks, {journey.fields} typed fields", *journey.steps, sep="\n  ")
        browser.close()
    if args.json:
        args.json.write_text(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
