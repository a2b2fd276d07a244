"""The child processes that work on a dataset: their common `main`, their requests, and the files they leave.

A task reads its request from standard input: a JSON object with the key "folder", the folder that belongs to it alone.
There it leaves progress.json ({"share": 0 to 1, "words": ...}) while it works, and report.json at its end:
{"error": null}, or {"error": {"message", "hint", "offers"}} where it refuses. A child without report.json has died.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from toolkit.data.progress import DataProgressReporter
from toolkit.data.read_options import UnreadableError
from toolkit.errors import DataError
from toolkit.system.private_files import restrict_new_files

TABLE_FILE = "table.parquet"
TASK_REPORT_FILE = "report.json"
TASK_PROGRESS_FILE = "progress.json"
FINDINGS_FOLDER = "findings"
ROWS_FILE = "rows.npy"
TASK_PROGRESS_INTERVAL_S = 0.25
"""Seconds between two writes of progress.json: a page polls it about twice a second."""


class _PandasBlocker(MetaPathFinder):
    """Keeps pyarrow from importing pandas for the first list that it converts: half the time of a small file."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=name)


DataTask = Callable[[dict[str, Any], DataProgressReporter], None]


def run_task(work: DataTask, out_of_memory: DataError | None = None, *, needs_pandas: bool = False) -> int:
    """Run `work` on the request from standard input, report its outcome, and return 0.

    A DataError that `work` raises is the report's error. So is `out_of_memory` after a MemoryError; without it a
    MemoryError ends the process like any other exception, and the process that waits explains its death.
    needs_pandas: otherwise this process can't import pandas.
    """
    restrict_new_files()
    if not needs_pandas:
        sys.meta_path.insert(0, _PandasBlocker())
    request = json.load(sys.stdin)
    folder = Path(request["folder"])
    error: DataError | None = None
    try:
        work(request, make_progress_writer(folder))
    except DataError as refusal:
        error = refusal
    except MemoryError:
        if out_of_memory is None:
            raise
        error = out_of_memory
    (folder / TASK_REPORT_FILE).write_text(json.dumps({"error": None if error is None else _error_as_dict(error)}))
    return 0


def make_progress_writer(folder: Path) -> DataProgressReporter:
    """Return a reporter that writes progress.json into `folder`, at most once in TASK_PROGRESS_INTERVAL_S seconds."""
    last = 0.0

    def report_progress(share: float, words: str) -> None:
        nonlocal last
        if time.monotonic() - last < TASK_PROGRESS_INTERVAL_S:
            return
        last = time.monotonic()
        temporary = folder / f".{TASK_PROGRESS_FILE}"
        temporary.write_text(json.dumps({"share": share, "words": words}))
        temporary.replace(folder / TASK_PROGRESS_FILE)

    return report_progress


def _error_as_dict(error: DataError) -> dict[str, Any]:
    offers = [offer.dump() for offer in error.offers] if isinstance(error, UnreadableError) else []
    return {"message": error.message, "hint": error.hint, "offers": offers}


@dataclass(frozen=True)
class ExamineRequest:
    """table: the Parquet file; data: the data section of a config; folder: where the findings go."""

    table: str
    data: dict[str, Any]
    folder: str

    def dump(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class RepairRequest:
    """What the repair task needs. table: the Parquet file; folder: holds rows.npy and receives the new table.

    action: "drop", "repair", "clean" or "merge"; columns: the ones to edit; sha256, version: for the footer of the new
    table; spellings: old text -> new text of a cell, for "merge".
    """

    table: str
    folder: str
    action: str
    columns: list[str]
    sha256: str
    version: dict[str, Any]
    spellings: dict[str, str] = field(default_factory=dict)

    def dump(self) -> str:
        return json.dumps(asdict(self))


def parquet_content_bytes(table: Path) -> int:
    """Return the approximate size in memory, in bytes, of a Parquet file's content."""
    metadata = pq.read_metadata(table)
    return sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
