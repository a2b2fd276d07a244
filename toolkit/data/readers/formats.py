"""The file formats that data can be read from.

A new reader is its module, with a function that takes a SourceFile and returns a ReadOutcome, and one line in FORMATS.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
    FileFormat("xlsx", "json", "Excel", ("xlsx", "xls"), f"{_READERS}.xlsx_reader:read_xlsx"),
    FileFormat("gzip", "json", "gzip", ("gz",), f"{_READERS}.content_kind:read_gzip"),
)  # fmt: skip
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


def load_reader(kind: str) -> Callable[[SourceFile], ReadOutcome]:
    """Import the reader of a format. Raises KeyError for an unknown kind."""
    module, function = {file_format.kind: file_format.read for file_format in FORMATS}[kind].split(":")
    reader: Callable[[SourceFile], ReadOutcome] = getattr(import_module(module), function)
    return reader
