"""The origin guard: refuses requests that another page or site makes through the visitor's browser.

The middleware `OriginGuard` runs before Streamlit, which would accept every port of this machine as its own. It also
adds the headers with which a browser loads nothing from elsewhere and shows the app in no foreign frame.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from toolkit.system.printable import strip_control_characters

DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = "[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_AUTHORITY = re.compile(rf"(\[[0-9a-f:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::([0-9]{{1,5}}))?")
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_OWN_ADDRESS_HINT = "Open the app in its own window, at the address that it printed when it started."


class OriginGuard:
    """ASGI middleware that answers foreign requests with 403. option: reads a Streamlit option by its dotted name."""

    def __init__(self, app: ASGIApp, option: Callable[[str], Any] = st.get_option) -> None:
        self._app = app
        self._option = option

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = find_request_problem(scope, headers, self._option("server.allowedHosts"))
        if scope["type"] == "websocket":
            await (WebSocketClose(1008) if problem else self._app)(scope, receive, send)
            return
        own = build_security_headers("" if problem else headers["host"])
        is_https = "https" in _own_schemes(scope, headers)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(own)
                message["headers"] = [_secure_cookie(name, value, is_https) for name, value in message["headers"]]
            await send(message)

        answer = PlainTextResponse(f"{problem} {_OWN_ADDRESS_HINT}", 403) if problem else self._app
        await answer(scope, receive, send_with_headers)


def origin_guard_middleware() -> Any:
    """Return the origin guard in the form that `st.App` takes."""
    return Middleware(OriginGuard)


def find_request_problem(scope: Scope, headers: Headers, allowed_hosts: Iterable[str]) -> str:
    """Return why the request is not one of the app's own pages, in one sentence; "" if it may be.

    A request without Origin is a navigation, or comes from a program and not from a browser's page.
    """
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or parse_authority(hosts[0], 0) is None or not is_allowed_host(hosts[0], allowed_hosts):
        return f"The request is for the host {_quote_values(hosts)}, which is not the app's."
    if origins and (len(origins) > 1 or not is_own_origin(origins[0], hosts[0], _own_schemes(scope, headers))):
        return f"The request was made by another page, with the origin {_quote_values(origins)}."
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
    navigates = mode == "navigate" and scope.get("method") in ("GET", "HEAD")
    if site not in ("none", "same-origin") and not navigates:
        return f"The request was made by a page of another site or port (Sec-Fetch-Site: {_quote_values([site])})."
    return ""


def is_own_origin(origin: str, host: str, schemes: Iterable[str]) -> bool:
    """Return whether an Origin header names the scheme, host and port that the request went to."""
    scheme, mark, authority = origin.partition("://")
    if not mark or scheme not in schemes:
        return False
    named = parse_authority(authority, DEFAULT_PORTS[scheme])
    return named is not None and named == parse_authority(host, DEFAULT_PORTS[scheme])


def parse_authority(text: str, default_port: int) -> tuple[str, int] | None:
    """Return (host, port) of "host" or "host:port"; None for any other form, such as user names or trailing dots."""
    found = _AUTHORITY.fullmatch(text.lower()) if text.isascii() else None
    port = default_port if found is None or found[2] is None else int(found[2])
    return (found[1], port) if found and port < 1 << 16 else None


def is_allowed_host(host: str, allowed: Iterable[str]) -> bool:
    """Return whether a valid Host header is in the option `server.allowedHosts`, which may hold "*" and "*.name".

    An empty option allows every host: then the network guard decides what the visitor is shown.
    """
    parsed = parse_authority(host, 0)
    name = parsed[0].strip("[]") if parsed else ""
    patterns = [pattern.strip().lower().rstrip(".") for pattern in allowed]
    known = any(name == p or p == "*" or (p.startswith("*.") and name.endswith(p[1:])) for p in patterns)
    return known or not patterns


def build_security_headers(host: str) -> dict[str, str]:
    """Return the headers of every response. host: the valid Host header; "" for a refusal, which loads nothing."""
    sources = {
        "default-src": "'self'",
        # Streamlit compiles its charts' and components' scripts in the page; nothing foreign can be named here
        "script-src": f"'self' blob: 'unsafe-eval' {' '.join(_inline_script_hashes())}",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "media-src": "'self' data: blob:",
        "connect-src": f"'self' ws://{host} wss://{host}" if host else "'self'",
        "worker-src": "'self' blob:",
        "frame-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'self'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}".strip() for name, value in sources.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "same-origin",
    }


@cache
def _inline_script_hashes() -> tuple[str, ...]:
    """Return the sources that allow the scripts written into Streamlit's own page, and no other inline script."""
    page = (Path(st.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    digests = (hashlib.sha256(script.encode()).digest() for script in _INLINE_SCRIPT.findall(page))
    return tuple(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _secure_cookie(name: bytes, value: bytes, is_https: bool) -> tuple[bytes, bytes]:
    """Return a header of an answer; a cookie that goes out encrypted never goes back unencrypted."""
    is_open = name.lower() == b"set-cookie" and b"; secure" not in value.lower()
    return name, value + b"; Secure" if is_https and is_open else value


def _own_schemes(scope: Scope, headers: Headers) -> set[str]:
    """Return the scheme of the server's own socket, and https behind a proxy that says so."""
    own = "https" if scope["scheme"] in ("https", "wss") else "http"
    return {own} | ({"https"} if headers.get("x-forwarded-proto", "").strip() == "https" else set())


def _quote_values(values: Iterable[str]) -> str:
    return strip_control_characters(f'"{", ".join(values)[:80]}"')
