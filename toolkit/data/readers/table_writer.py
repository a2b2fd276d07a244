"""Rows of text in, a parquet table out: in batches, so that memory does not grow with the file.

Checks what holds for every cell whatever it came from: its length, NUL, characters that are none. Columns may still
appear while rows are written (JSON). Knows no source format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.conversations import ChatColumns
from toolkit.data.read_options import (
    DEFAULT_READ_OPTIONS,
    MAX_CELL,
    MAX_COLUMN_NAME_CHARACTERS,
    MAX_COLUMNS,
    Offer,
    ReadOptions,
    UnreadableError,
    shorten_preview,
)
from toolkit.data.table import make_table_footer
from toolkit.errors import DataError

BATCH_ROWS = 16_384
BATCH_CHARACTERS = 16_000_000
_INVALID_CHARACTERS = re.compile("[\0\ud800-\udfff]")


class TableWriter:
    """Collects rows and writes them below `folder`. `place` turns the mark of a row (a line number, an offset) into
    words for messages; with `empty_is_missing` an empty cell is a missing one. `told` hears which share of the source
    is read, as `at` has it, which whoever reads may set; with `known` the source's sha256 stands for its content."""

    def __init__(
        self,
        folder: Path,
        place: Callable[[int], str],
        *,
        empty_is_missing: bool = False,
        options: ReadOptions = DEFAULT_READ_OPTIONS,
        known: str | None = None,
        told: Callable[[float], None] = lambda share: None,
    ) -> None:
        self.at: Callable[[], float] = lambda: 0.0
        self.columns: list[str] = []
        self.missing: dict[str, int] = {}
        self.rows = 0
        self._folder = folder
        self._place = place
        self._empty_is_missing = empty_is_missing
        self._options = options
        self._repaired = 0
        self._chats = ChatColumns(skip=options.bad_rows == "skip")
        self._cells: list[list[str | None]] = []
        self._marks: list[int] = []
        self._characters = 0
        self._parts: list[Path] = []
        self._part: pq.ParquetWriter | None = None
        self._told = told
        self._known = known
        self._hash = hashlib.sha256()

    def add_column(self, name: str) -> None:
        """Add a column; rows so far lack it. Raises DataError for a name or a number of columns beyond the limits."""
        check_column_name(name)
        if len(self.columns) == MAX_COLUMNS:
            hint = (
                "Keep the columns that the prompt needs. A file without a header, or turned on its side, looks so too."
            )
            raise DataError(f"The data has more than {MAX_COLUMNS:,} columns.", hint)
        if self._part is not None:
            self.flush()
            self._part.close()
            self._part = None
        for cells in self._cells:
            cells.append(None)
        self.columns.append(name)
        self.missing[name] = self.rows - len(self._cells)

    def add(self, cells: Sequence[str | None], mark: int) -> None:
        """One row, a cell for every column. Its faults are found when its batch is written."""
        self._cells.append(list(cells))
        self._marks.append(mark)
        self.rows += 1
        self._characters += sum(map(len, filter(None, cells)))
        if len(self._cells) >= BATCH_ROWS or self._characters >= BATCH_CHARACTERS:
            self.flush()

    def finish(
        self,
        final: Path,
        label: str,
        notices: Sequence[str],
        drop: Sequence[str] = (),
        offers: Sequence[Offer] = (),
    ) -> None:
        """Write what is left and the footer to `final`, without the columns in `drop`. Where the source's sha256 is
        not known, that of the cells stands for it."""
        self.flush()
        notices = [*notices, *self._repair_notice(), *self._chats.notices()]
        kept = [column for column in self.columns if column not in drop]
        missing = {column: self.missing[column] for column in kept}
        offered = [offer.dump() for offer in (*offers, *self._chats.offers(self._options))]
        more = {"chats": self._chats.faults, "offers": offered}
        digest = self._known if self._known is not None else self._hash.hexdigest()
        last = make_table_footer(digest, label, missing, notices, **more)
        if self._part is not None and len(self._parts) == 1 and not drop:  # it is the table already
            self._part.add_key_value_metadata(last)
            self._part.close()
            self._parts[0].replace(final)
            return
        if self._part is not None:
            self._part.close()
        self._join_parts(final, kept, last)

    def _join_parts(self, final: Path, columns: Sequence[str], last: dict[str, str]) -> None:
        """Columns appeared on the way, or one is left out: the parts become one table."""
        schema = pa.schema([(column, pa.string()) for column in columns])
        with pq.ParquetWriter(final, schema, compression="zstd") as out:
            for part in self._parts:
                with pq.ParquetFile(part) as file:
                    for index in range(file.num_row_groups):
                        out.write_table(_align(file.read_row_group(index), schema))
                part.unlink()
            out.add_key_value_metadata(last)

    def flush(self) -> None:
        """Write the batch collected so far; its faults are raised here."""
        if not self._cells:
            return
        arrays = [self._array(index, column) for index, column in enumerate(zip(*self._cells, strict=True))]
        batch = pa.RecordBatch.from_arrays(arrays, names=self.columns)
        if self._part is None:
            self._parts.append(self._folder / f"part-{len(self._parts)}.parquet")
            self._part = pq.ParquetWriter(self._parts[-1], batch.schema, compression="zstd")
        self._part.write_batch(batch)
        if self._known is None:
            self._hash.update(batch.serialize())
        self._cells, self._marks, self._characters = [], [], 0
        self._told(self.at())

    def _array(self, index: int, cells: Sequence[str | None]) -> pa.Array:
        if self._empty_is_missing:
            cells = [cell or None for cell in cells]
        if self._options.repair_text:
            cells = [self._repair(cell) for cell in cells]
        present = [cell for cell in cells if cell]
        if present and max(map(len, present)) > MAX_CELL:
            self._refuse(index, cells, lambda cell: len(cell) > MAX_CELL, _too_long)
        if "\0" in "".join(present):
            self._refuse(index, cells, lambda cell: "\0" in cell, _nul)
        cells = self._chats.look(self.columns[index], cells, self.rows - len(self._cells) + 1)
        try:
            array = pa.array(cells, pa.string())
        except UnicodeEncodeError:
            self._refuse(index, cells, _has_surrogate, _surrogate)
        self.missing[self.columns[index]] += array.null_count
        return array

    def _repair(self, cell: str | None) -> str | None:
        if not cell or not _INVALID_CHARACTERS.search(cell):
            return cell
        self._repaired += 1
        return _as_text(cell) or None

    def _repair_notice(self) -> list[str]:
        if not self._repaired:
            return []
        return [f"In {self._repaired:,} cells NUL characters were taken out, and half characters became U+FFFD."]

    def _refuse(
        self,
        index: int,
        cells: Sequence[str | None],
        wrong: Callable[[str], bool],
        say: Callable[[str], tuple[str, str]],
    ) -> None:
        at = next(i for i, cell in enumerate(cells) if cell and wrong(cell))
        message, hint = say(cells[at] or "")
        row = self.rows - len(self._cells) + at + 1
        message = f"Row {row:,} ({self._place(self._marks[at])}), column '{self.columns[index]}': {message}"
        if say is _too_long:
            raise DataError(message, hint)
        repaired = _as_text(cells[at] or "")
        offer = Offer(
            "Take such characters out and go on", replace(self._options, repair_text=True), shorten_preview([repaired])
        )
        raise UnreadableError(message, hint, [offer])


