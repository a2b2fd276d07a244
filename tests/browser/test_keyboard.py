"""Keyboard, phone, screen reader: the main action is two keys away, the menu closes, headings and names are right."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.server import Server
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.system.durable import commit_dir

PHONE = {"width": 390, "height": 844}
PAGES = ("", "configure", "runs", "playground", "evaluate", "studies")
LOOK = Path(__file__).with_name("structure.js").read_text(encoding="utf-8")


@pytest.fixture
def run(server: Server) -> RunDir:
    """A finished run with an adapter that no page loads."""
    config = Config.model_validate({"save_dir": str(server.save_dir)})
    made = create_run(config, open_table(config.data, server.save_dir), name="done")
    made.claim_path.touch()  # at once: the app starts what is queued
    with EventWriter(made.events_path) as events:
        events.append("started", pid=1)
        events.append("log", step=1, loss=0.5)
        events.append("scores", rows=128, exact_match=0.953125, exact_match_base=0.0)
        events.append("finished", step=1, epoch=1.0)
    staging = made.path / ".adapter"
    staging.mkdir()
    (staging / "adapter_config.json").write_text(json.dumps({}))
    commit_dir(staging, made.adapter_dir, {"step": 1})
    return made


def open_at(page: Page, server: Server, path: str) -> None:
    page.goto(f"{server.url}/{path}")
    expect(page.locator("h1")).to_be_visible()
    page.wait_for_function("window.ftkKeyboard")


def test_the_main_action_is_two_keys_away(page: Page, server: Server, run: RunDir) -> None:
    for path, action in (("", "Configure the training"), ("configure", "Start"), ("runs", "Chat")):
        open_at(page, server, path)
        button = page.get_by_role("button", name=action, exact=True)
        expect(button).to_be_enabled(timeout=120_000)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the main action")).to_be_focused()
        page.keyboard.press("Enter")
        expect(button).to_be_focused()


def test_the_menu_of_a_phone_closes_after_a_tap_and_on_escape(browser: Browser, server: Server, run: RunDir) -> None:
    page = browser.new_page(viewport=PHONE)  # type: ignore[arg-type]
    open_at(page, server, "runs")
    menu = page.get_by_test_id("stSidebar")
    for close in (lambda: menu.get_by_role("link", name="Studies").click(), lambda: page.keyboard.press("Escape")):
        page.get_by_test_id("stExpandSidebarButton").click()
        expect(menu).to_have_attribute("data-collapsed", "false")
        close()
        expect(menu).to_have_attribute("data-collapsed", "true")
    page.close()


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, PHONE], ids=["desk", "phone"])
def test_pages_have_ordered_headings_named_controls_and_one_main_action(
    browser: Browser, server: Server, run: RunDir, viewport: dict[str, int]
) -> None:
    page = browser.new_page(viewport=viewport)  # type: ignore[arg-type]
    found = {}
    for path in PAGES:
        open_at(page, server, path)
        page.wait_for_load_state("networkidle")
        found[path] = page.evaluate(LOOK)
        levels = found[path].pop("headings")
        assert levels[0] == 1 and levels.count(1) == 1, (path, levels)
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), (path, levels)
    page.close()
    assert all(len(looks.pop("primary")) <= 1 for looks in found.values()), found
    assert {path: looks for path, looks in found.items() if any(looks.values())} == {}
