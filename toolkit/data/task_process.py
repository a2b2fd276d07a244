"""What the child processes that examine and mend a dataset are asked, and where they leave their answers.

Light on purpose: the app's process imports this and none of the libraries that do the work.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

FINDINGS_FOLDER, EXAMINE_PROGRESS_FILE, ROWS_FILE = "findings", "progress.json", "rows.npy"


class _JsonRequest:
    def dump(self) -> str:
        return json.dumps(asdict(self))  # type: ignore[call-overload]


@dataclass(frozen=True)
class ExamineRequest(_JsonRequest):
    """table: the parquet file; data: the data section of a config; folder: where the answer goes."""

    table: str
    data: dict[str, Any]
    folder: str


@dataclass(frozen=True)
class RepairRequest(_JsonRequest):
    """table: the parquet file; folder: has rows.npy, gets the answer; action: drop, repair or clean; columns: those to
    edit; sha256 and version: for the footer."""

    table: str
    folder: str
    action: str
    columns: list[str]
    sha256: str
    version: dict[str, Any]


def parquet_content_bytes(table: Path) -> int:
    """The size of a parquet file's content in memory, about."""
    metadata = pq.read_metadata(table)
    return sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
