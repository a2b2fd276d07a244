"""Keyboard, phone, screen reader: the main action is two keys away, the focus shows, and axe-core finds nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import TimeoutError as Late

from tests.browser.server import Server, start_server, stop_everything
from tests.evaluation.planted import known_flips, plant
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.system.durable import commit_dir

PHONE = {"width": 390, "height": 844}
COLUMNS_ARE_CLOSE = """() => [...document.querySelectorAll('[data-testid="stHorizontalBlock"]')]
  .filter(row => row.querySelector(':scope > [data-testid="stColumn"]'))
  .every(row => parseFloat(getComputedStyle(row).rowGap) <= 20)"""
"""Whether columns that stand below one another leave no more room than paragraphs do."""
PAGES = ("", "configure", "runs", "playground", "evaluate", "studies")
LOOK = Path(__file__).with_name("structure.js").read_text(encoding="utf-8")


SERIOUS = """async () => (await axe.run({resultTypes: ["violations"]})).violations
  .filter(found => ["serious", "critical"].includes(found.impact))
  .map(found => [found.id, found.nodes.map(node => node.html.slice(0, 200) + node.failureSummary)])"""
FOCUSED = """() => {
  let part = document.activeElement;
  while (part.shadowRoot?.activeElement) part = part.shadowRoot.activeElement;
  if (part === document.body) return null;
  const style = getComputedStyle(part), box = part.getBoundingClientRect();
  const drawn = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 1 && box.height > 1;
  return {text: part.outerHTML.slice(0, 200), drawn};
}"""
"""The part that has the focus, and whether an outline shows it; null past the last part."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One app for all tests here, because they change nothing."""
    save_dir = tmp_path_factory.mktemp("keyboard") / "experiments"
    save_dir.mkdir()
    running = start_server(save_dir)
    yield running
    stop_everything(running)


@pytest.fixture(scope="module")
def run(server: Server) -> RunDir:
    """A finished run with an evaluation, and with an adapter that no page loads."""
    source = server.save_dir.parent / "given.csv"
    source.write_text("q,a\n" + "".join(f"question {i},answer {i}\n" for i in range(20)))
    data = {"file_type": "csv", "path": str(source), "prompt": "{q}", "prompt_stub": "{a}"}
    config = Config.model_validate({"save_dir": str(server.save_dir), "data": data})
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
    evaluation, _ = plant(made, known_flips(fixed=9, broke=2, same=3, both_wrong=2))
    with EventWriter(evaluation.events_path) as events:
        events.append("started")
        events.append("finished")
    return made


def open_at(page: Page, server: Server, path: str) -> None:
    page.goto(server.link(path))
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
        unseen = [part["text"] for part in tab_through(page) if not part["drawn"]]
        assert unseen == [], path


def tab_through(page: Page, most: int = 40) -> list[dict[str, Any]]:
    """Return the parts of the page that Tab reaches from the top."""
    page.evaluate("() => { document.activeElement.blur(); document.querySelector('.ftk-skip').focus() }")
    found: list[dict[str, Any]] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        part = page.evaluate(FOCUSED)
        if part is None:
            break
        found.append(part)
    assert len(found) > 8
    return found


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


@pytest.mark.parametrize(
    ("viewport", "theme"), [({"width": 1280, "height": 800}, "light"), (PHONE, "dark")], ids=["desk", "phone"]
)
def test_pages_have_ordered_headings_named_controls_and_one_main_action(
    browser: Browser, server: Server, run: RunDir, viewport: dict[str, int], theme: str
) -> None:
    page = browser.new_page(viewport=viewport, color_scheme=theme)  # type: ignore[arg-type]
    found, serious = {}, {}
    for path in PAGES:
        open_at(page, server, path)
        page.wait_for_load_state("networkidle")
        found[path] = page.evaluate(LOOK)
        levels = found[path].pop("headings")
        assert levels[0] == 1 and levels.count(1) == 1, (path, levels)
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), (path, levels)
        serious[path] = check_with_axe(page)
        if viewport == PHONE:
            page.wait_for_function(COLUMNS_ARE_CLOSE, timeout=30_000)  # the style sheet arrives with the page
    page.close()
    assert {path: problems for path, problems in serious.items() if problems} == {}
    assert all(len(looks.pop("primary")) <= 1 for looks in found.values()), found
    assert {path: looks for path, looks in found.items() if any(looks.values())} == {}


def check_with_axe(page: Page) -> list[Any]:
    """Return axe-core's serious findings, once the page rests: what is drawn again is faded for a moment."""
    page.evaluate(Axe().axe_script)
    try:
        page.wait_for_function(f"async () => !(await ({SERIOUS})()).length", timeout=30_000, polling=500)
    except Late:
        return list(page.evaluate(SERIOUS))
    return []
