"""The data checks in the browser: five planted faults are found and repaired by clicks on one page."""

from __future__ import annotations

import hashlib
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.browser.server import Server, give
from tests.fakes.faulty import support_csv

WAIT = 90_000
"""Milliseconds."""


def repair(checks: Locator, button: str, version: int, rows: str) -> None:
    checks.get_by_role("button", name=button).click(timeout=WAIT)
    expect(checks.get_by_text(f"Version {version}")).to_be_visible(timeout=WAIT)
    expect(checks.page.get_by_text(rows).first).to_be_visible(timeout=WAIT)


def test_five_planted_faults_are_found_and_repaired_on_the_page(page: Page, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "support.csv"
    planted = support_csv(file)
    page.get_by_text("Upload", exact=True).first.click()
    give(page, file)
    checks = page.locator(".st-key-doctor")
    completion = page.get_by_label("Completion template").last  # two while a rerun swaps the editor
    expect(completion).to_have_value("{reply}", timeout=WAIT)  # suggested; a user may still choose the wrong column
    # settled: no later rerun of the upload swaps the editor and takes what is typed
    expect(checks.get_by_text(f"{planted['empty']} rows have an answer that is empty")).to_be_visible(timeout=WAIT)
    completion.fill("{ticket_id}")
    expect(checks.get_by_text("which looks like a row number")).to_be_visible(timeout=WAIT)
    checks.get_by_role("button", name="Use {reply} instead").click()

    empty, garbled = f"{planted['empty']} rows", f"{planted['garbled']} rows"
    for words in (
        f"{empty} have an answer that is empty",
        f"{garbled} with text decoded in the wrong encoding",
        "test rows are also in the training set",
        f"{planted['long']} of 500 rows are longer than 256 tokens",
    ):
        expect(checks.get_by_text(words)).to_be_visible(timeout=2 * WAIT)  # the last once the tokens are counted
    checks.get_by_role("button", name=f"Show the {empty}").click()
    expect(page.get_by_text(f"{planted['empty']} of 500 rows")).to_be_visible(timeout=WAIT)

    repair(checks, f"Remove {empty}", 2, "485 rows")
    expect(checks.get_by_text(f"{empty} have an answer that is empty")).to_have_count(0, timeout=WAIT)
    repair(checks, f"Repair {garbled}", 3, "485 rows")
    repair(checks, "duplicates", 4, "445 rows")
    checks.get_by_role("button", name="nothing is truncated").click(timeout=2 * WAIT)
    expect(checks.get_by_text("No findings.")).to_be_visible(timeout=WAIT)

    page.reload()  # versions are on disk: a refresh changes nothing
    expect(checks.get_by_text("Version 4")).to_be_visible(timeout=WAIT)
    for version in (3, 2):
        checks.get_by_role("button", name="Undo", exact=True).first.click()
        expect(checks.get_by_text(f"Version {version}")).to_be_visible(timeout=WAIT)
    expect(checks.get_by_text(f"{garbled} with text decoded in the wrong encoding")).to_be_visible(timeout=WAIT)
    checks.get_by_role("button", name="Redo").click()
    expect(checks.get_by_text("Version 3")).to_be_visible(timeout=WAIT)
    (upload,) = (server.save_dir / "uploads").glob("*.csv")
    assert hashlib.sha256(upload.read_bytes()).hexdigest() == hashlib.sha256(file.read_bytes()).hexdigest()
