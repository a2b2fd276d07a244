"""A study started by clicks, whose worker and whose app are killed: it continues and ends in a right verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.server import Server, start_server, stop_everything
from tests.fakes.study_kills import (
    LOGGING,
    RATE,
    STUDY_AXES,
    WAIT_SECONDS,
    assert_each_trial_was_trained_once,
    assert_verdict_is_right,
    kill_a_worker,
    make_study_draft,
    wait_for_finished,
)

pytestmark = pytest.mark.worker
MINUTE = 60_000


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The app with the settings of the study, and with a standby worker, so that each run starts at once."""
    monkeypatch.setenv("FTK_SPARE", "1")
    monkeypatch.setenv("FTK_WARM", "off")  # the token view is not used, and its imports would take a core from the runs
    save_dir = tmp_path / "experiments"
    save_dir.mkdir()
    saved = {"schema": 1, "draft": make_study_draft(save_dir), "grid": {}}
    (save_dir / "draft.json").write_text(json.dumps(saved))
    running = start_server(save_dir)
    yield running
    stop_everything(running)


def sweep(page: Page, path: str, runs: int) -> None:
    """Give a setting several values with the button next to it; wait until the page plans this many runs."""
    name = path.replace(".", "-")
    button = page.locator(f".st-key-several-{name}").get_by_role("button")
    expect(button).to_have_count(1, timeout=MINUTE)  # while a rerun swaps it, the old one is there for a moment
    button.click()
    box = page.locator(f".st-key-grid-{name} input")
    box.fill(", ".join(f"{value:g}" for value in STUDY_AXES[path]))
    box.press("Enter")
    expect(page.get_by_role("button", name=f"Start {runs} runs")).to_be_enabled(timeout=MINUTE)


@pytest.mark.timeout(1500)  # twelve runs, one after another
def test_a_study_started_in_the_browser_survives_two_kills(app: Server, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(MINUTE)
    page.goto(app.link("configure"))
    sweep(page, RATE, 4)
    search = page.get_by_placeholder("Find a setting by name or description")
    search.fill("Logging interval")
    search.press("Enter")
    sweep(page, LOGGING, 12)
    page.get_by_role("button", name="Start 12 runs").click()
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible(timeout=MINUTE)
    page.goto("about:blank")  # an open page would take a core from the runs
    wait_for_finished(app.save_dir, 2)
    killed = kill_a_worker(app.save_dir)
    wait_for_finished(app.save_dir, 6)
    app.process.kill()
    app.process.wait(60)
    again = start_server(app.save_dir)
    try:
        page.goto(again.link("studies"))
        expect(page.get_by_text("12 of 12 trials complete")).to_be_visible(timeout=1000 * WAIT_SECONDS)
        said = assert_verdict_is_right(app.save_dir)
        expect(page.get_by_text(said.split(" (")[0])).to_be_visible()
        expect(page.get_by_text("is within noise")).to_be_visible()
    finally:
        page.close()
        stop_everything(again)
    assert_each_trial_was_trained_once(app.save_dir, killed)
