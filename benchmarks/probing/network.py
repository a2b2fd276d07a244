"""Requests that the app must refuse: of other pages, for other hosts, out of the folder, in no form that HTTP knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from benchmarks.probing.probe import Probe
from benchmarks.probing.server import STREAM, UPGRADE, Headers, Target, ask, find_failure, status_of, write_request

CANARY = b"canary-7f3a: no request may read this"
PATHS = (
    "/",
    "/_stcore/health",
    "/_stcore/host-config",
    "/_stcore/script-health-check",
    "/runs",
    "/media/x",
    "/_stcore/metrics",
)
NAMES = (
    "evil.example",
    "localhost.evil.example",
    "evil.localhost",
    "127.0.0.1.evil.example",
    "localhost.",
    "localhost..",
    "127.1",
    "0",
    "0.0.0.0",
    "127.0.0.2",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "192.0.2.2",
    "local\thost",
    "localhost x",
    "evil .example",
    "localhost,evil.example",
    "localhost, evil.example",
    "evil.example@localhost",
    "localhost@evil.example",
    "localhost/",
    "localhost/x",
    "localhost?x",
    "localhost#x",
    "localhost\\",
    "evil.example\\@localhost",
    "localhost%00",
    "localhost%2eevil.example",
    "ｌｏｃａｌｈｏｓｔ",
    "loсalhost",
    "localhost\x00",
    "local host",
    "-localhost",
    "localhost-",
    "",
    "*",
    "localhost;",
    "'localhost'",
    '"localhost"',
    "[localhost]",
    "host.docker.internal",
    "metadata.google.internal",
)
PORTS = ("", ":{port}", ":99999", ":-1", ":", ":{port}:1", ":0x50", ":{port}x")
ORIGINS = (
    "null",
    "",
    "http://",
    "https://",
    "file://",
    "about:blank",
    "data:text/html,x",
    "blob:http://localhost:{port}/x",
    "http://localhost:{other}",
    "http://127.0.0.1:{other}",
    "http://localhost",
    "https://localhost:{port}",
    "https://localhost",
    "http://0.0.0.0:{port}",
    "http://[::1]:{port}",
    "http://127.0.0.2:{port}",
    "http://127.1:{port}",
    "http://192.0.2.2:{port}",
    "http://localhost.:{port}",
    "http://localhost..:{port}",
    "http://LOCALHOST:{other}",
    "http://localhost:{port}.evil.example",
    "http://evil.example\\@localhost:{port}",
    "http://evil.example\\@localhost",
    "http://user@localhost:{port}",
    "http://localhost:{port}@evil.example",
    "http://localhost:{port}/",
    "http://localhost:{port}/x",
    "http://localhost:{port}?x",
    "http://localhost:{port}#x",
    "http://localhost\t:{port}",
    "http://localhost:{port}\\",
    "http://localhost:0{port}x",
    "javascript://localhost/%0aalert(1)",
    "javascript://localhost:{port}",
    "ftp://localhost:{port}",
    "ws://localhost:{port}",
    "wss://localhost:{port}",
    "gopher://localhost:{port}",
    "chrome-extension://abcdef",
    "moz-extension://abcdef",
    "view-source:http://localhost:{port}",
    "http://ｌｏｃａｌｈｏｓｔ:{port}",
    "http://loсalhost:{port}",
    "http://localhost\x00:{port}",
    "http://localhost%00:{port}",
    "http:localhost:{port}",
    "http:/localhost:{port}",
    "http:///localhost:{port}",
    "//localhost:{port}",
    "localhost:{port}",
    "http://localhost:{port}, http://evil.example",
    "http://evil.example, http://localhost:{port}",
    "http://evil.example http://localhost:{port}",
    "http://localhost:99999",
    "http://localhost:-1",
    "http://evil.example",
    "https://evil.example:{port}",
    "http://evil.localhost:{port}",
    "http://127.0.0.1.evil.example:{port}",
    "*",
    "self",
)
SITES = ("cross-site", "same-site", "unknown", "none, cross-site", "")
MODES = ("cors", "no-cors", "websocket", "same-origin", "")
SECRETS = (CANARY, b"root:x:0", b"[theme]\nfont", b'finetuning-toolkit"\nversion')
CLIMBS = (
    "../",
    "..%2f",
    "%2e%2e/",
    "%2e%2e%2f",
    "..%5c",
    "..\\",
    "....//",
    "..;/",
    ".%2e/",
    "%252e%252e%252f",
    "..%c0%af",
    "..%00/",
    "/",
    "%2f",
    "//",
)
PREFIXES = (
    "/",
    "/media/",
    "/_stcore/",
    "/static/",
    "/app/static/",
    "/component/",
    "/_stcore/bidi-components/",
    "/_stcore/upload_file/",
)
GOALS = ("etc/passwd", "{canary}", "{folder}/canary", ".streamlit/config.toml", "pyproject.toml")
METHODS = (
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "HEAD",
    "FOO",
    "get",
    "G\tET",
    "X" * 200,
)
REQUIRED = {
    "x-content-type-options": re.compile("nosniff"),
    "content-security-policy": re.compile(r"default-src 'self'.*frame-ancestors 'self'"),
    "x-frame-options": re.compile("SAMEORIGIN|DENY"),
    "cross-origin-resource-policy": re.compile("same-origin"),
}


def origin_probes(target: Target) -> Iterator[Probe]:
    """Other pages: every origin, for the websocket and for pages, with the app's host in both of its spellings."""
    for name in ("localhost", "127.0.0.1"):
        host = f"{name}:{target.port}"
        for origin in ORIGINS:
            value = origin.format(port=target.port, other=target.port + 1)
            yield _open_stream(
                "ws origin", target, f"{value!r} at {host}", (("Host", host), *UPGRADE, ("Origin", value))
            )
            for method, path in (
                ("GET", "/_stcore/health"),
                ("OPTIONS", "/_stcore/health"),
                ("PUT", "/_stcore/upload_file/s/f"),
            ):
                given = (("Host", host), ("Origin", value), ("Access-Control-Request-Method", "PUT"))
                yield Probe(
                    "cors",
                    f"{method} of {value!r} at {host}",
                    partial(_find_answer, target, method, path, given),
                    isolated=False,
                )
    own = (("Host", target.host), ("Origin", target.origin))
    for more in (
        (("Origin", "http://evil.example"),),
        (("Host", "evil.example"),),
        (("Host", target.host),),
        (("Origin", target.origin),),
    ):
        yield _open_stream("ws origin", target, f"a second {more}", (*own, *more, *UPGRADE))
    for site in SITES:
        for mode in MODES:
            given = (("Host", target.host), ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode))
            yield Probe("cors", f"{site}, {mode}", partial(_find_answer, target, "GET", "/", given), isolated=False)


