"""The child process that makes a new version of a dataset: `python -m toolkit.data.doctor.repair_task`.

The folder of its request (RepairRequest) holds the numbers of the rows to change as rows.npy and receives
table.parquet. The table it starts from is never changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
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
from toolkit.data.progress import DataProgressReporter
from toolkit.data.read_options import limit_process_resources
from toolkit.data.table import Table, load_table, make_table_footer, rows_in_words
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
        more = {"version": request.version, "chats": chats.faults, "held_out": held_out, "joined": dict(table.joined)}
        out.add_key_value_metadata(make_table_footer(request.sha256, table.label, missing, table.notices, **more))


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
