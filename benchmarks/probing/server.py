"""The app and the engine that the probes are aimed at, as processes over loopback, and requests byte by byte."""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

from tests.browser.server import Server
from toolkit.access.cookie import AccessCookie

ANSWER_SECONDS = 5.0
MAX_ANSWER = 200_000
Headers = Sequence[tuple[str, str]]
KEY = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
UPGRADE: Headers = (("Upgrade", "websocket"), ("Connection", "Upgrade"), KEY, ("Sec-WebSocket-Version", "13"))
STREAM = "/_stcore/stream"


@dataclass(frozen=True)
class Target:
    """Where the probes go. token: the app's access token, "" without it. cookie: one that is sent in addition."""

    port: int
    save_dir: Path
    token: str = ""
    cookie: str = ""

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def origin(self) -> str:
        return f"http://{self.host}"

    def cookies(self, host: str = "") -> tuple[tuple[str, str], ...]:
        """Return the Cookie header of a browser that has opened the link, as if it had done so at `host`."""
        cookie = AccessCookie(host or self.host, self.token)
        pairs = [f"{cookie.name}={cookie.value}"] * bool(self.token) + [self.cookie] * bool(self.cookie)
        return (("Cookie", "; ".join(pairs)),) if pairs else ()

    @property
    def access(self) -> tuple[tuple[str, str], ...]:
        return self.cookies()


def write_request(method: str, path: str, headers: Headers, body: bytes = b"") -> bytes:
    """Return a request with exactly these headers; values may hold any characters."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def ask(port: int, request: bytes, seconds: float = ANSWER_SECONDS, until: bytes = b"") -> bytes:
    """Return what the server answers until it closes, falls silent, or has sent `until`."""
    received = b""
    deadline = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(request)
            while len(received) < MAX_ANSWER and (left := deadline - time.monotonic()) > 0:
                if not select.select([connection], [], [], left)[0]:
                    break
                part = connection.recv(65536)
                received += part
                if not part or (until and until in received) or _is_complete(request, received):
                    break
        except (ConnectionError, TimeoutError):
            return received  # a server that hangs up in the middle has answered with what came before
    return received


def _is_complete(request: bytes, received: bytes) -> bool:
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    without_body = request.startswith(b"HEAD ") or head.startswith((b"HTTP/1.1 101", b"HTTP/1.1 304", b"HTTP/1.1 204"))
    return without_body or body.endswith(b"0\r\n\r\n") or (length is not None and len(body) >= int(length[1]))


def status_of(answer: bytes) -> int:
    """Return the status of an answer; 0 if the server has closed the connection without one."""
    found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    return int(found[1]) if found else 0


def find_failure(answer: bytes) -> str:
    """Return how an answer shows that the app itself has failed."""
    if b"Traceback" in answer or b"site-packages" in answer:
        return f"shows its insides: {answer[:200]!r}"
    status = status_of(answer)
    return f"failed: {answer[:80]!r}" if status in range(500, 600) and status not in (501, 503, 505, 507) else ""


def is_alive(port: int) -> bool:
    """Return whether the app still answers."""
    request = write_request("GET", "/_stcore/health", [("Host", f"localhost:{port}"), ("Connection", "close")])
    return status_of(ask(port, request, 20.0)) in (200, 401, 403)


@dataclass
class Session:
    """One browser session. name: its id. token: Streamlit's own token against forged uploads."""

    name: str
    token: str
    connection: object


def open_session(target: Target) -> Session:
    """Open a session as a browser does and run the first page."""
    page = write_request("GET", "/", [("Host", target.host), *target.access, ("Connection", "close")])
    ask(target.port, page)
    config = ask(target.port, write_request("GET", "/_stcore/health", [("Host", target.host), *target.access]))
    found = re.search(rb"_streamlit_xsrf=([^;]+)", config)
    token = found[1].decode() if found else ""
    connection = connect(
        f"ws://{target.host}{STREAM}",
        origin=target.origin,  # type: ignore[arg-type]
        subprotocols=["streamlit", token] if token else ["streamlit"],  # type: ignore[list-item]
        additional_headers=replace(target, cookie=f"_streamlit_xsrf={token}").access,
        max_size=None,
        ping_interval=None,
    )
    order = BackMsg()
    order.rerun_script.query_string = ""
    connection.send(order.SerializeToString())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        message = ForwardMsg()
        raw = connection.recv(timeout=60)
        message.ParseFromString(raw if isinstance(raw, bytes) else raw.encode())
        if message.WhichOneof("type") == "new_session":
            return Session(message.new_session.initialize.session_id, token, connection)
    raise TimeoutError("the app started no session")


def write_upload(target: Target, session: str, file: str, body: bytes, headers: Headers) -> bytes:
    """Return an upload request; headers come after Host and access."""
    path = f"/_stcore/upload_file/{session}/{file}"
    return write_request("PUT", path, [("Host", target.host), *target.access, *headers], body)


def write_form(content: bytes, name: str = "a.csv", boundary: str = "b0undary") -> bytes:
    """Return a form with one file."""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\nContent-Type: text/csv\r\n\r\n'
    )
    return head.encode("utf-8", "surrogateescape") + content + f"\r\n--{boundary}--\r\n".encode()


def target_of(server: Server) -> Target:
    return Target(server.port, server.save_dir, server.token)


def probe_environment(folder: Path) -> None:
    """Keep this machine's own key and background processes out of the campaign."""
    os.environ |= {"FTK_STATE_DIR": str(folder / "state"), "FTK_WARM": "off", "FTK_SPARE": "0"}
