"""Requests to the engine: without its token, for other hosts, too large, or in odd forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.probing.network import NAMES
from benchmarks.probing.probe import Probe
from benchmarks.probing.server import Headers, ask, find_failure, status_of, write_request
from toolkit.services.engine_process import EngineInfo

ROUTES = (
    "/",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/health",
    "/docs",
    "/openapi.json",
    "/metrics",
    "/shutdown",
    "/stop",
    "/load",
    "/v1/load",
    "/v1/adapters",
    "/v1/files",
    "/v1/fine_tuning/jobs",
    "/admin",
    "/..%2f..%2fetc%2fpasswd",
    "/%00",
    "//",
    "/v1/../v1/models",
)
KEYS = (
    "",
    "Bearer",
    "Bearer ",
    "Bearer x",
    "bearer null",
    "Basic eDp4",
    "Token x",
    "Bearer " + "0" * 43,
    "Bearer \x00",
    "Bearer ü",
    "x",
)
BODIES: dict[str, bytes] = {
    "empty": b"",
    "text": b"x",
    "NUL": b"\0" * 100,
    "list": b"[]",
    "number": b"7",
    "null": b"null",
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "NaN": b'{"temperature": NaN}',
    "huge number": b'{"max_tokens": 1' + b"0" * 400 + b"}",
    "half character": b'{"model": "\\ud800"}',
    "no model": b"{}",
    "odd model": b'{"model": ["x"]}',
    "path": b'{"model": "../../etc/passwd"}',
    "deep messages": b'{"model": "x", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "odd messages": b'{"model": "x", "messages": 7}',
    "many messages": b'{"model": "x", "messages": [' + b"{}," * 100_000 + b"{}]}",
    "negative": b'{"model": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1, "n": 1000000}',
    "odd stream": b'{"model": "x", "messages": [], "stream": "x"}',
    "latin": b'{"model": "\xff"}',
    "odd stop": b'{"model": "x", "messages": [{"role": "user", "content": "x"}], "stop": [[]]}',
    "image": b'{"model": "x", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://evil.example"}}]}]}',
}


def engine_probes(info: EngineInfo) -> Iterator[Probe]:
    own = f"127.0.0.1:{info.port}"
    for route in ROUTES:
        for key in KEYS:
            for method in ("GET", "POST"):
                given = (("Host", own), *((("Authorization", key),) if key else ()))
                yield Probe(
                    "engine",
                    f"{method} {route} with {key!r}",
                    partial(_find_open, info, method, route, given),
                    isolated=False,
                )
    for name in NAMES:
        for key in ("", f"Bearer {info.token}"):
            given = (("Host", f"{name}:{info.port}"), *((("Authorization", key),) if key else ()))
            if name.strip() != name:
                continue
            yield Probe(
                "engine",
                f"host {name!r}{', token' if key else ''}",
                partial(_find_open, info, "GET", "/v1/models", given),
                isolated=False,
            )
    allowed = (("Host", own), ("Authorization", f"Bearer {info.token}"), ("Content-Type", "application/json"))
    for route in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/load"):
        for name, body in BODIES.items():
            yield Probe("engine", f"{route}: {name}", partial(_find_break, info, route, allowed, body), isolated=False)
        for length in ("4194305", "99999999999", "-1", "x", "1e9"):
            yield Probe(
                "engine",
                f"{route}: length {length}",
                partial(_find_break, info, route, (*allowed, ("Content-Length", length)), None),
                isolated=False,
            )


def _find_open(info: EngineInfo, method: str, route: str, headers: Headers) -> str:
    answer = ask(info.port, write_request(method, route, (*headers, ("Content-Length", "0"))))
    status = status_of(answer)
    return f"answered {answer[:80]!r}" if status < 400 and status else find_failure(answer)


def _find_break(info: EngineInfo, route: str, headers: Headers, body: bytes | None) -> str:
    sent = headers if body is None else (*headers, ("Content-Length", str(len(body))))
    answer = ask(info.port, write_request("POST", route, sent, body or b""), 20.0)
    if status_of(answer) == 200 and body is not None:
        return f"accepted: {answer[-80:]!r}"
    alive = ask(info.port, write_request("GET", "/health", (("Host", f"127.0.0.1:{info.port}"),)))
    return find_failure(answer) or ("" if status_of(alive) == 401 else "the engine answers no longer")


def start_engine(save_dir: Path) -> EngineInfo:
    """Start an engine for the demo model, as the Playground does."""
    from toolkit.config import Config
    from toolkit.data.storage.open_table import open_table
    from toolkit.runs.run_dir import create_run
    from toolkit.services.engine_process import lock_engine_start, spawn_engine

    config = Config(save_dir=str(save_dir))
    run = create_run(config, open_table(config.data, save_dir), name="probed")
    with lock_engine_start(save_dir):
        return spawn_engine(run, config, port=None, idle_minutes=10)
