"""The table: a Parquet file whose cells are text or missing, read by row, page, column or batch.

Its metadata (hash of the source, counts of missing cells, notices) is in the footer of the file, so that a copy in a
run directory is complete.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from toolkit.data.read_options import Offer
from toolkit.errors import DataError
from toolkit.system.foreign_files import describe_read_error, parse_foreign_json

FOOTER_KEY = b"finetuning-toolkit"
TABLE_SCHEMA_VERSION = 1
MAX_ROWS_BY_GROUP = 1_000
"""`Table.take` reads whole columns only for more rows than this."""

TableRow = dict[str, str | None]
RowNumbers = np.ndarray[Any, np.dtype[np.int64]]
_ODD_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_INVISIBLE = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u2060-\u2064\ufeff]")


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # file names are made of it


@dataclass(frozen=True)
class DatasetVersion:
    """The origin of a dataset that fixes were applied to.

    original, parent: sha256 of the first table and of the previous one; parent_type, parent_path: the data settings
    that name the previous one; steps: what was done since the original, in words.
    """

    original: Sha256
    parent: Sha256
    parent_type: str
    parent_path: str
    steps: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RowOrigin:
    """Which rows of the original a dataset with fixes still has: they keep their side of its split.

    rows: of the original. removed: a bit for each of them, packed and in base64. missing: column -> a bit for each
    removed row, set where its cell was missing: such rows are in no split. labels: column of few different texts -> a
    number below 256 for each row of the original, equal where the cells were, for a stratified split.
    """

    rows: int
    removed: str
    missing: Mapping[str, str] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    @cached_property
    def removed_rows(self) -> RowNumbers:
        """The 0-based numbers in the original, ascending."""
        return np.flatnonzero(unpack_bits(self.removed, self.rows))

    @cached_property
    def kept_rows(self) -> RowNumbers:
        """The 0-based number in the original of each row that is left."""
        return np.flatnonzero(~unpack_bits(self.removed, self.rows))

    def usable_removed_rows(self, columns: Sequence[str]) -> RowNumbers:
        """Return the removed rows, as numbers in the original, in which none of `columns` was missing."""
        usable = np.ones(len(self.removed_rows), dtype=bool)
        for column in columns:
            if column in self.missing:
                usable &= ~unpack_bits(self.missing[column], len(usable))
        return self.removed_rows[usable]

    def label_numbers(self, column: str) -> RowNumbers:
        """Return the number of each row of the original for one of `labels`. Raises ValueError for another count."""
        numbers = np.frombuffer(base64.b64decode(self.labels[column], validate=True), dtype=np.uint8)
        if len(numbers) != self.rows:
            raise ValueError(f"its labels are those of {len(numbers):,} rows")
        return numbers.astype(np.int64)


def pack_bits(bits: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    """Return one bit per value, in base64."""
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def unpack_bits(packed: str, count: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return what was packed. Raises ValueError for a text that has another number of bits."""
    raw = base64.b64decode(packed, validate=True)
    if count < 0 or len(raw) != -(-count // 8):
        raise ValueError(f"it describes other than {count:,} rows")
    return np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=count).astype(bool)


