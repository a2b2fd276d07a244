"""A person finds faults in their data, repairs them by clicks, and takes a repair back."""

from __future__ import annotations

import hashlib
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.server import Server, give
from tests.fakes.faulty import support_csv

WAIT = 60_000
"""Milliseconds."""


def test_find_fix_undo(page: Page, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "support.csv"
    planted = support_csv(file)
    page.get_by_text("Upload", exact=True).first.click()
    give(page, file)
    checks = page.locator(".st-key-doctor")

    checks.get_by_role("button", name="Use {reply} instead").click()
    empty = f"{planted['empty']} rows"
    expect(checks.get_by_text(f"{empty} have nothing")).to_be_visible(timeout=WAIT)
    checks.get_by_role("button", name=f"Show the {empty}").click()
    expect(page.get_by_text(f"{planted['empty']} of 500 rows")).to_be_visible(timeout=WAIT)

    checks.get_by_role("button", name=f"Remove {empty}").click()
    expect(checks.get_by_text("Version 2")).to_be_visible(timeout=WAIT)
    expect(page.get_by_text("485 rows").first).to_be_visible(timeout=WAIT)
    expect(checks.get_by_text(f"{empty} have nothing")).to_have_count(0, timeout=WAIT)

    checks.get_by_role("button", name="nothing is cut").click(timeout=2 * WAIT)  # once the tokens are counted
    expect(checks.get_by_text("Answers cut off")).to_have_count(0, timeout=WAIT)
    page.reload()  # versions are on disk: a refresh changes nothing
    expect(checks.get_by_text("Version 2")).to_be_visible(timeout=WAIT)
    checks.get_by_role("button", name="Undo", exact=True).first.click()
    expect(checks.get_by_text("Original").first).to_be_visible(timeout=WAIT)
    expect(checks.get_by_text(f"{empty} have nothing")).to_be_visible(timeout=WAIT)
    checks.get_by_role("button", name="Redo").click()
    expect(page.get_by_text("485 rows").first).to_be_visible(timeout=WAIT)
    (upload,) = (server.save_dir / "uploads").glob("*.csv")
    assert hashlib.sha256(upload.read_bytes()).hexdigest() == hashlib.sha256(file.read_bytes()).hexdigest()
