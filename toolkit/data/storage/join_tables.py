"""Two tables as one: the rows of the data, and behind them those of a test file. `python -m toolkit.data.storage.join_tables`.

A disposable process, because the tables may be large: takes a request as JSON on standard input, leaves table.parquet
and report.json in the folder that it was given. Knows no source format.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.read_options import limit_process_resources
from toolkit.data.readers.read_file import TABLE_FILE, data_error_as_dict, write_task_report
from toolkit.data.table import Table, load_table, make_table_footer
from toolkit.errors import DataError


@dataclass(frozen=True)
class JoinRequest:
    """data, test: two tables; folder: where the joined one goes."""

    data: str
    test: str
    folder: str

    def dump(self) -> str:
        return json.dumps(asdict(self))


def write_joined_table(data: Table, test: Table, final: Path) -> None:
    """Write both to `final`. Raises DataError when they have no column in common."""
    common = [name for name in data.columns if name in test.columns]
    if not common:
        theirs = ", ".join(f"'{name[:40]}'" for name in test.columns[:8])
        message = f"The test file {test.label} has no column of the data; its columns are {theirs}."
        raise DataError(message, "It needs the columns that the templates use.")
    names = [*data.columns, *(name for name in test.columns if name not in data.columns)]
    schema = pa.schema([(name, pa.string()) for name in names])
    missing = dict.fromkeys(names, 0)
    with pq.ParquetWriter(final, schema, compression="zstd") as out:
        for table in (data, test):
            for batch in table.batches(table.columns):
                empty = pa.nulls(batch.num_rows, pa.string())
                cells = [batch.column(name) if name in table.columns else empty for name in names]
                for name, column in zip(names, cells, strict=True):
                    missing[name] += column.null_count
                out.write_batch(pa.record_batch(cells, schema=schema))
        digest = hashlib.sha256(f"{data.sha256}+{test.sha256}".encode()).hexdigest()
        notices = [*data.notices, f"The last {test.rows:,} rows are those of the test file {test.label}."]
        chats = {name: fault or _test_file_fault(name, test) for name, fault in data.chats.items()}
        more = {"chats": chats, "offers": [offer.dump() for offer in data.offers], "held_out": test.rows}
        out.add_key_value_metadata(make_table_footer(digest, data.label, missing, notices, **more))


def _test_file_fault(column: str, test: Table) -> str:
    """Why the test file's conversations can't be used, in words that tell its rows from those of the data; or ""."""
    if column not in test.columns:
        return ""
    fault = test.chats.get(column, f"Column '{column}' holds no conversations.")
    return f"In the test file {test.label}: {fault}" if fault else ""


def main() -> int:
    """0 when the request was answered, with a table or with a reason; anything else is a death."""
    request = JoinRequest(**json.load(sys.stdin))
    limit_process_resources(20 * (Path(request.data).stat().st_size + Path(request.test).stat().st_size))
    folder = Path(request.folder)
    try:
        write_joined_table(load_table(Path(request.data)), load_table(Path(request.test)), folder / TABLE_FILE)
    except DataError as error:
        write_task_report(folder, error=data_error_as_dict(error))
    else:
        write_task_report(folder, error=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