def host_probes(target: Target) -> Iterator[Probe]:
    """Other hosts: a name of another site that leads to this machine, and odd spellings of the app's own."""
    for name in NAMES:
        for port in PORTS:
            host = f"{name}{port.format(port=target.port)}"
            for origin in (None, f"http://{host}"):
                given = (("Host", host), *UPGRADE, *((("Origin", origin),) if origin else ()))
                yield _open_stream("ws host", target, f"{host!r}, origin {origin!r}", given)
        for path in PATHS:
            given = (("Host", f"{name}:{target.port}"),)
            yield Probe(
                "http foreign host",
                f"{name!r} {path}",
                partial(_find_answer, target, "GET", path, given),
                isolated=False,
            )
    for odd in ("localhost:99999", "localhost:-1", "localhost:", "localhost:x", "localhost:1:2"):
        yield _open_stream("ws host", target, repr(odd), (("Host", odd), *UPGRADE))
    yield _open_stream("ws host", target, "no Host", UPGRADE)


def _open_stream(kind: str, target: Target, name: str, headers: Headers) -> Probe:
    return Probe(kind, name, partial(_find_stream, target, headers), isolated=False)


def _find_stream(target: Target, headers: Headers) -> str:
    answer = ask(target.port, write_request("GET", STREAM, (*headers, *_cookies(target, headers))))
    return f"the websocket opened: {answer[:60]!r}" if status_of(answer) == 101 else ""


def _cookies(target: Target, headers: Headers) -> Headers:
    """Return the cookie of a browser that has opened the link at this host, even where no browser could."""
    return target.cookies(next((value for name, value in headers if name == "Host"), ""))


def _find_answer(target: Target, method: str, path: str, headers: Headers) -> str:
    answer = ask(target.port, write_request(method, path, (*headers, *_cookies(target, headers))))
    head = answer.partition(b"\r\n\r\n")[0].lower()
    if b"access-control-allow-origin: *" in head or b"evil.example" in head:
        return f"the answer allows another page: {head[:200]!r}"
    return f"answered {answer[:60]!r}" if status_of(answer) in range(200, 400) else ""


