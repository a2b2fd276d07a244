"""How a file is read: the user's options, the offers of a refusal, and the limits on files and on reading processes.

Shared by the app and the child process that reads a file.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from toolkit.config import DataConfig
from toolkit.errors import DataError

MAX_COLUMNS = 1_000
MAX_CELL = 1_000_000
"""Characters of the longest cell."""
MAX_COLUMN_NAME_CHARACTERS = 1_000
"""Characters of the longest column name."""
MAX_LISTED = 10
"""Items that a message or notice lists; of more it gives the number."""
READER_MEMORY_BYTES = 4 << 30
"""Address space of a process that reads data: about 1 GB for libraries, the rest for the file."""
MAX_OPEN_FILES = 64


@dataclass(frozen=True)
class ReadOptions:
    """The user's choices for a file that can be read in several ways. None: detect automatically, or refuse the file.

    The fields are those of the data settings with the same names.
    """

    encoding: str | None = None
    delimiter: str | None = None
    rows_from: str | None = None
    flatten: bool = False
    bad_rows: str | None = None
    repair_text: bool = False
    quotes: str | None = None
    header_row: int | None = None
    hub_config: str | None = None
    hub_split: str | None = None
    hub_revision: str | None = None
    join_messages: bool = False
    number_names: bool = False
    answered_by: str | None = None


DEFAULT_READ_OPTIONS = ReadOptions()
READ_OPTION_NAMES = tuple(field.name for field in fields(ReadOptions))
"""The data settings that determine how a file is read."""
SOURCE_SETTINGS = ("file_type", "path", "test_path", *READ_OPTION_NAMES)
"""The data settings that determine the table: when one of them changes, the dataset must be opened again."""


def source_key(data: DataConfig) -> str:
    """Return a key that is equal for settings that open the same table."""
    return data.model_dump_json(include=set(SOURCE_SETTINGS))


def read_options(data: DataConfig) -> ReadOptions:
    """Return the reading options in the data settings."""
    return ReadOptions(
        **{
            name: getattr(DEFAULT_READ_OPTIONS, name) if getattr(data, name) is None else getattr(data, name)
            for name in READ_OPTION_NAMES
        }
    )


@dataclass(frozen=True)
class Offer:
    """A way to read the file. label: describes it; options: select it; preview: the first lines read this way.

    For a file that was read in another way, doubt says why this may be the right one, current are the lines as they
    were read, and keep are the options that settle on that reading.
    """

    label: str
    options: ReadOptions
    preview: tuple[str, ...] = ()
    doubt: str = ""
    current: tuple[str, ...] = ()
    keep: ReadOptions = DEFAULT_READ_OPTIONS

    def dump(self) -> dict[str, Any]:
        """Return the offer as a JSON object that `load` accepts."""
        return asdict(self)

    @classmethod
    def load(cls, content: dict[str, Any]) -> Offer:
        lines = {name: tuple(content.get(name, ())) for name in ("preview", "current")}
        chosen, keep = ReadOptions(**content["options"]), ReadOptions(**content.get("keep", {}))
        return cls(content["label"], chosen, doubt=content.get("doubt", ""), keep=keep, **lines)


class UnreadableError(DataError):
    """A file that can be read with the options of one of `offers`; without any, no options would help."""

    def __init__(self, message: str, hint: str = "", offers: Iterable[Offer] = ()) -> None:
        super().__init__(message, hint)
        self.offers = tuple(offers)


PREVIEW_LINES, PREVIEW_WIDTH = 3, 160
"""Lines of a preview, and characters of each."""


def shorten_preview(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the first lines, shortened to PREVIEW_WIDTH characters each."""
    shown = []
    for line in lines:
        text = " ".join(line.split())
        shown.append(text if len(text) <= PREVIEW_WIDTH else text[: PREVIEW_WIDTH - 1] + "…")
        if len(shown) == PREVIEW_LINES:
            break
    return tuple(shown)


def time_limit_seconds(size: int) -> int:
    """Return the seconds of CPU and of wall clock time that a file of `size` bytes may take.

    These are a minute and a second for every MB, several times what a slow machine needs.
    """
    return 60 + size // 1_000_000


def limit_process_resources(size: int) -> None:
    """Limit this process for a file of `size` bytes: memory, CPU time, size of its output, open files; no core dump."""
    cpu = time_limit_seconds(size)
    limits = {
        resource.RLIMIT_AS: READER_MEMORY_BYTES,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: (64 << 20) + 4 * size,  # a table is smaller than its source, but for tiny files
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (value, value))
