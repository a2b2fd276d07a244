"""The Parquet reader: text stays text, numbers and times become text, lists and objects become JSON text.

It reads small batches, because a few bytes of Parquet can stand for gigabytes. Binary columns are refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.read_options import MAX_COLUMNS, MAX_LISTED
from toolkit.data.readers.table_writer import ReadOutcome, SourceFile, TableWriter
from toolkit.data.shapes.nested_rows import UNCHANGED, NestedAnswers
from toolkit.errors import DataError

PARQUET_MAGIC = b"PAR1"
PARQUET_BATCH_ROWS = 1_024
MAX_UNPACKED_CHARACTERS, MAX_CHARACTERS_PER_BYTE = 1 << 30, 40
"""A file may unpack to this many characters, or to this many for each of its bytes, whichever is more."""


def read_parquet(source: SourceFile) -> ReadOutcome:
    """Read the rows of a Parquet file. Raises DataError."""
    path, writer = source.path, source.new_writer(lambda row: f"row {row:,} of the file")
    with path.open("rb") as file:
        if file.read(len(PARQUET_MAGIC)) != PARQUET_MAGIC:
            message = "This is not a Parquet file, despite its name."
            raise DataError(message, "Rename it so that its ending matches its format.")
    try:
        with pq.ParquetFile(path) as file:
            return ReadOutcome(writer, _write_rows(file, path.stat().st_size, writer))
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        hint = "The file is damaged or incomplete: copy or download it again."
        raise DataError(f"The Parquet file can't be read: {reason}.", hint) from error


def _write_rows(file: pq.ParquetFile, size: int, writer: TableWriter) -> list[str]:
    fields = list(file.schema_arrow)
    _check_columns(fields, file.metadata.num_rows)
    for field in fields:
        writer.add_column(field.name)
    answers = NestedAnswers()
    texts = [_text_converter(field, answers) for field in fields]
    budget = max(MAX_UNPACKED_CHARACTERS, MAX_CHARACTERS_PER_BYTE * size)
    number = 0
    writer.share_read = lambda: number / file.metadata.num_rows
    for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
        parts = zip(texts, batch.columns, fields, strict=True)
        columns = [_cells(text, column, field, number) for text, column, field in parts]
        for cells in zip(*columns, strict=True):
            number += 1
            writer.add(cells, number)
            budget -= sum(map(len, filter(None, cells)))
        if budget < 0:
            message = f"The file has {size:,} bytes, but its unpacked text exceeds the limit at row {number:,}."
            raise DataError(message, "Save the rows that you need in a separate file.")
    nested = [field.name for field in fields if pa.types.is_nested(field.type)]
    converted = [field.name for field in fields if not _is_text(field.type) and field.name not in nested]
    nested = [name for name in nested if name not in answers.columns]
    return [
        *(f"Numbers and times in '{name}' were converted to text." for name in converted[:MAX_LISTED]),
        *(f"Lists and objects in '{name}' were converted to JSON text." for name in nested[:MAX_LISTED]),
        *answers.notices(),
    ]


def _check_columns(fields: list[pa.Field], rows: int) -> None:
    if len(fields) > MAX_COLUMNS:
        message = f"The file has {len(fields):,} columns; at most {MAX_COLUMNS:,} are allowed."
        raise DataError(message, "Keep only the columns that your prompt and completion use.")
    repeated = [name for name, count in Counter(field.name for field in fields).items() if count > 1]
    if repeated:
        raise DataError(f"Two columns are named '{repeated[0][:60]}'.", "Give each column a unique name.")
    nameless = next((at for at, field in enumerate(fields, start=1) if not field.name.strip()), None)
    if nameless is not None:
        raise DataError(f"Column {nameless} has no name.", "Give each column a name.")
    binary = next((field for field in fields if _is_binary(field.type)), None)
    if binary is not None:
        message = f"Column '{binary.name[:60]}' contains bytes, not text ({binary.type})."
        raise DataError(message, "Remove the column, or save it as text.")
    if not fields or not rows:
        raise DataError("The file has 0 rows; at least 2 are needed.", "Add rows.")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    """Return whether cells of this type hold bytes, also inside structs, lists, maps and dictionaries."""
    found = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    if any(is_kind(kind) for is_kind in found):
        return True
    if pa.types.is_dictionary(kind):
        return _is_binary(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_is_binary(kind.field(at).type) for at in range(kind.num_fields))
    return False


def _text_converter(field: pa.Field, answers: NestedAnswers) -> Callable[[pa.Array], list[str | None]]:
    if pa.types.is_nested(field.type):
        return lambda column: list(_as_json(column, field.name, answers))
    return lambda column: column.cast(pa.string()).to_pylist()


def _cells(
    text: Callable[[pa.Array], list[str | None]], column: pa.Array, field: pa.Field, before: int
) -> list[str | None]:
    """Return the column's cells as text. before: number of rows of the file in front of them."""
    try:
        return text(column)
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date outside the calendar
        if isinstance(error, pa.ArrowException):
            raise
        where = f"rows {before + 1:,} to {before + len(column):,}"
        message = f"Column '{field.name[:60]}' contains an invalid value in {where} ({str(error)[:150]})."
        hint = "The file is damaged or was written incorrectly: create it again from its source."
        raise DataError(message, hint) from error


def _as_json(column: pa.Array, name: str, answers: NestedAnswers) -> Iterator[str | None]:
    for value in column.to_pylist():
        plain = _plain(value)
        answer = UNCHANGED if value is None else answers.read(name, plain)
        if answer is not UNCHANGED:
            yield None if answer is None else str(answer)
        else:
            yield None if value is None else json.dumps(plain, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """Return a cell's value without the None that Arrow adds for the absent fields of a struct."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
