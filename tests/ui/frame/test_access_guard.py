"""Whom the access guard lets in, what it answers everybody else, and where the link leads."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from toolkit.access.cookie import AccessCookie
from toolkit.ui.frame import access_guard
from toolkit.ui.frame.access_guard import AccessGuard, access_guard_middleware

TOKEN = "t" * 43
HOST = "localhost:8501"
FORM = ("content-type", "application/x-www-form-urlencoded")


async def inner_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for Streamlit: say 200, or accept the websocket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the app"})


def ask(
    *headers: tuple[str, str], path: str = "/", query: str = "", kind: str = "http", method: str = "GET",
    body: bytes = b"", host: str = HOST, scheme: str = "http", base: str = "", token: str = TOKEN,
) -> list[Message]:  # fmt: skip
    """Return what the guarded app answers to one request; its body comes in two parts."""
    sent: list[Message] = []
    parts = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in (("host", host), *headers)]
    scope = {"type": kind, "method": method, "path": path, "query_string": query.encode(), "headers": raw}
    scope["scheme"] = scheme
    asyncio.run(AccessGuard(inner_app, token, {"server.baseUrlPath": base}.__getitem__)(scope, receive, send))
    return sent


def status(*headers: tuple[str, str], **more: Any) -> int:
    first = ask(*headers, **more)[0]
    return {"websocket.accept": 101, "websocket.close": 403}.get(first["type"]) or int(first["status"])


def cookie(host: str = HOST, token: str = TOKEN) -> tuple[str, str]:
    made = AccessCookie(host, token)
    return ("cookie", f"{made.name}={made.value}")


def answer_headers(sent: list[Message]) -> Headers:
    return Headers(raw=sent[0]["headers"])


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_only_the_cookie_of_this_token_and_address_opens_the_app(kind: str) -> None:
    opened = 200 if kind == "http" else 101
    name, value = cookie()[1].split("=")
    assert status(cookie(), kind=kind) == opened
    assert status(("cookie", f"a=b; {name}=odd; {name}={value}; _streamlit_xsrf=2|x"), kind=kind) == opened
    assert status(("cookie", "a=b"), cookie(), kind=kind) == opened
    others = [
        "", f"{name}=", f"{name}={TOKEN}", f"{name}={value[:-1]}", f"{name}={value}0", f"{name}={value.upper()}",
        f"{name}0={value}", f"x{name}={value}", f"token={TOKEN}", f"{name}={value}é", value,
        cookie("localhost:8502")[1], cookie("127.0.0.1:8501")[1], cookie(token="u" * 43)[1],
    ]  # fmt: skip
    for other in others:
        assert status(("cookie", other), kind=kind) == 403, other
    assert status(kind=kind) == 403
    assert status(("authorization", f"Bearer {TOKEN}"), ("origin", f"http://{HOST}"), kind=kind) == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/runs", "/_stcore/host-config", "/_stcore/upload_file/a/b", "/media/x.csv",
                                  "/_stcore/health/", "/x/_stcore/health", "/static/index.js"])  # fmt: skip
def test_every_route_needs_the_cookie(path: str, method: str) -> None:
    assert status(path=path, method=method) == 403
    assert status(cookie(), path=path, method=method) == 200


def test_the_health_check_is_open_and_nothing_else_of_it() -> None:
    assert status(path="/_stcore/health") == status(path="/_stcore/health", method="HEAD") == 200
    assert status(path="/_stcore/health", method="POST") == status(path="/_stcore/health", kind="websocket") == 403
    assert status(path="/lab/_stcore/health", base="/lab/") == 200
    assert status(path="/_stcore/health", base="lab") == 403


def test_the_link_sets_a_strict_cookie_and_leaves_the_address() -> None:
    sent = ask(path="/runs", query=f"run=a%26b&token={TOKEN}&beside=")
    found = answer_headers(sent)
    assert (sent[0]["status"], found["location"]) == (303, "/runs?run=a%26b&beside=")
    assert found["cache-control"] == "no-store" and TOKEN not in str(sent)
    pair, *flags = found["set-cookie"].split("; ")
    assert ("cookie", pair) == cookie() and "8501" in pair
    assert {flag.lower() for flag in flags} == {"httponly", "samesite=strict", "path=/", "max-age=2592000"}
    for secure in ({"scheme": "https"}, {"proxied": True}):
        proxied = [("x-forwarded-proto", "https")] * secure.pop("proxied", False)
        assert "Secure" in answer_headers(ask(*proxied, query=f"token={TOKEN}", **secure))["set-cookie"]


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "///evil.example/..", "/a\r\nb", "/%2f"])
def test_the_link_leads_to_no_other_server(path: str) -> None:
    location = answer_headers(ask(path=path, query=f"token={TOKEN}"))["location"]
    assert location.startswith("/") and not location.startswith(("//", "/\\")) and "\n" not in location


@pytest.mark.parametrize("given", ["", "x", TOKEN[:-1], TOKEN + "t", TOKEN.upper(), "%00", "é", "%F0%9F"])
def test_a_wrong_token_is_refused_in_the_link_and_in_the_form(given: str) -> None:
    assert status(query=f"token={given}") == 403
    body = f"token={given}".encode()
    assert status(FORM, method="POST", body=body) == 403
    assert status(query=f"token={TOKEN}", kind="websocket") == status(query=f"token={TOKEN}", method="PUT") == 403


@pytest.mark.parametrize("pasted", ["TOKEN", " TOKEN\n", "http://localhost:8501/?token=TOKEN", "x/runs?token=TOKEN"])
def test_the_form_takes_the_link_or_the_token(pasted: str) -> None:
    body = urlencode({"token": pasted.replace("TOKEN", TOKEN)}).encode()
    sent = ask(FORM, method="POST", path="/runs", query="run=1", body=body)
    assert (sent[0]["status"], answer_headers(sent)["location"]) == (303, "/runs?run=1")
    assert ("cookie", answer_headers(sent)["set-cookie"].split(";")[0]) == cookie()


def test_a_form_that_is_too_long_or_another_kind_of_form_is_refused() -> None:
    long = b"token=" + b" " * 20_000 + TOKEN.encode()
    assert status(FORM, method="POST", body=long) == 403
    assert status(("content-type", "text/plain"), method="POST", body=f"token={TOKEN}".encode()) == 403
    assert status(FORM, method="POST", path="/_stcore/x", body=f"token={TOKEN}".encode()) == 403


def test_the_page_of_a_refusal_asks_for_the_link_and_quotes_safely() -> None:
    sent = ask(path='/"><script>alert(1)</script>', query="q=%22%3E%3Cb%3E")
    page = sent[1]["body"].decode()
    assert sent[0]["status"] == 403 and "This app needs its access link" in page and "python -m toolkit link" in page
    assert '<form method="post" action="/%22%3E%3Cscript%3Ealert%281%29%3C/script%3E?q=%22%3E%3Cb%3E">' in page
    assert "<script" not in page and "http-equiv" not in page and "$" not in page and "://" not in page
    assert "not the link or token" in ask(query="token=x")[1]["body"].decode()


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_after_a_link_of_another_site_the_page_asks_again_by_itself(site: str) -> None:
    from_elsewhere = (("sec-fetch-site", site), ("sec-fetch-mode", "navigate"))
    sent = ask(*from_elsewhere, query=f"token={TOKEN}&run=1")
    assert sent[0]["status"] == 200 and b'content="0;url=/?run=1"' in sent[1]["body"]
    assert answer_headers(sent)["set-cookie"] and TOKEN.encode() not in sent[1]["body"]
    sent = ask(*from_elsewhere, query="run=1")
    assert sent[0]["status"] == 403 and b'content="0;url=/?run=1"' in sent[1]["body"]
    assert b"http-equiv" not in ask(*from_elsewhere, query="token=x")[1]["body"]


def test_the_environment_can_switch_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_guard, "load_app_token", lambda: TOKEN)
    assert len(access_guard_middleware()) == 1
    for value, count in (("0", 0), ("off", 0), ("No", 0), ("1", 1), ("", 1), ("perhaps", 1)):
        monkeypatch.setenv("FTK_REQUIRE_TOKEN", value)
        assert len(access_guard_middleware()) == count, value


def test_without_a_place_for_it_the_token_lasts_until_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    access_guard.load_app_token.cache_clear()
    token = access_guard.load_app_token()
    assert len(token) == 43 and access_guard.load_app_token() == token
    access_guard.load_app_token.cache_clear()
