"""The path of a new user by clicks, on files that the test writes: upload, template, Start, watch, chat, stop."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.server import Server, give, start_server, stop_everything
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.runs.run_dir import create_run

SECOND = 1000
WATCH_SIDEBAR = """window.sidebarSeen = 0; new MutationObserver(() => {
  window.sidebarSeen += (document.querySelector("[data-testid=stSidebar]")?.getBoundingClientRect().width ?? 0) > 20;
}).observe(document, {subtree: true, childList: true, attributes: true})"""
"""Counts how often the page changes while Streamlit's sidebar is on it."""


def assert_private(save_dir: Path) -> None:
    """Whatever the app, its workers, its engine and its data tasks have written can be read by its owner only."""
    found = [save_dir, *save_dir.rglob("*")]
    assert len(found) > 40
    assert {str(path): oct(path.lstat().st_mode) for path in found if path.lstat().st_mode & 0o077} == {}


def rows(count: int) -> list[dict[str, str]]:
    animals = ["cat", "owl", "fox", "bee", "elk"]
    return [{"word": f"{animals[i % 5]}{i:02d}", "shout": f"{animals[i % 5].upper()}{i:02d}!"} for i in range(count)]


@pytest.fixture(params=["csv", "json"])
def upload(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A typical file of a user, with text columns of which one looks like numbers."""
    file = tmp_path / f"my words.{request.param}"
    if request.param == "json":
        file.write_text(json.dumps(rows(60)))
    else:
        lines = ["word,shout", *(f"{row['word']},{row['shout']}" for row in rows(60))]
        file.write_text("\n".join(lines) + "\n")
    return file


def step(page: Page) -> int:
    """Return the step that the Runs page shows, 0 before the first."""
    found = re.search(r"step (\d+) of", page.inner_text("body"))
    return int(found.group(1)) if found else 0


def wait_for_steps(page: Page, more_than: int) -> int:
    """Wait until the page shows a later step by itself."""
    page.wait_for_function(
        "n => { const m = document.body.innerText.match(/step (\\d+) of/); return m && Number(m[1]) > n }",
        arg=more_than, timeout=120 * SECOND,
    )  # fmt: skip
    return step(page)


def wait_for_words(page: Page, words: str, seconds: int = 150) -> None:
    page.wait_for_function("words => document.body.innerText.includes(words)", arg=words, timeout=seconds * SECOND)


def open_page(page: Page, name: str) -> None:
    page.get_by_role("link", name=name).first.click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def long_run(page: Page, server: Server) -> None:
    """Open the Runs page with a run of the demo that is long enough to outlast the test."""
    config = Config.model_validate(
        {"save_dir": str(server.save_dir), "training": {"training_args": {"num_train_epochs": 60}}}
    )
    run = create_run(config, open_table(config.data, server.save_dir), name="long")
    page.goto(f"{server.url}/runs?run={run.id}")


def test_the_demo_runs_with_one_click(page: Page, server: Server) -> None:
    page.get_by_role("button", name="Try it now").click()
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    assert wait_for_steps(page, 0) > 0, "the demo did not start to train"


def test_upload_template_train_chat(page: Page, server: Server, upload: Path) -> None:
    page.get_by_text("Upload", exact=True).first.click()
    give(page, upload)
    expect(page.get_by_text("60 rows")).to_be_visible()

    prompt, completion = page.get_by_label("Prompt template"), page.get_by_label("Completion template")
    for editor in (prompt, completion):
        expect(editor.last).to_have_value("")  # neither column speaks for itself, so the page asks
        expect(editor).to_have_count(1)  # while a rerun swaps the editor, the old one is there for a moment
    prompt.fill("Shout {wrod}")
    expect(page.get_by_text("Did you mean {word}?").first).to_be_visible(timeout=30 * SECOND)
    prompt.fill("Shout {word}")
    expect(page.locator("code", has_text=re.compile("^Shout cat00$"))).to_be_visible()
    completion.fill("{shout}")
    expect(page.locator("code", has_text=re.compile("^CAT00!$"))).to_be_visible()
    expect(page.get_by_text("Training: 48").first).to_be_visible()

    page.get_by_role("button", name="Configure the training").click()
    page.get_by_label("Run name").fill("shouting")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    wait_for_words(page, "Finished")
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    assert len(list(server.save_dir.glob("runs/*/adapter/adapter_model.safetensors"))) == 1

    open_page(page, "Playground")
    page.get_by_role("button", name="Try a test row").click()
    expect(page.get_by_text("tokens/s").first).to_be_visible(timeout=90 * SECOND)
    page.get_by_text("Exact prompt (").first.click()
    expect(page.get_by_text(re.compile("<.*Shout ", re.S)).first).to_be_visible()
    assert_private(server.save_dir)


def test_refresh_second_tab_queue_and_stop(page: Page, server: Server) -> None:
    long_run(page, server)
    seen = wait_for_steps(page, 0)
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    assert wait_for_steps(page, seen) > seen, "the page did not move by itself"

    page.reload()
    wait_for_steps(page, seen)
    tab = page.context.new_page()
    tab.goto(page.url)
    wait_for_steps(tab, seen)

    open_page(tab, "Configure")
    tab.get_by_role("button", name="Start", exact=True).click()
    wait_for_words(tab, "Queued", 60)
    assert len(list(server.save_dir.glob("runs/2*"))) == 2
    assert len(list(server.save_dir.glob("runs/*/claim"))) == 1, "one run at a time"

    page.get_by_role("button", name="Stop", exact=True).click()
    wait_for_words(page, "Stopped", 90)
    first = min(server.save_dir.glob("runs/2*"))
    assert (first / "adapter" / "adapter_model.safetensors").exists(), "stopping keeps the adapter"
    # the queued one goes on by itself
    wait_for_steps(tab, 0)


def test_a_run_continues_when_the_app_is_killed(page: Page, server: Server) -> None:
    long_run(page, server)
    seen = wait_for_steps(page, 0)
    server.process.kill()
    server.process.wait()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("streamlit run app.py")).to_be_visible(timeout=90 * SECOND)
    expect(dialog).not_to_contain_text("Streamlit still running")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    dialog.get_by_text("streamlit run app.py").hover()
    dialog.get_by_role("button", name="Copy to clipboard").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()) === 'streamlit run app.py'")
    again = start_server(server.save_dir)
    try:
        page.add_init_script(WATCH_SIDEBAR)
        page.goto(again.link(page.url.removeprefix(f"{server.url}/")))
        assert wait_for_steps(page, seen) > seen
        assert page.evaluate("window.sidebarSeen") == 0, "the menu is at the top, from the first moment"
        page.get_by_role("button", name="Kill", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name=re.compile("Kill")).click()
        expect(page.get_by_role("button", name="Kill", exact=True)).to_have_count(0, timeout=60 * SECOND)
    finally:
        stop_everything(again)


def test_an_unreadable_file_keeps_the_current_dataset(page: Page, tmp_path: Path) -> None:
    wrong = tmp_path / "table.csv"
    wrong.write_bytes(b"PK\x03\x04" + bytes(200))
    page.get_by_text("Upload", exact=True).first.click()
    give(page, wrong)
    expect(page.get_by_role("alert").first).to_be_visible()
    assert "Traceback" not in page.inner_text("body")
    expect(page.get_by_text("orders.csv").first).to_be_visible()
