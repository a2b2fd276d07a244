"""What the data tests share: bytes in, a table or a DataError out, by the reader's own code but in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from toolkit.data.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from toolkit.data.readers.read_file import TABLE_FILE, ReadRequest, read_file_to_table
from toolkit.data.table import Table, load_table

Opener = Callable[..., Table]


def open_in(
    folder: Path, content: bytes | str, kind: str = "csv", options: ReadOptions = DEFAULT_READ_OPTIONS
) -> Table:
    data = content.encode() if isinstance(content, str) else content
    source = folder / f"source.{kind}"
    source.write_bytes(data)
    read_file_to_table(ReadRequest(str(source), str(folder), kind, hashlib.sha256(data).hexdigest(), "test", options))
    return load_table(folder / TABLE_FILE)


@pytest.fixture
def open_bytes(tmp_path: Path) -> Opener:
    return partial(open_in, tmp_path)
