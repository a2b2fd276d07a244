"""The access guard: answers only browsers that have opened the app's link, which holds its access token.

The middleware `AccessGuard` runs before Streamlit. The link sets a cookie and leads to the same page without the token
in its address; without the cookie, every request but the health check is refused, with a page that asks for the link.
"""

from __future__ import annotations

import asyncio
import hmac
import html
import logging
from collections.abc import Callable
from functools import cache
from string import Template
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

import streamlit as st
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from toolkit.access.cookie import COOKIE_SECONDS, AccessCookie
from toolkit.access.token_file import draw_token, find_app_folder, find_token, is_token_required, load_access_token
from toolkit.errors import RunError
from toolkit.system.paths import STATIC

MAX_FORM_BYTES = 8192
FORM_SECONDS = 30.0
"""The form is a few bytes: a browser that takes longer has gone."""
_FORM_TYPE = "application/x-www-form-urlencoded"
_WRONG = "This is not the link or token of this app. Each output folder has a token of its own."
_NO_REFERRER = '<meta name="referrer" content="no-referrer">'
_REFRESH = '<meta http-equiv="refresh" content="0;url=$target">'

logger = logging.getLogger(__name__)


class AccessGuard:
    """ASGI middleware that demands the cookie of the access link. option: reads a Streamlit option by its name."""

    def __init__(self, app: ASGIApp, token: str, option: Callable[[str], Any] = st.get_option) -> None:
        self._app, self._token = app, token
        self._option = option

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_health_check(scope):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cookie = AccessCookie(headers.get("host", ""), self._token)
        is_known = cookie.is_in(headers.getlist("cookie"))
        if scope["type"] == "websocket":
            await (self._app if is_known else WebSocketClose(1008))(scope, receive, send)
            return
        given = await _read_given_token(scope, headers, receive)
        if given is None:
            answer = self._app if is_known else build_refusal(scope, headers)
        elif is_known or hmac.compare_digest(given.encode(), self._token.encode()):
            answer = _let_in(scope, headers, cookie)
        else:
            answer = build_refusal(scope, headers, _WRONG)
        await answer(scope, receive, send)

    def _is_health_check(self, scope: Scope) -> bool:
        """Return whether the request asks only whether the server runs, which the answer "ok" says to everybody."""
        base = str(self._option("server.baseUrlPath") or "").strip("/")
        health = f"/{base}/_stcore/health" if base else "/_stcore/health"
        return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] == health


def access_guard_middleware() -> list[Any]:
    """Return the access guard in the form that `st.App` takes; nothing if the environment switches the token off."""
    return [Middleware(AccessGuard, token=load_app_token())] if is_token_required() else []


@cache
def load_app_token() -> str:
    """Return this app's token; one that lasts until the app ends, if none can be kept."""
    try:
        return load_access_token(find_app_folder())
    except RunError as error:
        logger.warning("%s Until then, the link changes with every start.", error)
        return draw_token()


def build_refusal(scope: Scope, headers: Headers, problem: str = "") -> Response:
    """Return the page that asks for the link, with status 403.

    A browser that follows another site's link sends no strict cookie; the page then asks once more, as the app itself.
    """
    target = html.escape(_target(scope))
    again = not problem and scope["method"] == "GET" and _is_from_elsewhere(headers)
    page = Template((STATIC / "access.html").read_text(encoding="utf-8")).substitute(
        target=target,
        refresh=Template(_REFRESH).substitute(target=target) if again else "",
        problem=f'<p class="bad" id="problem" role="alert">{html.escape(problem)}</p>' if problem else "",
        described=' aria-describedby="problem" aria-invalid="true"' if problem else "",
    )
    return HTMLResponse(page, 403, {"Cache-Control": "no-store"})


def _let_in(scope: Scope, headers: Headers, cookie: AccessCookie) -> Response:
    """Set the cookie and lead to the same page, without the token in its address."""
    target = _target(scope)
    if _is_from_elsewhere(headers):  # after a redirect, the browser would not send the cookie yet
        page = _NO_REFERRER + Template(_REFRESH).substitute(target=html.escape(target))
        answer: Response = HTMLResponse(page)
    else:
        answer = RedirectResponse(target, 303)
    is_https = scope["scheme"] == "https" or headers.get("x-forwarded-proto", "").strip() == "https"
    answer.set_cookie(
        cookie.name, cookie.value, COOKIE_SECONDS, path="/", secure=is_https, httponly=True, samesite="strict"
    )
    answer.headers["Cache-Control"] = "no-store"
    return answer


async def _read_given_token(scope: Scope, headers: Headers, receive: Receive) -> str | None:
    """Return the token in the address, or what was pasted into the form; None for a request that offers none."""
    if scope["method"] == "GET":
        found = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("token")
        return found[0] if found else None
    is_form = headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM_TYPE
    if scope["method"] != "POST" or not is_form or "/_stcore/" in scope["path"]:
        return None
    body = b""
    try:
        async with asyncio.timeout(FORM_SECONDS):
            while len(body) <= MAX_FORM_BYTES:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        return ""
    return find_token(parse_qs(body[:MAX_FORM_BYTES].decode("latin-1")).get("token", [""])[0])


def _target(scope: Scope) -> str:
    """Return the address of the request on this server, without the token."""
    path = "/" + quote(scope["path"].lstrip("/"))  # "//name" would be another server's address
    fields = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    query = urlencode([(name, value) for name, value in fields if name != "token"])
    return f"{path}?{query}" if query else path


def _is_from_elsewhere(headers: Headers) -> bool:
    return headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
