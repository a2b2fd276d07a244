"""The access link in the real server: it opens the app in one click, and nobody gets in without it."""

from __future__ import annotations

import html
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect

from tests.browser.server import Server, start_server, stop_everything, websocket_status

WELCOME = "Finetuning Toolkit"


def expect_app(page: Page, server: Server) -> None:
    expect(page.get_by_role("heading", name=WELCOME, exact=True)).to_be_visible(timeout=60_000)
    assert page.url == f"{server.url}/", "the token is in the address"


def test_only_the_link_opens_the_app(browser: Browser, server: Server, tmp_path: Path) -> None:
    cookie = server.cookie()
    assert [websocket_status(server, {"Cookie": given}) for given in ("", cookie + "0", cookie)] == [403, 403, 101]
    assert httpx.get(f"{server.url}/_stcore/health").text == "ok"

    page = browser.new_page()
    assert page.goto(server.url).status == 403  # type: ignore[union-attr]
    expect(page.get_by_role("heading", name="This app needs its access link")).to_be_visible()
    field = page.get_by_label("Access link or token")
    field.fill("something else")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not the link or token")
    page.get_by_label("Access link or token").fill(server.link())
    page.get_by_role("button", name="Open the app").click()
    expect_app(page, server)

    opening = tmp_path / "open-app.html"  # as the app opens it in the browser of the machine's own screen
    opening.write_text(f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(server.link())}">')
    other = browser.new_page()
    other.goto(opening.as_uri())
    expect_app(other, server)

    server.process.kill()
    server.process.wait(60)
    again = start_server(server.save_dir, server.port)
    try:
        assert again.token == server.token
        page.reload()
        expect_app(page, again)
        opening.write_text(f'<!doctype html><a href="{server.url}">another site</a>')
        other.goto(opening.as_uri())
        other.get_by_text("another site").click()  # the browser keeps a strict cookie back at first
        expect_app(other, again)
    finally:
        page.close()
        other.close()
        stop_everything(again)
