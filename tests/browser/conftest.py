"""Headless Chromium in front of the real server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.browser.server import CHROMIUM, FLAGS, Server, start_server, stop_everything

expect.set_options(timeout=60_000)  # a busy machine may take long; what is there is seen at once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents:
            continue
        item.add_marker("browser")
        if CHROMIUM is None and not os.environ.get("REQUIRE_BROWSER"):
            item.add_marker(pytest.mark.skip(reason="no Chromium on this machine: apt-get install chromium"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    save_dir = tmp_path / "experiments"
    save_dir.mkdir()
    running = start_server(save_dir)
    yield running
    stop_everything(running)


@pytest.fixture(scope="module")  # an event loop runs while it lives, and other tests start their own
def driver() -> Iterator[Playwright]:
    assert CHROMIUM, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(driver: Playwright) -> Iterator[Browser]:
    chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    tab = context.new_page()
    tab.goto(server.link())
    yield tab
    context.close()