@dataclass(frozen=True)
class Table:
    """A parsed dataset. path: the Parquet file; sha256: of the original bytes, 64 hex digits; label: displayed name.

    missing: number of missing cells of each column; notices: the reader's decisions, in words; version: None for a
    dataset without fixes; offers: other ways to read the source; chats: column of conversations -> why one of them
    can't be trained on, or ""; joined: column of conversations -> the columns that
    they were made of; held_out: number of rows at the end that come from a separate test file; origin: of a dataset
    with fixes, None if they were made before this was recorded.
    """

    path: Path
    sha256: str
    label: str
    columns: tuple[str, ...]
    rows: int
    missing: Mapping[str, int] = field(hash=False)
    notices: tuple[str, ...] = ()
    version: DatasetVersion | None = None
    offers: tuple[Offer, ...] = field(default=(), hash=False)
    chats: Mapping[str, str] = field(default_factory=dict, hash=False)
    held_out: int = 0
    joined: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    origin: RowOrigin | None = None

    @cached_property
    def _starts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The first row of each row group, and the end of the last one."""
        with self._opened() as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        return np.cumsum([0, *sizes], dtype=np.int64)

    def page(self, start: int, count: int) -> list[TableRow]:
        """Return rows start .. start+count as dicts, fewer at the end. Reads only their row groups."""
        start, stop = max(start, 0), min(start + count, self.rows)
        if start >= stop:
            return []
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        with self._opened(int(self._starts[first]), int(self._starts[last])) as file:
            part = file.read_row_groups(list(range(first, last)), columns=list(self.columns))
        begin = int(self._starts[first])
        return _dicts(part.slice(start - begin, stop - start))

    def row(self, index: int) -> TableRow:
        """Return one row. Raises DataError outside 0 .. rows-1."""
        if not 0 <= index < self.rows:
            raise DataError(
                f"There is no row {index + 1}: the data has {rows_in_words(self.rows)}.", "Choose another row."
            )
        return self.page(index, 1)[0]

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column, text or null, `rows` long."""
        return self.read([name]).column(0)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read whole columns; they take as much memory as their text."""
        with self._opened() as file:
            return file.read(columns=list(columns))

    def batches(self, columns: Sequence[str], size: int = 16_384) -> Iterator[pa.RecordBatch]:
        """Yield the columns from the first row to the last, at most `size` rows at a time."""
        with self._opened() as file:
            yield from file.iter_batches(batch_size=size, columns=list(columns))

    @contextmanager
    def _opened(self, first: int = 0, stop: int | None = None) -> Iterator[pq.ParquetFile]:
        """Open the file to read rows first .. stop. Raises DataError that names them if the file is damaged."""
        try:
            with pq.ParquetFile(self.path) as file:
                yield file
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            where = f"rows {first + 1:,} to {self.rows if stop is None else stop:,}"
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            message = f"The prepared data of {self.label} is damaged in {where} ({self.path}: {reason})."
            raise DataError(message, "Delete this file, then open the data again to recreate it.") from error

    def take(
        self, indices: Sequence[int] | np.ndarray[Any, Any], columns: Sequence[str] | None = None, size: int = 4_096
    ) -> Iterator[TableRow]:
        """Yield the rows with these 0-based indices, in this order, as dicts of `columns` (all of them by default).

        Rows in ascending order are read batch by batch. For many rows in another order the columns are held in memory;
        dicts are made `size` rows at a time. Raises DataError for an index outside 0 .. rows-1.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.rows):
            raise DataError(f"A row index is outside 0 .. {self.rows - 1}.", "Open the data again.")
        names = list(self.columns if columns is None else columns)
        if not names:  # pyarrow would return no rows at all
            yield from ({} for _ in range(len(wanted)))
            return
        if wanted.size <= MAX_ROWS_BY_GROUP:
            yield from self._take_few(wanted, names)
            return
        if (np.diff(wanted) > 0).all():
            for part in self.scan(wanted, names, size):
                yield from _dicts(part)
            return
        whole = self.read(names)
        for start in range(0, len(wanted), size):
            yield from _dicts(whole.take(pa.array(wanted[start : start + size])))

    def scan(
        self, ascending: np.ndarray[Any, np.dtype[np.int64]], columns: Sequence[str], size: int = 4_096
    ) -> Iterator[pa.Table]:
        """Yield the rows with these strictly ascending 0-based indices, at most `size` at a time, in bounded memory."""
        first = 0
        for batch in self.batches(columns, size):
            begin, end = np.searchsorted(ascending, [first, first + batch.num_rows])
            if end > begin:
                part = pa.Table.from_batches([batch])
                is_complete = end - begin == batch.num_rows
                yield part if is_complete else part.take(pa.array(ascending[begin:end] - first))
            first += batch.num_rows

    def _take_few(self, wanted: np.ndarray[Any, np.dtype[np.int64]], columns: list[str]) -> Iterator[TableRow]:
        """Read row group by row group, so that a few rows do not bring all the text into memory."""
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        found: dict[int, TableRow] = {}
        for group in np.unique(groups):
            positions = np.flatnonzero(groups == group)
            with self._opened(int(self._starts[group]), int(self._starts[group + 1])) as file:
                part = file.read_row_group(int(group), columns=columns)
            taken = _dicts(part.take(pa.array(wanted[positions] - self._starts[group])))
            found.update(zip(positions.tolist(), taken, strict=True))
        yield from (found[position] for position in range(len(wanted)))


