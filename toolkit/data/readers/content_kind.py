"""Recognize a file's format by its first bytes, whatever its name says, and unpack gzip within a limit."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from dataclasses import replace
from pathlib import Path

from toolkit.data.readers.csv_layout import detect_delimiter, sample_rows
from toolkit.data.readers.csv_reader import starts_as_json
from toolkit.data.readers.encoding import ENCODING_HEAD_BYTES
from toolkit.data.readers.formats import choose_format, load_reader
from toolkit.data.readers.json_text import is_comment_line
from toolkit.data.readers.parquet_reader import PARQUET_MAGIC
from toolkit.data.readers.table_writer import ReadOutcome, SourceFile
from toolkit.errors import DataError

GZIP_MAGIC, ZIP_MAGIC = b"\x1f\x8b", b"PK\x03\x04"
MIN_UNPACKED_BYTES, MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO = 64 << 20, 2 << 30, 30
"""An archive may unpack to this many times its bytes, to the first limit if that is more, and never past the second."""
_CHUNK_BYTES = 1 << 20
_NOT_TABLE = re.compile(r"\s*([\[{<]|\"(?:[^\"\\]|\\.)*\"\s*(\n|$))")


def recognize_kind(path: Path, file_type: str | None) -> str:
    """Return the kind of format (see FORMATS) in which a file is read: by its content, else as `choose_format` says."""
    chosen = choose_format(path, file_type)
    try:
        with path.open("rb") as file:
            head = file.read(ENCODING_HEAD_BYTES)
    except OSError:  # opening it again, to read it, explains why
        return chosen
    return kind_of_content(head, chosen)


def kind_of_content(head: bytes, chosen: str) -> str:
    """Return the kind that the first bytes of a file speak for. chosen: the kind by its name and settings."""
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    if head.startswith(ZIP_MAGIC) and b"[Content_Types].xml" in head and b"word/" not in head and b"ppt/" not in head:
        return "xlsx"
    text = _decode_head(head)
    if chosen != "parquet" and starts_as_json(_without_comments(text)):
        return "json"
    if chosen == "json":
        return "csv" if _is_table(text) else "json"
    return "csv" if chosen in ("xlsx", "gzip") else chosen


def unpacked_bytes_limit(path: Path) -> int:
    """Return the bytes that a file may have after unpacking: its size, or for an archive a multiple of it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        is_archive = file.read(4).startswith((GZIP_MAGIC, ZIP_MAGIC))
    return min(MAX_UNPACKED_BYTES, max(MIN_UNPACKED_BYTES, MAX_UNPACKED_RATIO * size)) if is_archive else size


def read_gzip(source: SourceFile) -> ReadOutcome:
    """Unpack a gzip file into the folder of the table, and read what is inside. Raises DataError."""
    source.report_progress(0.0, "unpacking")
    inner = source.folder / "unpacked"
    try:
        _unpack_gzip(source.path, inner, unpacked_bytes_limit(source.path))
        with inner.open("rb") as file:
            head = file.read(ENCODING_HEAD_BYTES)
        kind = kind_of_content(head, "csv")
        if kind == "gzip":
            raise DataError("The gzip file contains another gzip file.", "Unpack it, and choose the file inside.")
        outcome = load_reader(kind)(replace(source, path=inner))
    finally:
        inner.unlink(missing_ok=True)
    return replace(outcome, notices=["The gzip file was unpacked.", *outcome.notices])


def _unpack_gzip(path: Path, target: Path, limit: int) -> None:
    written = 0
    try:
        with gzip.open(path, "rb") as packed, target.open("wb") as out:
            while chunk := packed.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > limit:
                    message = f"The gzip file unpacks to more than {limit >> 20:,} MB."
                    raise DataError(message, "Unpack it, and choose the file inside.")
                out.write(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        message = f"The gzip file can't be unpacked ({error})."
        raise DataError(message, "It is damaged or incomplete: copy or download it again.") from error


def _decode_head(head: bytes) -> str:
    utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return head.decode("utf-16" if utf16 else "utf-8-sig", "replace")


def _without_comments(text: str) -> str:
    lines = text.splitlines()
    first = next((at for at, line in enumerate(lines) if line.strip() and not is_comment_line(line)), len(lines))
    return "\n".join(lines[first:])


def _is_table(text: str) -> bool:
    """Return whether a text that is not JSON has rows of equal width, with several cells."""
    if _NOT_TABLE.match(text) or "\0" in text:
        return False
    whole = len(text) < ENCODING_HEAD_BYTES
    rows = sample_rows(text, detect_delimiter(text, whole=whole))
    widths = [len(row) for row in rows[: None if whole else -1]]
    return len(widths) > 1 and widths[0] > 1 and set(widths) == {widths[0]}
