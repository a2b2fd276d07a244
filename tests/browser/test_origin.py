"""The origin guard in the real server: foreign pages reach nothing, and every page works under the content policy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.server import Server, websocket_status


class _Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<body>another page</body>")

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def other_page() -> Iterator[str]:
    """The address of a page that another program on this machine serves."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Other) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://localhost:{running.server_port}"
        running.shutdown()


def test_the_server_answers_its_own_pages_only(server: Server) -> None:
    own = {"Cookie": server.cookie()}
    assert websocket_status(server, {**own, "Origin": server.url}) == websocket_status(server, own) == 101
    odd = (
        "http://localhost:1",
        "http://evil.example\\@localhost",
        "javascript://localhost",
        "null",
        "http://127.0.0.1",
    )
    for origin in odd:
        assert websocket_status(server, {**own, "Origin": origin}) == 403, origin
        answer = httpx.get(server.url, headers={**own, "Origin": origin})
        assert answer.status_code == 403 and "frame-ancestors" in answer.headers["content-security-policy"]
    for host in ("localhost..", "localhost\t", "user@localhost", "evil.example"):
        answer = httpx.get(server.url, headers={**own, "Host": f"{host}:{server.port}"})
        assert answer.status_code in (400, 403), host
    answer = httpx.get(server.url, headers=own)
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")


def test_every_page_works_under_the_content_policy(page: Page, server: Server) -> None:
    refused: list[str] = []
    page.on("console", lambda said: refused.append(said.text) if "Content Security Policy" in said.text else None)
    page.reload()
    for name in ("Data", "Configure", "Runs", "Playground", "Evaluate", "Studies"):
        page.goto(f"{server.url}/{'' if name == 'Data' else name.lower()}")
        title = "Finetuning Toolkit" if name == "Data" else name
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
        page.wait_for_load_state("networkidle")
    assert refused == []


def test_another_page_reaches_nothing(page: Page, server: Server, other_page: str) -> None:
    page.goto(other_page)
    opened = """url => new Promise(done => {
        const socket = new WebSocket(url, ["streamlit"]);
        socket.onopen = () => done(true); socket.onerror = () => done(false)
    })"""
    assert page.evaluate(opened, f"ws://localhost:{server.port}/_stcore/stream") is False
    page.evaluate(
        "url => { const f = document.createElement('iframe'); f.src = url; document.body.append(f) }", server.url
    )
    page.wait_for_timeout(3_000)
    assert all("Data" not in frame.locator("body").inner_text() for frame in page.frames[1:])
    assert page.goto(server.url).status == 200  # type: ignore[union-attr]
