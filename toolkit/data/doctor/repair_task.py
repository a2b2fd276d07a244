"""The disposable process that makes a new version of a dataset: `python -m toolkit.data.doctor.repair_task`.

Takes a request as JSON on standard input and the rows concerned as rows.npy in the folder it was given, and leaves
table.parquet there. The table it starts from is only read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.conversations import ChatColumns
from toolkit.data.doctor.text_checks import remove_unusual_characters, repair_mojibake
from toolkit.data.read_options import limit_process_resources
from toolkit.data.readers.read_file import TABLE_FILE, data_error_as_dict, write_task_report
from toolkit.data.table import Table, load_table, make_table_footer
from toolkit.data.task_process import ROWS_FILE, RepairRequest, parquet_content_bytes
from toolkit.errors import DataError

_CELL_REPAIRS: dict[str, Callable[[str], str]] = {"repair": repair_mojibake, "clean": remove_unusual_characters}


def write_fixed_table(request: RepairRequest) -> None:
    """Write the new table. Raises DataError when too little would be left."""
    table, folder = load_table(Path(request.table)), Path(request.folder)
    concerned = np.zeros(table.rows, dtype=bool)
    concerned[np.load(folder / ROWS_FILE, allow_pickle=False)] = True
    left = table.rows - int(concerned.sum()) if request.action == "drop" else table.rows
    held_out = table.held_out
    if request.action == "drop":
        held_out -= int(concerned[table.rows - table.held_out :].sum())
    if table.held_out and not held_out:
        raise DataError("No row of the test file would be left.", "Choose another test file, or keep some of its rows.")
    if left < 2:
        raise DataError(f"Only {left} rows would be left; at least 2 are needed.", "Repair the source of the data.")
    schema = pa.schema([(column, pa.string()) for column in table.columns])
    missing = dict.fromkeys(table.columns, 0)
    chats, written = ChatColumns(), 0
    with pq.ParquetWriter(folder / TABLE_FILE, schema, compression="zstd") as out:
        for batch in _fixed_batches(table, request, concerned):
            for name, cells in zip(table.columns, batch.columns, strict=True):
                missing[name] += cells.null_count
                if name in table.chats:
                    chats.look(name, cells.to_pylist(), written + 1)
            if batch.num_rows:
                out.write_batch(batch)
                written += batch.num_rows
        more = {"version": request.version, "chats": chats.faults, "held_out": held_out}
        out.add_key_value_metadata(make_table_footer(request.sha256, table.label, missing, table.notices, **more))


def _fixed_batches(table: Table, request: RepairRequest, concerned: np.ndarray[Any, Any]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in table.batches(table.columns):
        mask = concerned[start : start + batch.num_rows]
        start += batch.num_rows
        if request.action == "drop":
            yield batch.filter(pa.array(~mask))
            continue
        edit = _CELL_REPAIRS[request.action]
        for at, name in enumerate(table.columns):
            if name in request.columns and mask.any():
                cells = batch.column(at).to_pylist()
                for row in np.flatnonzero(mask):
                    cells[row] = edit(cells[row]) if cells[row] else cells[row]
                batch = batch.set_column(at, name, pa.array(cells, pa.string()))
        yield batch


def main() -> int:
    """0 when the request was answered, with a table or with a reason; anything else is a death."""
    request = RepairRequest(**json.load(sys.stdin))
    limit_process_resources(parquet_content_bytes(Path(request.table)))
    try:
        write_fixed_table(request)
    except DataError as error:
        write_task_report(Path(request.folder), error=data_error_as_dict(error))
    else:
        write_task_report(Path(request.folder), error=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
