"""Requests in no form that HTTP knows: the app refuses them, shows nothing of its insides, and answers the next one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.probing.probe import Probe
from benchmarks.probing.server import Target, ask, find_failure, is_alive


def malformed_probes(target: Target) -> Iterator[Probe]:
    host = f"Host: {target.host}\r\n".encode()
    pieces = {
        "no line": b"\r\n\r\n",
        "zeros": b"\x00" * 2000,
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x11" * 200,
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/0.9": b"GET /\r\n",
        "HTTP/9.9": b"GET / HTTP/9.9\r\n" + host + b"\r\n",
        "bare LF": b"GET / HTTP/1.1\n" + host.replace(b"\r", b"") + b"\n",
        "space in header": b"GET / HTTP/1.1\r\n" + host + b"X y: 1\r\n\r\n",
        "folded": b"GET / HTTP/1.1\r\n" + host + b"X: 1\r\n 2\r\n\r\n",
        "no colon": b"GET / HTTP/1.1\r\n" + host + b"X\r\n\r\n",
        "NUL in header": b"GET / HTTP/1.1\r\n" + host + b"X: a\x00b\r\n\r\n",
        "8-bit header": b"GET / HTTP/1.1\r\n" + host + b"X: \xff\xfe\r\n\r\n",
        "NUL in path": b"GET /\x00 HTTP/1.1\r\n" + host + b"\r\n",
        "8-bit path": b"GET /\xff\xfe HTTP/1.1\r\n" + host + b"\r\n",
        "percent": b"GET /%zz%ff%00 HTTP/1.1\r\n" + host + b"\r\n",
        "absolute": b"GET http://evil.example/ HTTP/1.1\r\n" + host + b"\r\n",
        "long path": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + host + b"\r\n",
        "long header": b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        "10,000 headers": b"GET / HTTP/1.1\r\n" + host + b"X: 1\r\n" * 10_000 + b"\r\n",
        "asterisk": b"OPTIONS * HTTP/1.1\r\n" + host + b"\r\n",
        "two lengths": b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "length and chunks": b"PUT / HTTP/1.1\r\n"
        + host
        + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        "negative length": b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: -1\r\n\r\n",
        "huge length": b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
        "odd length": b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: +5\r\n\r\nabcde",
        "digits": b"PUT / HTTP/1.1\r\n" + host + "Content-Length: ٣\r\n\r\nabc".encode(),
        "odd chunks": b"PUT / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "huge chunk": b"PUT / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n",
        "gzip body": b"PUT / HTTP/1.1\r\n"
        + host
        + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
        "no upgrade key": b"GET /_stcore/stream HTTP/1.1\r\n"
        + host
        + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "old websocket": b"GET /_stcore/stream HTTP/1.1\r\n"
        + host
        + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 1\r\n\r\n",
    }
    for name, raw in pieces.items():
        for repeats in (1, 2):
            yield Probe("malformed", f"{name} x{repeats}", partial(_send_raw, target, raw * repeats), isolated=False)


def _send_raw(target: Target, raw: bytes) -> str:
    answer = ask(target.port, raw, 2.0)
    if not is_alive(target.port):
        return "the app answers no longer"
    return find_failure(answer)
