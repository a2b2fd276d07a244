"""The app behind nginx with TLS, as docs/security.md configures it: it works in a browser, and its guards hold."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.browser.nginx import NGINX, run_nginx
from tests.browser.server import Server

PATIENCE = 120_000
pytestmark = pytest.mark.skipif(not NGINX, reason="no nginx on this machine: apt-get install nginx-light")


@pytest.fixture
def front(server: Server, tmp_path: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    with run_nginx(tmp_path, server.port) as found:
        yield found


def test_the_app_behind_nginx(browser: Browser, server: Server, front: tuple[str, ssl.SSLContext]) -> None:
    address, trust = front
    with httpx.Client(verify=trust, base_url=address) as client:
        assert client.get("/").status_code == 403, "without the link"
        opened = client.get(f"/?token={server.token}")
        assert opened.status_code == 303 and "; Secure" in opened.headers["set-cookie"]
        assert "SameSite=strict" in opened.headers["set-cookie"] and opened.headers["strict-transport-security"]
        page = client.get("/")
        assert page.status_code == 200 and page.headers["x-content-type-options"] == "nosniff"
        (pair,) = client.cookies.items()
        foreign = {"Origin": "https://evil.example"}
        assert client.get("/_stcore/host-config", headers=foreign).status_code == 403
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403

    def websocket(**headers: str) -> int:
        try:
            socket = f"{address.replace('https:', 'wss:')}/_stcore/stream"
            with connect(socket, ssl=trust, additional_headers=headers, subprotocols=["streamlit"]):  # type: ignore[list-item]
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    cookie = "=".join(pair)
    assert websocket(Origin=address, Cookie=cookie) == 101
    assert [websocket(Origin=address), websocket(Origin="https://evil.example", Cookie=cookie)] == [403, 403]

    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.goto(f"{address}/?token={server.token}")
    expect(tab.get_by_role("heading", name="Finetuning Toolkit", exact=True)).to_be_visible(timeout=PATIENCE)
    assert all(cookie["secure"] for cookie in context.cookies()), context.cookies()
    context.close()
