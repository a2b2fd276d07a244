"""Which requests the app answers: its own pages' and no other page's, for its own hosts and no odd spelling of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from toolkit.ui.frame.origin_guard import OriginGuard, build_security_headers, parse_authority

HOSTS = ["localhost", "127.0.0.1"]
FOREIGN_ORIGINS = (
    "http://localhost:9999", "http://127.0.0.1:8501", "http://localhost", "https://localhost:8501", "http://0.0.0.0:8501",
    "http://evil.example", "http://evil.example\\@localhost:8501", "http://evil.example\\@localhost", "null", "", "http://",
    "javascript://localhost:8501/%0aalert(1)", "javascript://localhost", "ftp://localhost:8501", "ws://localhost:8501",
    "file://", "http://user@localhost:8501", "http://localhost:8501@evil.example", "http://localhost:99999",
    "http://localhost:8501/", "http://localhost:8501 ", "http://localhost.:8501", "http://localhost..:8501",
    "http://localhost:8501.evil.example", "http://[::1]:8501", "http://192.0.2.2", "http://LOCALHOST:9999",
    "chrome-extension://abcdef", "http:/localhost:8501", "//localhost:8501", "localhost:8501", "http://localhost:08502",
    "http://localhost:8501, http://evil.example", "http://ｌｏｃａｌｈｏｓｔ:8501", "http://localhost\t:8501", "data:",
)  # fmt: skip
ODD_HOSTS = (
    "localhost..:8501", "localhost.:8501", "localhost\t:8501", "localhost :8501", "user@localhost:8501", "localhost:",
    "", "localhost:8501:1", "localhost:99999", "localhost:-1", "evil.example\\@localhost", "localhost/",
    "localhost?x", "localhost#", ".localhost", "[localhost]", "[::1", "evil.example:8501",
    "localhost:8501, evil.example", "loc alhost", "ｌｏｃａｌｈｏｓｔ", "127.1:8501", "0:8501", "2130706433:8501",
)  # fmt: skip


async def inner_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for Streamlit: say 200, or accept the websocket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-content-type-options", b"other")]})
    await send({"type": "http.response.body", "body": b"ok"})


def ask(
    *headers: tuple[str, str], kind: str = "http", method: str = "GET", scheme: str = "", hosts: list[str] | None = None
) -> list[Message]:
    """Return what the guarded app answers to one request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("utf-8")) for name, value in headers]
    scope = {"type": kind, "method": method, "path": "/", "headers": raw, "scheme": scheme or kind.replace("eb", "")}
    scope["scheme"] = scheme or ("ws" if kind == "websocket" else "http")
    options: dict[str, Any] = {"server.allowedHosts": HOSTS if hosts is None else hosts}
    asyncio.run(OriginGuard(inner_app, options.__getitem__)(scope, receive, send))
    return sent


def is_let_in(*headers: tuple[str, str], **more: Any) -> bool:
    first = ask(*headers, **more)[0]
    return first["type"] == "websocket.accept" or first.get("status") == 200


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_foreign_origin_is_refused(kind: str, origin: str) -> None:
    assert not is_let_in(("host", "localhost:8501"), ("origin", origin), kind=kind)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("host", ODD_HOSTS)
def test_an_odd_or_unknown_host_is_refused(kind: str, host: str) -> None:
    assert not is_let_in(("host", host), kind=kind)
    assert not is_let_in(("host", host), ("origin", f"http://{host}"), kind=kind)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_own_pages_and_navigations_are_answered(kind: str) -> None:
    own = ("host", "localhost:8501")
    assert is_let_in(own, kind=kind)
    assert is_let_in(own, ("origin", "http://localhost:8501"), kind=kind)
    assert is_let_in(("host", "LOCALHOST:8501"), ("origin", "http://localhost:8501"), kind=kind)
    assert is_let_in(("host", "localhost"), ("origin", "http://localhost"), kind=kind)
    assert is_let_in(("host", "127.0.0.1:8501"), ("origin", "http://127.0.0.1:8501"), kind=kind)
    assert is_let_in(("host", "[::1]:8501"), ("origin", "http://[::1]:8501"), kind=kind, hosts=[])
    assert is_let_in(("host", "app.example.com"), kind=kind, hosts=["*.example.com"])
    assert not is_let_in(("host", "example.org"), kind=kind, hosts=["*.example.com"])


