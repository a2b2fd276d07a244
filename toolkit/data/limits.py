"""What a dataset may be at most, what a reader is asked, and how it refuses: shared by the child that reads files and
the process that starts it."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from dataclasses import dataclass

from toolkit.errors import DataError

MAX_COLUMNS = 1_000
MAX_CELL = 1_000_000
"""Longest cell, in characters."""
MAX_NAME = 1_000
"""Longest column name, in characters."""
MEMORY = 4 << 30
"""Address space of the reading process, in bytes: libraries about 1 GB, the rest for the file."""
OPEN_FILES = 64


@dataclass(frozen=True)
class ReadOptions:
    """What the user decided about a file that can't be read without a decision. None: find out, or refuse."""

    encoding: str | None = None
    delimiter: str | None = None


FIND_OUT = ReadOptions()


class UnreadableError(DataError):
    """A file that can be read once the user chooses: each of `offers` is a choice that `open_table` accepts."""

    def __init__(self, message: str, hint: str = "", offers: Iterable[ReadOptions] = ()) -> None:
        super().__init__(message, hint)
        self.offers = tuple(offers)


def seconds(size: int) -> int:
    """Time allowed for a file of `size` bytes, CPU and wall clock alike: a minute and a second for every MB."""
    return 60 + size // 1_000_000


def confine(size: int) -> None:
    """Bind this process to the limits for a file of `size` bytes: memory, CPU, output and open files; no core dump."""
    cpu = seconds(size)
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: (64 << 20) + 4 * size,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
