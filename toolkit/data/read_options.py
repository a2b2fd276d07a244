"""What a dataset may be at most, what a reader is asked, and how it refuses: shared by the child that reads files and
the process that starts it."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from toolkit.config import DataConfig
from toolkit.errors import DataError

MAX_COLUMNS = 1_000
MAX_CELL = 1_000_000
"""Longest cell, in characters."""
MAX_COLUMN_NAME_CHARACTERS = 1_000
"""Longest column name, in characters."""
READER_MEMORY_BYTES = 4 << 30
"""Address space of the reading process, in bytes: libraries about 1 GB, the rest for the file."""
MAX_OPEN_FILES = 64


@dataclass(frozen=True)
class ReadOptions:
    """What the user decided about a file that can be read in more than one way; the fields are those of the data
    settings with the same names. None and False: find out, or refuse."""

    encoding: str | None = None
    delimiter: str | None = None
    rows_from: str | None = None
    flatten: bool = False
    bad_rows: str | None = None
    repair_text: bool = False


DEFAULT_READ_OPTIONS = ReadOptions()
READ_OPTION_NAMES = tuple(field.name for field in fields(ReadOptions))
"""The data settings that say how a file is read."""
SOURCE_SETTINGS = ("file_type", "path", "test_path", *READ_OPTION_NAMES)
"""The data settings that decide which table there is: with other values it has to be opened anew."""


def source_key(data: DataConfig) -> str:
    """Equal for settings that open the same table."""
    return data.model_dump_json(include=set(SOURCE_SETTINGS))


def read_options(data: DataConfig) -> ReadOptions:
    """The choices that the data settings hold."""
    return ReadOptions(
        **{name: getattr(data, name) or getattr(DEFAULT_READ_OPTIONS, name) for name in READ_OPTION_NAMES}
    )


@dataclass(frozen=True)
class Offer:
    """A way to read the file. label: what it does, in words; preview: lines of text as this way reads them."""

    label: str
    options: ReadOptions
    preview: tuple[str, ...] = ()

    def dump(self) -> dict[str, Any]:
        """As JSON; `load` reads it back."""
        return asdict(self)

    @classmethod
    def load(cls, content: dict[str, Any]) -> Offer:
        return cls(content["label"], ReadOptions(**content["options"]), tuple(content["preview"]))


class UnreadableError(DataError):
    """A file that can be read once the user chooses: each of `offers` says how."""

    def __init__(self, message: str, hint: str = "", offers: Iterable[Offer] = ()) -> None:
        super().__init__(message, hint)
        self.offers = tuple(offers)


PREVIEW_LINES, PREVIEW_WIDTH = 3, 160


def shorten_preview(lines: Iterable[str]) -> tuple[str, ...]:
    """The first lines, short enough for a screen."""
    shown = []
    for line in lines:
        text = " ".join(line.split())
        shown.append(text if len(text) <= PREVIEW_WIDTH else text[: PREVIEW_WIDTH - 1] + "…")
        if len(shown) == PREVIEW_LINES:
            break
    return tuple(shown)


def time_limit_seconds(size: int) -> int:
    """Time allowed for a file of `size` bytes, CPU and wall clock alike: a minute and a second for every MB."""
    return 60 + size // 1_000_000


def limit_process_resources(size: int) -> None:
    """Bind this process to the limits for a file of `size` bytes: memory, CPU, output and open files; no core dump."""
    cpu = time_limit_seconds(size)
    limits = {
        resource.RLIMIT_AS: READER_MEMORY_BYTES,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: (64 << 20) + 4 * size,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