class _Footer(BaseModel):
    """What `make_table_footer` writes, apart from the schema; the fields are those of `Table`."""

    sha256: Sha256
    label: str
    missing: dict[str, int]
    notices: tuple[str, ...]
    version: DatasetVersion | None = None
    offers: tuple[Offer, ...] = ()
    chats: dict[str, str] = Field(default_factory=dict)
    held_out: Annotated[int, Field(ge=0)] = 0
    joined: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    origin: RowOrigin | None = None

    def check_origin(self, rows: int) -> None:
        """Raise ValueError unless the origin is that of a table with this many rows."""
        if self.origin is None:
            return
        if len(self.origin.kept_rows) != rows:
            raise ValueError(f"its rows are not those of an original with {self.origin.rows:,} rows")
        self.origin.usable_removed_rows(list(self.origin.missing))
        for column in self.origin.labels:
            self.origin.label_numbers(column)


MISSING_FILE = "missing_file"
"""The end reason (`runs/end_reasons.py`) of a run whose table is missing."""


def load_table(parquet: Path) -> Table:
    """Open a parsed table, such as a run's own copy. Raises DataError when the file is not a table."""
    try:
        with pq.ParquetFile(parquet) as file:
            footer = parse_foreign_json((file.metadata.metadata or {})[FOOTER_KEY])
            content = _Footer.model_validate(footer) if int(footer["schema"]) <= TABLE_SCHEMA_VERSION else None
            rows, columns = file.metadata.num_rows, tuple(file.schema_arrow.names)
            if content is not None:
                content.check_origin(rows)
    except FileNotFoundError as error:
        message = f"The prepared data is missing: there is no {parquet}."
        hint = "If it was moved or deleted, restore it, or open the data again."
        raise DataError(message, hint, MISSING_FILE) from error
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = describe_read_error(error)
        raise DataError(f"The prepared data {parquet} can't be read ({reason}).", "Open the data again.") from error
    if content is None:
        raise DataError(f"{parquet} was created by a newer version of the toolkit.", "Update the toolkit.")
    return Table(path=Path(parquet), columns=columns, rows=rows, **vars(content))


def make_table_footer(
    sha256: str, label: str, missing: Mapping[str, int], notices: Sequence[str], **more: Any
) -> dict[str, str]:
    """Return the metadata of a table file that `load_table` reads; `more`: version, offers, chats, joined, held_out,
    origin."""
    content = {
        "schema": TABLE_SCHEMA_VERSION,
        "sha256": sha256,
        "label": label,
        "missing": dict(missing),
        "notices": list(notices),
    }
    return {FOOTER_KEY.decode(): json.dumps({**content, **more})}


def describe_dataset(table: Any) -> dict[str, Any]:
    """Return what a run records of its dataset: sha256, label, rows, and the version if any; empty for None."""
    if table is None:
        return {}
    version = getattr(table, "version", None)
    facts = {"sha256": table.sha256, "label": table.label, "rows": table.rows}
    return facts if version is None else {**facts, "version": version.as_dict()}


def _dicts(part: pa.Table) -> list[TableRow]:
    cells = [column.to_pylist() for column in part.columns]
    return [dict(zip(part.column_names, row, strict=True)) for row in zip(*cells, strict=True)]


def rows_in_words(count: int) -> str:
    """Return a count of rows as text: "1 row", "1,200 rows"."""
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def make_visible(name: str) -> str:
    """Return the name as it looks: without invisible characters, and with plain spaces."""
    plain = _INVISIBLE.sub("", _ODD_SPACES.sub(" ", name))
    return name if plain == name else plain.strip()


def index_visible_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return the column of each name without its invisible characters; names that several columns share are absent."""
    counts = Counter(map(make_visible, columns))
    return {name: column for column in columns if (name := make_visible(column)) and counts[name] == 1}
