"""The child process that makes a new version of a dataset: `python -m toolkit.data.doctor.repair_task`.

The folder of its request (RepairRequest) holds the numbers of the rows to change as rows.npy and receives
table.parquet. The table it starts from is never changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.chat_repairs import CHAT_REPAIRS, repair_cell
from toolkit.data.conversations import ChatColumns
from toolkit.data.doctor.stray_rows import remove_end_marks
from toolkit.data.doctor.text_checks import remove_unusual_characters, repair_mojibake
from toolkit.data.examples.stratified_split import record_labels
from toolkit.data.progress import DataProgressReporter
from toolkit.data.read_options import limit_process_resources
from toolkit.data.table import (
    RowNumbers,
    RowOrigin,
    Table,
    load_table,
    make_table_footer,
    pack_bits,
    rows_in_words,
    unpack_bits,
)
from toolkit.data.task_process import ROWS_FILE, TABLE_FILE, RepairRequest, parquet_content_bytes, run_task
from toolkit.errors import DataError

_CELL_REPAIRS: dict[str, Callable[[str], str]] = {
    "repair": repair_mojibake,
    "clean": remove_unusual_characters,
    "unmark": remove_end_marks,
    **{name: partial(repair_cell, repair=name) for name in CHAT_REPAIRS},
}
"""Action -> what it does to a cell; "merge" replaces cells as the request's `spellings` say."""


def write_fixed_table(request: RepairRequest) -> None:
    """Write the new table. Raises DataError when fewer than 2 rows, or none of the test file, would remain."""
    table, folder = load_table(Path(request.table)), Path(request.folder)
    is_changed = np.zeros(table.rows, dtype=bool)
    is_changed[np.load(folder / ROWS_FILE, allow_pickle=False)] = True
    rows_left = table.rows - int(is_changed.sum()) if request.action == "drop" else table.rows
    held_out = table.held_out
    if request.action == "drop":
        held_out -= int(is_changed[table.rows - table.held_out :].sum())
    if table.held_out and not held_out:
        raise DataError("No row of the test file would remain.", "Choose another test file, or keep some of its rows.")
    if rows_left < 2:
        message = f"Only {rows_in_words(rows_left)} would remain; at least 2 are needed."
        raise DataError(message, "Correct the source of the data instead.")
    schema = pa.schema([(column, pa.string()) for column in table.columns])
    missing = dict.fromkeys(table.columns, 0)
    chats, written = ChatColumns(), 0
    with pq.ParquetWriter(folder / TABLE_FILE, schema, compression="zstd") as out:
        for batch in _fixed_batches(table, request, is_changed):
            for name, cells in zip(table.columns, batch.columns, strict=True):
                missing[name] += cells.null_count
                if name in table.chats:
                    chats.check_cells(name, cells.to_pylist(), written + 1)
            if batch.num_rows:
                out.write_batch(batch)
                written += batch.num_rows
        removed = np.flatnonzero(is_changed) if request.action == "drop" else np.zeros(0, dtype=np.int64)
        origin = _trace_rows(table, removed)
        more = {"version": request.version, "chats": chats.faults, "held_out": held_out, "joined": dict(table.joined)}
        more["origin"] = None if origin is None else asdict(origin)
        out.add_key_value_metadata(make_table_footer(request.sha256, table.label, missing, table.notices, **more))


def _trace_rows(table: Table, removed: RowNumbers) -> RowOrigin | None:
    """Return the origin of the table without these rows; None if the table is a version without an origin."""
    if table.version is not None and table.origin is None:
        return None
    before = table.origin or RowOrigin(
        table.rows, pack_bits(np.zeros(table.rows, dtype=bool)), labels=record_labels(table)
    )
    now = before.kept_rows[removed]
    everything = np.union1d(before.removed_rows, now)
    missing = {}
    for column in dict.fromkeys((*before.missing, *(name for name in table.columns if table.missing.get(name, 0)))):
        empty = np.zeros(before.rows, dtype=bool)
        if column in before.missing:
            empty[before.removed_rows] = unpack_bits(before.missing[column], len(before.removed_rows))
        parts = [part.column(0).is_null().to_numpy() for part in table.scan(removed, [column])]
        empty[now] = np.concatenate(parts) if parts else False
        missing[column] = pack_bits(empty[everything])
    bits = np.zeros(before.rows, dtype=bool)
    bits[everything] = True
    return RowOrigin(before.rows, pack_bits(bits), missing, before.labels)


def _fixed_batches(table: Table, request: RepairRequest, is_changed: np.ndarray[Any, Any]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in table.batches(table.columns):
        mask = is_changed[start : start + batch.num_rows]
        start += batch.num_rows
        if request.action == "drop":
            yield batch.filter(pa.array(~mask))
            continue
        edit = _CELL_REPAIRS.get(request.action) or (lambda cell: request.spellings.get(cell, cell))
        for at, name in enumerate(table.columns):
            if name in request.columns and mask.any():
                cells = batch.column(at).to_pylist()
                for row in np.flatnonzero(mask):
                    cells[row] = edit(cells[row]) if cells[row] else cells[row]
                batch = batch.set_column(at, name, pa.array(cells, pa.string()))
        yield batch


def _repair(content: dict[str, Any], report_progress: DataProgressReporter) -> None:
    request = RepairRequest(**content)
    limit_process_resources(parquet_content_bytes(Path(request.table)))
    write_fixed_table(request)


if __name__ == "__main__":
    sys.exit(run_task(_repair))