def _as_text(cell: str) -> str:
    return _INVALID_CHARACTERS.sub(lambda found: "" if found.group() == "\0" else "\ufffd", cell)


def check_column_name(name: str) -> None:
    """Raise DataError for a column name that can't be one."""
    if len(name) > MAX_COLUMN_NAME_CHARACTERS:
        message = f"A column's name has {len(name):,} characters ('{name[:40]}...'); at most {MAX_COLUMN_NAME_CHARACTERS:,} are allowed."
        raise DataError(message, "The file needs a first line with the names of its columns.")
    if "\0" in name or _has_surrogate(name):
        shown = name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
        raise DataError(f"The column name '{shown}' holds a character that is none.", "Rename the column.")


def _has_surrogate(cell: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in cell)


def _too_long(cell: str) -> tuple[str, str]:
    message = f"the cell has {len(cell):,} characters; at most {MAX_CELL:,} are allowed."
    return message, "Shorten it, or split it into several rows."


def _nul(cell: str) -> tuple[str, str]:
    return f"the cell holds a NUL character, after {cell[: cell.index(chr(0))][-30:]!r}.", "Remove it from the file."


def _surrogate(cell: str) -> tuple[str, str]:
    found = next(character for character in cell if _has_surrogate(character))
    message = f"the cell holds half a character (\\u{ord(found):04x} without its other half)."
    return message, "Replace it in the file; the text was cut inside an emoji or a rare letter."


def _align(part: pa.Table, schema: Any) -> pa.Table:
    """The part with exactly the schema's columns: those that appeared later are missing in it."""
    empty = pa.nulls(part.num_rows, pa.string())
    return pa.table([part.column(name) if name in part.column_names else empty for name in schema.names], schema=schema)
