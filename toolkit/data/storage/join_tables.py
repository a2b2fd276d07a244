"""The child process that appends the rows of a test file to a table: `python -m toolkit.data.storage.join_tables`.

It is a process of its own because the tables may be large. It leaves table.parquet in the folder of its request.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.progress import DataProgressReporter
from toolkit.data.read_options import limit_process_resources
from toolkit.data.table import Table, load_table, make_table_footer
from toolkit.data.task_process import TABLE_FILE, run_task
from toolkit.errors import DataError


@dataclass(frozen=True)
class JoinRequest:
    """data, test: Parquet files of the two tables; folder: where the joined table goes."""

    data: str
    test: str
    folder: str

    def dump(self) -> str:
        return json.dumps(asdict(self))


def write_joined_table(data: Table, test: Table, final: Path) -> None:
    """Write both tables to `final`. A column that one of them lacks is missing in its rows.

    Raises DataError when they have no column in common.
    """
    common = [name for name in data.columns if name in test.columns]
    if not common:
        theirs = ", ".join(f"'{name[:40]}'" for name in test.columns[:8])
        message = f"The test file {test.label} has no column in common with the data; its columns are {theirs}."
        raise DataError(message, "Use a test file that has the columns of your prompt and completion.")
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
        notices = [*data.notices, f"The last {test.rows:,} rows come from the test file {test.label}."]
        chats = {name: fault or _test_file_fault(name, test) for name, fault in data.chats.items()}
        more = {"chats": chats, "offers": [offer.dump() for offer in data.offers], "held_out": test.rows}
        more["joined"] = dict(data.joined)
        out.add_key_value_metadata(make_table_footer(digest, data.label, missing, notices, **more))


def _test_file_fault(column: str, test: Table) -> str:
    """Return why the test file's conversations can't be used, or "". The text names the test file, not the data."""
    if column not in test.columns:
        return ""
    fault = test.chats.get(column, f"Column '{column}' contains no conversations.")
    return f"In the test file {test.label}: {fault}" if fault else ""


def joined_content_bytes(data: Path, test: Path) -> int:
    """Return the estimated size in memory, in bytes, of both tables: 20 times that of their compressed files."""
    return 20 * (data.stat().st_size + test.stat().st_size)


def _join(content: dict[str, Any], report_progress: DataProgressReporter) -> None:
    request = JoinRequest(**content)
    data, test = Path(request.data), Path(request.test)
    limit_process_resources(joined_content_bytes(data, test))
    write_joined_table(load_table(data), load_table(test), Path(request.folder) / TABLE_FILE)


if __name__ == "__main__":
    sys.exit(run_task(_join))
