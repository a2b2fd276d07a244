"""Write large uploads to disk as they arrive; Streamlit would hold them in the memory of the app.

The middleware `UploadToDisk` runs before Streamlit's own routes. It writes a large file next to the other uploads,
hashes it on the way, and forwards a receipt of a few bytes in its place, so that `st.file_uploader` works unchanged.
`keep_upload` turns a receipt or a small upload into a file. A receipt is valid only in the process that wrote it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import streamlit as st
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.runtime import Runtime
from streamlit.runtime.uploaded_file_manager import UploadedFile

from toolkit.data.storage.uploads import IncomingFile, remove_abandoned_uploads, store_incoming_file, store_upload
from toolkit.errors import DataError

LARGE_UPLOAD_BYTES = 8 << 20
"""Uploads of at least this many bytes are written to disk; smaller ones stay in memory until they are stored."""
UPLOAD_WRITE_BYTES = 4 << 20
"""Bytes that are collected before they are written, so that there is not one write for each network packet."""
UNCLAIMED_UPLOAD_S = 3_600
"""Seconds after which a file that no page has claimed is removed; a page claims it when it is drawn the next time."""
UPLOAD_QUOTA = 2
"""What unclaimed and arriving files may take together, in files of the largest size that Streamlit accepts."""
SMALL_UPLOADS_QUOTA = 512 << 20
"""Bytes that smaller files, which Streamlit holds until their session ends, may take together."""
UPLOAD_STALL_S = 60.0
"""Seconds without a byte after which an upload is ended."""
_PATH = re.compile(r"/_stcore/upload_file/([^/]+)/[^/]+")
_READ = "upload_read"
ReadResult = TypeVar("ReadResult")
_MARK = b"finetuning-toolkit received "


@dataclass(frozen=True)
class _ReceivedFile:
    file: IncomingFile
    size: int
    at: float = field(default_factory=time.monotonic)


logger = logging.getLogger(__name__)
_received: dict[bytes, _ReceivedFile] = {}
_arriving: dict[int, int] = {}
"""Uploads in progress: the id of the form -> its length."""
_claimed: dict[bytes, Path] = {}
"""Receipts that were turned into files: a rerun of the page presents its receipt again."""


def keep_upload(given: UploadedFile, save_dir: Path) -> Path:
    """Store an uploaded file in the workspace and return its path.

    Raises: DataError if the file can't be written or is no longer kept.
    """
    content = given.getbuffer()
    token = bytes(content) if len(content) < 100 else b""
    received = _received.pop(token, None)
    if received is not None:
        _claimed[token] = store_incoming_file(received.file, given.name, save_dir)
    if token in _claimed:
        return _claimed[token]
    if token.startswith(_MARK):  # an unknown receipt: storing it would store the receipt as if it were the data
        raise DataError(f"{given.name[:80]} was uploaded earlier and is no longer stored.", "Upload it again.")
    return store_upload(given, given.name, save_dir)


def read_upload_once(given: UploadedFile, save_dir: Path, read: Callable[[Path], ReadResult]) -> ReadResult:
    """Store the upload, apply `read` to it, and return the result, cached in the session for the same upload.

    Raises: DataError as `keep_upload`, and whatever `read` raises.
    """
    held = st.session_state.get(_READ)
    if held is None or held[0] != given.file_id:
        st.session_state[_READ] = held = (given.file_id, read(keep_upload(given, save_dir)))
    return cast(ReadResult, held[1])


class UploadToDisk:
    """ASGI middleware that writes large uploads to disk. folder: returns the folder for incoming files."""

    def __init__(self, app: ASGIApp, folder: Callable[[], Path]) -> None:
        self._app = app
        self._folder = folder
        try:
            remove_abandoned_uploads(folder())
        except (DataError, OSError) as error:  # the app still starts: each page shows what is wrong with the folder
            logger.warning("could not remove abandoned uploads: %s", error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "PUT" or not _PATH.search(scope["path"]):
            await self._app(scope, receive, send)
            return
        answered = stalled = False

        async def receive_in_time() -> Message:
            nonlocal stalled
            with anyio.move_on_after(UPLOAD_STALL_S):
                return await receive()
            stalled = True
            return {"type": "http.disconnect"}

        async def send_unless_stalled(message: Message) -> None:
            nonlocal answered
            if not stalled:
                answered = True
                await send(message)

        try:
            await self._take_upload(scope, receive_in_time, send_unless_stalled)
        except ClientDisconnect:
            if not stalled:
                raise
        if stalled and not answered:
            await _refuse("The upload stopped.", 408)(scope, receive, send)

    async def _take_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = _content_length(scope)
        boundary = _form_boundary(scope, size)
        if boundary is None:
            await (_find_problem(size) or self._app)(scope, receive, send)
            return
        if not _make_room(size):
            await _refuse("Too many uploads at once. Try again in a minute.", 503)(scope, receive, send)
            return
        try:
            form = _UploadForm(boundary, lambda: IncomingFile(self._folder()))
        except FormParserError as error:
            await _refuse(f"The upload form is invalid: {error}.", 400)(scope, receive, send)
            return
        except (DataError, OSError) as error:
            await PlainTextResponse(str(error), 507)(scope, receive, send)
            return
        _arriving[id(form)] = size
        token = _MARK + secrets.token_hex(16).encode()
        try:
            if await form.read(receive):
                _received[token] = _ReceivedFile(form.file, size)
                asyncio.get_running_loop().call_later(UNCLAIMED_UPLOAD_S + 1, _drop_unclaimed)
                await self._forward_receipt(scope, form.with_content(token), send, token)
            else:
                await PlainTextResponse("The upload is incomplete.", 400)(scope, receive, send)
        except FormParserError as error:
            await PlainTextResponse(f"The upload form is invalid: {error}.", 400)(scope, receive, send)
        except OSError as error:
            await PlainTextResponse(f"The file can't be written: {error.strerror}.", 507)(scope, receive, send)
        finally:
            _arriving.pop(id(form), None)
            if token not in _received:
                form.file.discard()

    async def _forward_receipt(self, scope: Scope, body: bytes, send: Send, token: bytes) -> None:
        """Call Streamlit's own route, which checks the session, with the receipt in place of the long body."""
        sent = accepted = False

        async def receive_receipt() -> Message:
            nonlocal sent
            if sent:
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch_status(message: Message) -> None:
            nonlocal accepted
            if message["type"] == "http.response.start":
                accepted = message["status"] < 300
            await send(message)

        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        try:
            await self._app({**scope, "headers": headers}, receive_receipt, watch_status)
        finally:
            if not accepted:
                _received.pop(token, None)


