"""Parquet, read with bounds: text stays text, numbers and times become theirs, lists and objects their JSON.

Row by row in small batches, because a few bytes of Parquet may stand for gigabytes. Binary columns are refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.read_options import MAX_COLUMNS
from toolkit.data.readers.table_writer import TableWriter
from toolkit.errors import DataError

PARQUET_MAGIC = b"PAR1"
PARQUET_BATCH_ROWS = 1_024
MAX_UNPACKED_CHARACTERS, MAX_CHARACTERS_PER_BYTE = 1 << 30, 40
"""Characters that a file may unpack to: so many, or so many for each of its bytes, whichever is more."""


def read_parquet(path: Path, writer: TableWriter) -> list[str]:
    """Write the file's rows to `writer`; returns notices. Raises DataError."""
    with path.open("rb") as file:
        if file.read(4) != PARQUET_MAGIC:
            raise DataError("This is no Parquet file, whatever its name says.", "Give it the ending of what it is.")
    try:
        with pq.ParquetFile(path) as file:
            return _write_rows(file, path.stat().st_size, writer)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise DataError(
            f"The Parquet file can't be read: {reason}.", "It is damaged or cut off: copy it again."
        ) from error


def _write_rows(file: pq.ParquetFile, size: int, writer: TableWriter) -> list[str]:
    fields = list(file.schema_arrow)
    _check_columns(fields, file.metadata.num_rows)
    for field in fields:
        writer.add_column(field.name)
    texts = [_text_converter(field) for field in fields]
    budget = max(MAX_UNPACKED_CHARACTERS, MAX_CHARACTERS_PER_BYTE * size)
    number = 0
    writer.at = lambda: number / file.metadata.num_rows
    for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
        columns = [_cells(text, column, field, number) for text, column, field in
                   zip(texts, batch.columns, fields, strict=True)]  # fmt: skip
        for cells in zip(*columns, strict=True):
            number += 1
            writer.add(cells, number)
            budget -= sum(map(len, filter(None, cells)))
        if budget < 0:
            message = f"The file of {size:,} bytes unpacks to more text than is allowed, by row {number:,}."
            raise DataError(message, "Write the rows that you need into a file of their own.")
    nested = [field.name for field in fields if pa.types.is_nested(field.type)]
    said = [f"Numbers and times in '{field.name}' became text." for field in fields if not _is_text(field.type)
            and field.name not in nested][:10]  # fmt: skip
    return said + [f"Column '{name}' holds lists or objects; they are JSON text." for name in nested[:10]]


def _check_columns(fields: list[pa.Field], rows: int) -> None:
    if len(fields) > MAX_COLUMNS:
        message = f"The file has {len(fields):,} columns; at most {MAX_COLUMNS:,} are allowed."
        raise DataError(message, "Keep the columns that the prompt needs.")
    twice = [name for name, count in Counter(field.name for field in fields).items() if count > 1]
    if twice:
        raise DataError(f"Two columns are named '{twice[0][:60]}'.", "Give every column a name of its own.")
    nameless = next((at for at, field in enumerate(fields, start=1) if not field.name.strip()), None)
    if nameless is not None:
        raise DataError(f"Column {nameless} has no name.", "Give every column a name.")
    binary = next((field for field in fields if _is_binary(field.type)), None)
    if binary is not None:
        message = f"Column '{binary.name[:60]}' holds bytes, not text ({binary.type})."
        raise DataError(message, "Leave it out, or write it as text.")
    if not fields or not rows:
        raise DataError("The file has 0 rows; at least 2 are needed.", "Add rows to it.")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    found = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in found)


def _text_converter(field: pa.Field) -> Callable[[pa.Array], list[str | None]]:
    if pa.types.is_nested(field.type):
        return lambda column: list(_as_json(column))
    return lambda column: column.cast(pa.string()).to_pylist()


def _cells(
    text: Callable[[pa.Array], list[str | None]], column: pa.Array, field: pa.Field, before: int
) -> list[str | None]:
    """The column's cells as text. before: rows of the file in front of them."""
    try:
        return text(column)
    except (ValueError, OverflowError) as error:  # text that is no UTF-8, a date beyond the calendar
        if isinstance(error, pa.ArrowException):
            raise
        where = f"rows {before + 1:,} to {before + len(column):,}"
        message = f"Column '{field.name[:60]}' holds a value that is none of its kind in {where} ({str(error)[:150]})."
        raise DataError(message, "It is damaged, or was written wrongly: write it again from its source.") from error


def _as_json(column: pa.Array) -> Iterator[str | None]:
    for value in column.to_pylist():
        yield None if value is None else json.dumps(_plain(value), ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """Maps come as lists of pairs and structs with a None for what is absent: leave that out."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