def test_repeated_headers_are_refused() -> None:
    own = (("host", "localhost:8501"), ("origin", "http://localhost:8501"))
    assert not is_let_in(*own, ("host", "localhost:8501"))
    assert not is_let_in(*own, ("origin", "http://evil.example"))
    assert not is_let_in(("origin", "http://localhost:8501"))


def test_behind_a_proxy_with_tls_the_page_is_https() -> None:
    page = (("host", "app.example.com"), ("origin", "https://app.example.com"))
    proxied = ("x-forwarded-proto", "https")
    assert is_let_in(*page, proxied, kind="websocket", hosts=["app.example.com"])
    assert is_let_in(*page, kind="websocket", scheme="wss", hosts=["app.example.com"])
    assert not is_let_in(*page, kind="websocket", hosts=["app.example.com"])
    assert not is_let_in(page[0], ("origin", "http://app.example.com"), scheme="https", hosts=["app.example.com"])


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_page_embeds_is_refused_and_its_links_work(site: str) -> None:
    own = ("host", "localhost:8501")
    for mode in ("no-cors", "cors", "websocket"):
        assert not is_let_in(own, ("sec-fetch-site", site), ("sec-fetch-mode", mode))
    assert is_let_in(own, ("sec-fetch-site", site), ("sec-fetch-mode", "navigate"))
    assert not is_let_in(own, ("sec-fetch-site", site), ("sec-fetch-mode", "navigate"), method="POST")
    assert is_let_in(own, ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors"))


@pytest.mark.parametrize("host", ["localhost:8501", "evil.example"])
def test_every_answer_has_the_security_headers(host: str) -> None:
    (start, _) = ask(("host", host))
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    assert found["x-content-type-options"] == "nosniff" and found["x-frame-options"] == "SAMEORIGIN"
    policy = dict(part.split(" ", 1) for part in found["content-security-policy"].split("; "))
    assert policy["frame-ancestors"] == policy["default-src"] == "'self'" and policy["object-src"] == "'none'"
    assert "unsafe-inline" not in policy["script-src"] and "http" not in found["content-security-policy"]
    assert "evil" not in found["content-security-policy"]


def test_a_refusal_says_why_without_control_characters() -> None:
    body = ask(("host", "localhost:8501"), ("origin", "http://evil\x1b[31m.example"))[1]["body"].decode()
    assert "evil[31m.example" in body and "its own window" in body


def test_authorities() -> None:
    assert parse_authority("LocalHost:1", 80) == ("localhost", 1)
    assert parse_authority("[::1]", 80) == ("[::1]", 80)
    assert parse_authority("a.b:65536", 80) is None
    assert "ws://localhost:8501" in build_security_headers("localhost:8501")["Content-Security-Policy"]


@pytest.mark.parametrize("forwarded", [False, True])
def test_cookies_of_an_encrypted_request_come_back_encrypted_only(forwarded: bool) -> None:
    """Streamlit sets its own without: a page of the same name over plain HTTP would get them."""
    cookies = ["_streamlit_user=1; Path=/; HttpOnly", "own=2; Path=/; Secure"]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"set-cookie", cookie.encode()) for cookie in cookies]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    def answer(scheme: str, headers: list[tuple[bytes, bytes]]) -> list[str]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "scheme": scheme, "headers": headers}
        asyncio.run(OriginGuard(app, {"server.allowedHosts": HOSTS}.__getitem__)(scope, receive, send))
        return [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]

    host = (b"host", b"localhost:8501")
    encrypted = answer("http", [host, (b"x-forwarded-proto", b"https")]) if forwarded else answer("https", [host])
    assert encrypted == ["_streamlit_user=1; Path=/; HttpOnly; Secure", "own=2; Path=/; Secure"]
    assert answer("http", [host]) == cookies