def header_probes(target: Target) -> Iterator[Probe]:
    for path in (
        *PATHS,
        "/static/js/none.js",
        "/favicon.png",
        "/none",
        "/_stcore/upload_file/s/f",
        "/component/x/y",
        "/%",
    ):
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            for name, wanted in REQUIRED.items():
                attempt = partial(_find_missing_header, target, method, path, name, wanted)
                yield Probe("headers", f"{name} of {method} {path}", attempt, isolated=False)


def _find_missing_header(target: Target, method: str, path: str, name: str, wanted: re.Pattern[str]) -> str:
    answer = ask(target.port, write_request(method, path, (("Host", target.host), *target.access)))
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").lower()
    value = next((line.partition(":")[2] for line in head.split("\r\n") if line.startswith(f"{name}:")), "")
    if "*" in value or "http:" in value or "https:" in value:
        return f"{name} lets others in: {value}"
    return "" if re.search(wanted.pattern.lower(), value) else f"{status_of(answer)} without it: {value!r}"


def traversal_probes(target: Target) -> Iterator[Probe]:
    for prefix in PREFIXES:
        for climb in CLIMBS:
            for goal in GOALS:
                filled = goal.format(canary=str(target.save_dir / "canary").lstrip("/"), folder=target.save_dir.name)
                path = f"{prefix}{climb * (1 if climb in ('/', '%2f', '//') else 8)}{filled}"
                yield Probe("traversal", path, partial(_find_secret, target, path), isolated=False)


def _find_secret(target: Target, path: str) -> str:
    answer = ask(target.port, write_request("GET", path, (("Host", target.host), *target.access)))
    found = [secret for secret in SECRETS if secret in answer]
    return f"read {found[0]!r}" if found else find_failure(answer)


def method_probes(target: Target) -> Iterator[Probe]:
    for method in METHODS:
        for path in (*PATHS, STREAM, "/_stcore/upload_file/s/f"):
            yield Probe("methods", f"{method[:20]} {path}", partial(_try_method, target, method, path), isolated=False)


def _try_method(target: Target, method: str, path: str) -> str:
    given = (("Host", target.host), ("X-Mark", "mark-5c1d"), ("Content-Length", "0"), *target.access)
    answer = ask(target.port, write_request(method, path, given))
    return "the request came back" if b"mark-5c1d" in answer else find_failure(answer)


def bare_probes(target: Target) -> Iterator[Probe]:
    """A visitor of this machine without the access token: nothing of the app comes out, on no way."""
    for path in (
        *PATHS,
        "/data",
        "/configure",
        "/static/js/x.js",
        "/favicon.png",
        "/component/x/y",
        "/manifest.json",
        "/_stcore/x",
    ):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            yield Probe(
                "no token", f"{method} {path}", partial(_find_open_door, target, method, path, ()), isolated=False
            )
    for cookie in ("token=", "token=x", "ftk=1", "_streamlit_xsrf=1", "a" * 5000, "token=" + "0" * 64):
        for query in (
            "",
            "?token=",
            "?token=x",
            "?token=" + "0" * 64,
            "?token[]=1",
            "?token=%00",
            "?TOKEN=x",
            "?token=x&token=y",
        ):
            attempt = partial(_find_open_door, target, "GET", f"/_stcore/host-config{query}", (("Cookie", cookie),))
            yield Probe("no token", f"cookie {cookie[:20]!r} {query}", attempt, isolated=False)
    for more in (
        (),
        (("Origin", target.origin),),
        (("Authorization", "Bearer x"),),
        (("X-Forwarded-For", "127.0.0.1"),),
    ):
        yield _open_stream("no token", target, f"websocket with {more}", (("Host", target.host), *UPGRADE, *more))


def _find_open_door(target: Target, method: str, path: str, more: Headers) -> str:
    answer = ask(target.port, write_request(method, path, (("Host", target.host), ("Content-Length", "0"), *more)))
    status = status_of(answer)
    if path == "/_stcore/health" and answer.partition(b"\r\n\r\n")[2] in (b"ok", b""):
        return ""  # it says that the app runs, and nothing else
    return f"answered {answer[:60]!r}" if status < 400 or status >= 500 else ""