class _UploadForm:
    """Parser of a multipart form with one file: keeps the headers of its part and writes its content to `file`.

    Raises: FormParserError for an invalid boundary, and what `open_file` raises.
    """

    def __init__(self, boundary: bytes, open_file: Callable[[], IncomingFile]) -> None:
        self._boundary = boundary
        self._part_headers = b""
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._parts = 0
        self._ended = self._in_header_value = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_part_data": self._on_part_data,
                "on_end": self._on_end,
            },
        )
        self.file = open_file()  # last: a boundary that the parser refuses must leave no file

    async def read(self, receive: Receive) -> bool:
        """Read the form and return whether it is complete and has one file; False after a disconnect.

        Raises: OSError if the file can't be written.
        """
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return False
            self._parser.write(message.get("body", b""))
            more = message.get("more_body", False)
            if self._unwritten_bytes >= UPLOAD_WRITE_BYTES or not more:
                pieces, self._unwritten, self._unwritten_bytes = self._unwritten, [], 0
                await anyio.to_thread.run_sync(self.file.write, b"".join(pieces))
        return self._ended and self._parts == 1

    def with_content(self, content: bytes) -> bytes:
        """Return the same form with `content` as its file."""
        return b"--%b\r\n%b\r\n%b\r\n--%b--\r\n" % (self._boundary, self._part_headers, content, self._boundary)

    def _on_part_begin(self) -> None:
        self._parts += 1

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._part_headers += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        # a value may come in several calls: only the first follows the name
        self._part_headers += data[start:end] if self._in_header_value else b": " + data[start:end]
        self._in_header_value = True

    def _on_header_end(self) -> None:
        self._part_headers += b"\r\n"
        self._in_header_value = False

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._unwritten.append(data[start:end])
        self._unwritten_bytes += end - start

    def _on_end(self) -> None:
        self._ended = True


def _content_length(scope: Scope) -> int:
    """Return the length that the request names; -1 if it names none."""
    length = Headers(scope=scope).get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else -1


def _find_problem(size: int) -> PlainTextResponse | None:
    """Return the refusal of an upload that goes to Streamlit, which holds it in memory; None if it fits.

    size: -1 if the request does not name it: Streamlit would hold whatever comes, up to the size of the largest file.
    """
    if size < 0:
        return _refuse("The request does not say how long it is.", 411)
    if size < LARGE_UPLOAD_BYTES and size + _bytes_in_memory() > SMALL_UPLOADS_QUOTA:
        return _refuse("Too many small files are open. Close pages with uploads, or try again later.", 503)
    return None


def _bytes_in_memory() -> int:
    """Return the size of the files that Streamlit holds for open sessions."""
    if not Runtime.exists():
        return 0
    files = getattr(Runtime.instance().uploaded_file_mgr, "file_storage", {})
    return sum(len(file.data) for kept in [*files.values()] for file in [*kept.values()])


def _refuse(problem: str, status: int) -> PlainTextResponse:
    """Return an answer after which the connection is closed: the rest of the upload is not read."""
    return PlainTextResponse(problem, status, {"Connection": "close"})


def _form_boundary(scope: Scope, size: int) -> bytes | None:
    """Return the boundary of an upload form to write to disk.

    None for small uploads, and for those that Streamlit itself refuses (too large, or an unknown session).
    """
    found = _PATH.search(scope["path"])
    if found is None or not LARGE_UPLOAD_BYTES <= size <= _max_upload_bytes():
        return None
    if not Runtime.exists() or not Runtime.instance().is_active_session(found.group(1)):
        return None
    kind, options = parse_options_header(Headers(scope=scope).get("content-type", ""))
    return options.get(b"boundary") if kind == b"multipart/form-data" else None


def _max_upload_bytes() -> int:
    return int(st.get_option("server.maxUploadSize")) << 20  # the option is in MiB


def _make_room(size: int) -> bool:
    """Remove the oldest unclaimed files until `size` more bytes fit the quota, and return whether they do."""
    _drop_unclaimed()
    quota = UPLOAD_QUOTA * _max_upload_bytes() - sum(_arriving.values()) - size
    for token, _ in sorted(_received.items(), key=lambda item: item[1].at):
        if sum(received.size for received in _received.values()) <= quota:
            break
        _discard_received(token)
    return quota >= 0


def _drop_unclaimed() -> None:
    """Remove files whose page was closed before it claimed them."""
    for token, received in [*_received.items()]:
        if time.monotonic() - received.at > UNCLAIMED_UPLOAD_S:
            _discard_received(token)


def _discard_received(token: bytes) -> None:
    received = _received.pop(token, None)
    if received is not None:  # a page may have claimed it meanwhile
        received.file.discard()


def middleware(folder: Callable[[], Path]) -> Any:
    """Return the upload middleware in the form that `st.App` takes."""
    return Middleware(UploadToDisk, folder=folder)
