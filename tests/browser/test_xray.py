"""The token view in the real browser: tokens with their ids, another row, a hard stop, and its acceptance."""

from __future__ import annotations

import json
import re

from playwright.sync_api import Page, expect

from tests.browser.server import Server

SECOND = 1000


def test_token_view_and_an_accepted_hard_stop(page: Page, server: Server) -> None:
    tokens = page.locator(".xray .row .token")
    expect(page.get_by_text("token by token")).to_be_visible(timeout=60 * SECOND)
    expect(tokens.first).to_be_visible(timeout=240 * SECOND)
    trained = page.locator(".xray .row .token.t")
    expect(trained.first).to_have_text('{"')
    trained.first.hover()
    expect(page.locator(".xray .detail")).to_have_text(re.compile(r"Token \d+ · id 329 · .* · trained"))
    expect(page.locator(".xray .edge")).to_have_text("completion ▸")
    expect(page.get_by_text("No blocking problems in")).to_be_visible(timeout=120 * SECOND)

    row = page.get_by_label("Row (of 640)")
    row.fill("2")
    row.press("Enter")
    expect(page.locator(".xray .row")).to_contain_text("Mendes", timeout=60 * SECOND)

    page.get_by_label("Prompt template").fill("{message} for {{answer}}")
    expect(page.get_by_text("A placeholder was not filled")).to_be_visible(timeout=120 * SECOND)
    expect(page.get_by_text("blocks Start")).to_be_visible()
    page.get_by_role("link", name="Configure").first.click()
    start = page.get_by_role("button", name="Start", exact=True)
    expect(start).to_be_disabled(timeout=120 * SECOND)
    page.get_by_role("link", name="Data").first.click()
    page.get_by_role("button", name="Accept anyway").click(timeout=120 * SECOND)
    expect(page.get_by_role("button", name="Withdraw acceptance")).to_be_visible()
    assert json.loads((server.save_dir / "draft.json").read_text())["draft"]["data"]["accepted"] == ["placeholder"]
    page.get_by_role("link", name="Configure").first.click()
    expect(start).to_be_enabled(timeout=120 * SECOND)
