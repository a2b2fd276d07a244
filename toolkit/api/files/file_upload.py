"""Receive an uploaded file: the multipart form of `POST /v1/files`, written to disk while it arrives.

The size is known and has its place before the first byte is read: a form without Content-Length is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from toolkit.api.files.file_store import MAX_FILE_NAME_LENGTH, TRAINING_PURPOSE, FileStore, StoredUpload
from toolkit.system.printable import strip_control_characters
from toolkit.worker.serving.request_models import RequestError

MAX_FIELD_BYTES = 1_000
"""Of a field other than the file, and of the headers of a part."""
WRITE_BYTES = 4 * 2**20
"""Bytes that are collected before they are written."""
STALL_SECONDS = 60.0
"""Seconds without a byte after which an upload is ended."""


async def receive_file(request: Request, store: FileStore) -> StoredUpload:
    """Store the file of a form and return its record. Raises RequestError: the form is refused, nothing is kept."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise RequestError("The request is not a form with a file.", "Send multipart/form-data.", param="file")
    length = request.headers.get("content-length", "")
    if not re.fullmatch("[0-9]{1,18}", length):
        message = "The request does not say how long it is."
        raise RequestError(message, "Send the header Content-Length.", status=411, code="length_required")
    with store.reserve_space(int(length)), store.stage_file() as staging:
        content = staging / "content"
        with content.open("xb") as out:
            form = UploadForm(boundary, out)
            await form.read_request(request)
        name = form.check()
        return await anyio.to_thread.run_sync(store.keep_file, staging, Path(content), name)


class UploadForm:
    """A multipart form whose file is written to `out`; its other fields are kept in memory.

    Raises RequestError for a boundary that can't be used.
    """

    def __init__(self, boundary: bytes, out: BinaryIO) -> None:
        self.fields: dict[str, bytes] = {}
        self.filename: str | None = None
        self._out, self._unwritten, self._written = out, bytearray(), 0
        self._header_name, self._header_value, self._headers = bytearray(), bytearray(), dict[bytes, bytes]()
        self._field = ""
        self._files = 0
        self._ended = False
        callbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            message = f"The form can't be read: {str(error)[:200]}."
            raise RequestError(message, "Choose a shorter boundary, as HTTP clients do.", param="file") from error

    async def read_request(self, request: Request) -> None:
        """Read the whole form. Raises RequestError: it is not a form, or it did not arrive."""
        try:
            parts = request.stream()
            while True:
                with anyio.fail_after(STALL_SECONDS):
                    part = await anext(parts, None)
                if part is None:
                    break
                self._parser.write(part)
                if len(self._unwritten) >= WRITE_BYTES:
                    await self._flush()
            await self._flush()
        except (FormParserError, ClientDisconnect, TimeoutError) as error:
            message = "The upload did not arrive completely." if not isinstance(error, FormParserError) else str(error)
            raise RequestError(message, "Upload the file again.", param="file") from error

    def check(self) -> str:
        """Return the name of the file. Raises RequestError: the form is incomplete, or asks for what is not offered."""
        purpose = self.fields.pop("purpose", b"").decode(errors="replace")
        if purpose != TRAINING_PURPOSE:
            message = f"The purpose is '{purpose[:40]}'."
            raise RequestError(message, f"Use '{TRAINING_PURPOSE}': other purposes are not offered.", param="purpose")
        if self.fields:
            name = next(iter(self.fields))
            hint = "Remove it. Files are kept until they are deleted." if name.startswith("expires_after") else ""
            raise RequestError(f"'{name[:40]}' is not offered.", hint or "Remove it.", param=name[:40])
        if self._files != 1 or not self._ended:
            raise RequestError(f"The form has {self._files} files.", "Send one field 'file'.", param="file")
        if not self._written:
            raise RequestError("The file is empty.", "Upload a file with one example per line.", param="file")
        return self.filename or "data.jsonl"

    async def _flush(self) -> None:
        piece, self._unwritten = bytes(self._unwritten), bytearray()
        self._written += len(piece)
        await anyio.to_thread.run_sync(self._out.write, piece)

    def _on_part_begin(self) -> None:
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += _within_limit(self._header_name, data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += _within_limit(self._header_value, data[start:end])

    def _on_header_end(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._field = options.get(b"name", b"").decode(errors="replace")
        if self._field == "file":
            self._files += 1
            self.filename = _display_name(options.get(b"filename", b""))
        elif len(self.fields) > 8:
            raise RequestError("The form has too many fields.", "Send the fields 'file' and 'purpose'.")
        else:
            self.fields[self._field] = b""

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field == "file":
            self._unwritten += data[start:end]
        else:
            known = self.fields[self._field]
            self.fields[self._field] = known + _within_limit(known, data[start:end])

    def _on_end(self) -> None:
        self._ended = True


def _within_limit(known: bytes | bytearray, more: bytes) -> bytes:
    if len(known) + len(more) > MAX_FIELD_BYTES:
        message = f"A field of the form is longer than {MAX_FIELD_BYTES:,} bytes."
        raise RequestError(message, "Send the data in the field 'file'.")
    return more


def _display_name(raw: bytes) -> str:
    name = raw.decode(errors="replace").replace("\\", "/").rsplit("/", 1)[-1]
    return strip_control_characters(name).strip()[:MAX_FILE_NAME_LENGTH]
