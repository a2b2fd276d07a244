"""Large uploads go to disk as they arrive: Streamlit itself would hold them in the memory of the app.

`ToDisk` stands before Streamlit's own routes. It writes a large file beside the other uploads, hashes it on the way,
and hands a receipt of a few bytes on in its place, so that `st.file_uploader` works as ever; `keep` turns either back
into a file. A receipt counts only in the process that wrote it.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio.to_thread
import streamlit as st
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.runtime import Runtime
from streamlit.runtime.uploaded_file_manager import UploadedFile

from toolkit.data.storage.uploads import IncomingFile, remove_abandoned_uploads, store_incoming_file, store_upload
from toolkit.errors import DataError

LARGE_UPLOAD_BYTES = 8 << 20
"""Bytes; smaller ones stay in memory for the moment that they are needed."""
UPLOAD_WRITE_BYTES = 4 << 20
UNCLAIMED_UPLOAD_S = 3_600
"""So long a file waits for the page that asked for it."""
_PATH = re.compile(r"/_stcore/upload_file/([^/]+)/[^/]+")
_READ = "upload_read"
ReadResult = TypeVar("ReadResult")
_MARK = b"finetuning-toolkit received "


@dataclass(frozen=True)
class _ReceivedFile:
    file: IncomingFile
    at: float = field(default_factory=time.monotonic)


logger = logging.getLogger(__name__)
_received: dict[bytes, _ReceivedFile] = {}
_claimed: dict[bytes, Path] = {}
"""Receipts that were turned into files: a page may come back with one."""


def keep_upload(given: UploadedFile, save_dir: Path) -> Path:
    """The path of an uploaded file in the workspace. Raises DataError when it can't be written, or is gone."""
    content = given.getbuffer()
    token = bytes(content) if len(content) < 100 else b""
    received = _received.pop(token, None)
    if received is not None:
        _claimed[token] = store_incoming_file(received.file, given.name, save_dir)
    if token in _claimed:
        return _claimed[token]
    if token.startswith(_MARK):  # the receipt alone would be taken for the data
        raise DataError(f"{given.name[:80]} was uploaded, but is no longer kept.", "Upload it again.")
    return store_upload(given, given.name, save_dir)


def read_upload_once(given: UploadedFile, save_dir: Path, read: Callable[[Path], ReadResult]) -> ReadResult:
    """What `read` makes of the kept file; a rerun of the page with the same upload finds it in the session.

    Raises DataError as `keep`, and what `read` raises.
    """
    held = st.session_state.get(_READ)
    if held is None or held[0] != given.file_id:
        st.session_state[_READ] = held = (given.file_id, read(keep_upload(given, save_dir)))
    return cast(ReadResult, held[1])


class UploadToDisk:
    """ASGI middleware; `folder` says where incoming files are written."""

    def __init__(self, app: ASGIApp, folder: Callable[[], Path]) -> None:
        self._app = app
        self._folder = folder
        try:
            remove_abandoned_uploads(folder())
        except (DataError, OSError) as error:  # the app starts all the same: each page says what is wrong
            logger.warning("unfinished uploads can't be looked for: %s", error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        boundary = _form_boundary(scope)
        if boundary is None:
            await self._app(scope, receive, send)
            return
        _drop_unclaimed()
        try:
            form = _UploadForm(boundary, IncomingFile(self._folder()))
        except (DataError, OSError) as error:
            await PlainTextResponse(str(error), 507)(scope, receive, send)
            return
        token = _MARK + secrets.token_hex(16).encode()
        try:
            if await form.read(receive):
                _received[token] = _ReceivedFile(form.file)
                await self._forward_receipt(scope, form.with_content(token), send, token)
            else:
                await PlainTextResponse("The upload did not arrive whole.", 400)(scope, receive, send)
        except FormParserError as error:
            await PlainTextResponse(f"This is no upload: {error}.", 400)(scope, receive, send)
        except OSError as error:
            await PlainTextResponse(f"The file can't be written: {error.strerror}.", 507)(scope, receive, send)
        finally:
            if token not in _received:
                form.file.discard()

    async def _forward_receipt(self, scope: Scope, body: bytes, send: Send, token: bytes) -> None:
        """Streamlit's own route, which checks who asks, with a short body in the place of the long one."""
        sent = kept = False

        async def short() -> Message:
            nonlocal sent
            if sent:
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def heed(message: Message) -> None:
            nonlocal kept
            if message["type"] == "http.response.start":
                kept = message["status"] < 300
            await send(message)

        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        try:
            await self._app({**scope, "headers": headers}, short, heed)
        finally:
            if not kept:
                _received.pop(token, None)


class _UploadForm:
    """A form with one file, read as it arrives: the head of its part is kept, its content goes to `file`."""

    def __init__(self, boundary: bytes, file: IncomingFile) -> None:
        self.file = file
        self._boundary = boundary
        self._head = b""
        self._parts: list[bytes] = []
        self._held = 0
        self._files = 0
        self._ended = self._in_value = False
        self._parser = MultipartParser(boundary, {
            "on_part_begin": self._begin, "on_header_field": self._name, "on_header_value": self._value,
            "on_header_end": self._line, "on_part_data": self._take, "on_end": self._end,
        })  # fmt: skip

    async def read(self, receive: Receive) -> bool:
        """Whether the form came whole; False when the browser went away. Raises OSError."""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return False
            self._parser.write(message.get("body", b""))
            more = message.get("more_body", False)
            if self._held >= UPLOAD_WRITE_BYTES or not more:
                parts, self._parts, self._held = self._parts, [], 0
                await anyio.to_thread.run_sync(self.file.write, b"".join(parts))
        return self._ended and self._files == 1

    def with_content(self, content: bytes) -> bytes:
        """The same form with another content of its file."""
        return b"--%b\r\n%b\r\n%b\r\n--%b--\r\n" % (self._boundary, self._head, content, self._boundary)

    def _begin(self) -> None:
        self._files += 1

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._head += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._head += data[start:end] if self._in_value else b": " + data[start:end]
        self._in_value = True

    def _line(self) -> None:
        self._head += b"\r\n"
        self._in_value = False

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._parts.append(data[start:end])
        self._held += end - start

    def _end(self) -> None:
        self._ended = True


def _form_boundary(scope: Scope) -> bytes | None:
    """The boundary of a form that is to be written to disk; None for every other request, and for those that Streamlit
    will refuse."""
    if scope["type"] != "http" or scope["method"] != "PUT":
        return None
    found = _PATH.search(scope["path"])
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    most = int(st.get_option("server.maxUploadSize")) << 20
    if found is None or not length.isdigit() or not LARGE_UPLOAD_BYTES <= int(length) <= most:
        return None
    if not Runtime.exists() or not Runtime.instance().is_active_session(found.group(1)):
        return None
    kind, options = parse_options_header(headers.get("content-type", ""))
    return options.get(b"boundary") if kind == b"multipart/form-data" else None


def _drop_unclaimed() -> None:
    """Files whose page went away before it took them."""
    for token, received in [*_received.items()]:
        if time.monotonic() - received.at > UNCLAIMED_UPLOAD_S:
            received.file.discard()
            _received.pop(token, None)


def middleware(folder: Callable[[], Path]) -> Any:
    """For `st.App`."""
    return Middleware(UploadToDisk, folder=folder)
