"""Tables whose content fits into memory: `python -m toolkit.data.storage.bounded_tables` measures one.

A Parquet file of 40 kB can stand for gigabytes, and the app reads whole row groups. So it opens a table only if this
process has made or measured it, if this installation has signed it, or after a disposable process has measured it.
"""

from __future__ import annotations

import hmac
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.child_process import ChildRefusedError, run_in_child
from toolkit.data.progress import DataProgressReporter
from toolkit.data.read_options import limit_process_resources, time_limit_seconds
from toolkit.data.table import Table, load_table
from toolkit.data.task_process import run_task
from toolkit.errors import DataError, RunError
from toolkit.system.durable import durable_write, sign_body
from toolkit.system.foreign_files import describe_read_error, read_foreign_file
from toolkit.system.printable import format_bytes

MAX_TABLE_BYTES, MAX_BYTES_PER_BYTE = 2 << 30, 40
"""A table may unpack to so many bytes, or to so many for each of its bytes, whichever is more."""
MAX_ROW_GROUP_BYTES = 512 << 20
MEASURED_BATCH_ROWS = 256
logger = logging.getLogger(__name__)
_MODULE = "toolkit.data.storage.bounded_tables"
_measured: dict[tuple[int, ...], DataError | None] = {}
"""Stamp of each known file -> why it can't be used, None if it can."""


def load_bounded_table(parquet: Path) -> Table:
    """Open a table as `load_table` does, measured. Raises DataError, also for one that unpacks to too much."""
    table = load_table(parquet)
    ensure_bounded(parquet)
    return table


def ensure_bounded(parquet: Path) -> None:
    """Measure a Parquet file unless it is known. Raises DataError when it unpacks to too much or can't be read."""
    try:
        stamp = _stamp(parquet)
        if stamp not in _measured:
            _measured[stamp] = None if _is_signed(parquet, stamp) else _measure_in_child(parquet, stamp[2])
    except OSError as error:
        raise DataError(f"{parquet} can't be read: {describe_read_error(error)}.", "Open the data again.") from error
    problem = _measured[stamp]
    if problem is not None:
        raise problem


def _measure_in_child(parquet: Path, size: int) -> DataError | None:
    with tempfile.TemporaryDirectory() as folder:
        request = json.dumps({"table": str(parquet.absolute()), "folder": folder})
        try:
            run_in_child(_MODULE, request, Path(folder), time_limit_seconds(size), doing="Measuring")
        except ChildRefusedError as refused:
            return refused
    return None


def sign_table(parquet: Path) -> None:
    """Sign a table that this installation has made, so that a later start of the app need not measure it."""
    stamp = _stamp(parquet)
    _measured[stamp] = None
    try:
        durable_write(_signature_file(parquet), _sign(parquet, stamp))
    except (OSError, RunError) as error:  # it is measured by the next start
        logger.warning("%s can't be signed: %s", parquet, error)


def _stamp(parquet: Path) -> tuple[int, ...]:
    found = parquet.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _signature_file(parquet: Path) -> Path:
    return parquet.with_suffix(".signature")


def _sign(parquet: Path, stamp: tuple[int, ...]) -> str:
    return sign_body({"table": parquet.name, "stamp": list(stamp)})


def _is_signed(parquet: Path, stamp: tuple[int, ...]) -> bool:
    try:
        return hmac.compare_digest(read_foreign_file(_signature_file(parquet), 1000), _sign(parquet, stamp).encode())
    except (OSError, RunError):
        return False


def measure_table(parquet: Path) -> int:
    """Return the bytes that the content takes in memory. Raises DataError: they are too many, or it can't be read."""
    limit, total = max(MAX_TABLE_BYTES, MAX_BYTES_PER_BYTE * parquet.stat().st_size), 0
    try:
        with pq.ParquetFile(parquet) as file:
            for group in range(file.num_row_groups):
                size = 0
                for batch in file.iter_batches(batch_size=MEASURED_BATCH_ROWS, row_groups=[group]):
                    size += batch.nbytes
                    if size > MAX_ROW_GROUP_BYTES or total + size > limit:
                        raise _too_large(parquet)
                total += size
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        reason = describe_read_error(error)
        raise DataError(f"The prepared data {parquet} can't be read ({reason}).", "Open the data again.") from error
    return total


def _too_large(parquet: Path) -> DataError:
    size = format_bytes(parquet.stat().st_size)
    message = f"The prepared data {parquet} has {size}, but it unpacks to more than the app may hold in memory."
    return DataError(message, "Delete this file, then open the data again from its source.")


def _measure(request: dict[str, Any], report_progress: DataProgressReporter) -> None:
    parquet = Path(request["table"])
    limit_process_resources(parquet.stat().st_size)
    try:
        measure_table(parquet)
    except MemoryError as error:
        raise _too_large(parquet) from error


if __name__ == "__main__":
    sys.exit(run_task(_measure))
