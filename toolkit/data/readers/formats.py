"""The file formats that data can be read from, and how a file's format is recognized by its name and its first bytes.

A new reader is its module, with a function that takes a SourceFile and returns a ReadOutcome, and one line in FORMATS.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.data.readers.csv_layout import detect_delimiter, sample_rows
from toolkit.data.readers.encoding import ENCODING_HEAD_BYTES
from toolkit.data.readers.json_text import is_comment_line, starts_as_json
from toolkit.data.shapes.drawn_tables import find_drawn_table
from toolkit.data.shapes.text_files import is_known_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolkit.data.readers.table_writer import ReadOutcome, SourceFile

FileType = Literal["csv", "json"]
"""The values of `data.file_type` that stand for a file."""


@dataclass(frozen=True)
class FileFormat:
    """kind: names the format inside the toolkit. file_type: the value of `data.file_type` that goes with it;
    a kind that is no such value, like parquet, takes "json", and the ending decides.

    label: its name on screen. endings: of file names, lower case and without the dot, as an upload box takes them.
    read: "module:function" of the reader, imported by the process that reads a file and by no other.
    """

    kind: str
    file_type: FileType
    label: str
    endings: tuple[str, ...]
    read: str


_READERS = "toolkit.data.readers"
FORMATS = (
    FileFormat("csv", "csv", "CSV", ("csv", "tsv", "txt"), f"{_READERS}.csv_reader:read_csv"),
    FileFormat("json", "json", "JSON, JSONL", ("json", "jsonl", "ndjson"), f"{_READERS}.json_reader:read_json"),
    FileFormat("parquet", "json", "Parquet", ("parquet",), f"{_READERS}.parquet_reader:read_parquet"),
    FileFormat("xlsx", "json", "Excel", ("xlsx", "xls"), f"{_READERS}.archive_readers:read_xlsx"),
    FileFormat("gzip", "json", "gzip", ("gz",), f"{_READERS}.archive_readers:read_gzip"),
)  # fmt: skip
GZIP_MAGIC, ZIP_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
MIN_UNPACKED_BYTES, MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO = 64 << 20, 2 << 30, 30
"""An archive may unpack to this many times its bytes, to the first limit if that is more, and never past the second."""
_NOT_TABLE = re.compile(r"\s*([\[{<]|\"(?:[^\"\\]|\\.)*\"\s*(\n|$))")
FILE_ENDINGS = tuple(ending for file_format in FORMATS for ending in file_format.endings)
FORMAT_NAMES = ", ".join(file_format.label for file_format in FORMATS[:-1]) + f" or {FORMATS[-1].label}"
"""All formats as text: "CSV, JSON, JSONL, Parquet, Excel or gzip"."""


def format_of(path: Path) -> FileFormat | None:
    """Return the format that a file's ending stands for, or None for an unknown ending."""
    ending = path.suffix.lower().removeprefix(".")
    return next((file_format for file_format in FORMATS if ending in file_format.endings), None)


def file_type_of(path: Path) -> FileType:
    """Return the value of `data.file_type` for a file that the user names: "json" for an unknown ending."""
    by_ending = format_of(path)
    return "json" if by_ending is None else by_ending.file_type


def choose_format(path: Path, file_type: str | None) -> str:
    """Return the kind of format in which a file is read.

    `file_type` decides, except for formats that it has no value for: these are recognized by their ending.
    Where it is None the ending decides alone, and an unknown ending is read as CSV.
    """
    by_ending = format_of(path)
    if by_ending is not None and (file_type is None or by_ending.kind != by_ending.file_type):
        return by_ending.kind
    return file_type or "csv"


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
    if chosen != "parquet" and is_known_text(text):
        return "csv"
    if chosen != "parquet" and starts_as_json(_without_comments(text)):
        return "json"
    if chosen == "json":
        return "csv" if _is_table(text) else "json"
    return "csv" if chosen in ("xlsx", "gzip") else chosen


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
    if find_drawn_table(text.splitlines()[: None if whole else -1]) is not None:
        return True
    rows = sample_rows(text, detect_delimiter(text, whole=whole))
    widths = [len(row) for row in rows[: None if whole else -1]]
    return len(widths) > 1 and widths[0] > 1 and set(widths) == {widths[0]}


def unpacked_bytes_limit(path: Path) -> int:
    """Return the bytes that a file may have after unpacking: its size, or for an archive a multiple of it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        is_archive = file.read(4).startswith((GZIP_MAGIC, ZIP_MAGIC))
    return min(MAX_UNPACKED_BYTES, max(MIN_UNPACKED_BYTES, MAX_UNPACKED_RATIO * size)) if is_archive else size


def load_reader(kind: str) -> Callable[[SourceFile], ReadOutcome]:
    """Import the reader of a format. Raises KeyError for an unknown kind."""
    module, function = {file_format.kind: file_format.read for file_format in FORMATS}[kind].split(":")
    reader: Callable[[SourceFile], ReadOutcome] = getattr(import_module(module), function)
    return reader
