"""What a reader gets (SourceFile) and returns (ReadOutcome), and the writer that turns its rows into a Parquet table.

Rows are written in batches, so that memory does not grow with the file. Every cell is checked, whatever the format: its
length, NUL characters, unpaired surrogates. Columns may still be added while rows are written, as JSON needs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.conversations import ChatColumns, is_blank_cell
from toolkit.data.examples.column_names import normalize_column_name
from toolkit.data.examples.column_suggestion import may_be_messages, suggest_columns
from toolkit.data.progress import DataProgressReporter, ShareReporter
from toolkit.data.read_options import (
    DEFAULT_READ_OPTIONS,
    MAX_CELL,
    MAX_COLUMN_NAME_CHARACTERS,
    MAX_COLUMNS,
    MAX_LISTED,
    Offer,
    ReadOptions,
    UnreadableError,
    shorten_preview,
)
from toolkit.data.readers.join_conversations import JOINED_COLUMN, ConversationJoin, JoinedColumn, find_joins
from toolkit.data.table import TableRow, make_table_footer, make_visible
from toolkit.data.threads.message_threads import join_threads
from toolkit.data.threads.speakers import preview_turns, speaker_offers
from toolkit.data.threads.thread_columns import ThreadColumns, find_thread_columns
from toolkit.errors import DataError

BATCH_ROWS = 16_384
BATCH_CHARACTERS = 16_000_000
"""A batch is written when it has this many rows or characters, whichever comes first."""
SAMPLE_ROWS_PER_BATCH, MAX_SAMPLE_ROWS = 100, 300
"""Rows that are kept to see what the columns hold."""
_INVALID_CHARACTERS = re.compile("[\0\ud800-\udfff]")


class TableWriter:
    """Collects rows and writes them to part files in `folder`; `finish` makes the table of them.

    place: turns the mark of a row (a line number, an offset) into words for messages. empty_is_missing: whether an
    empty cell is a missing one. source_sha256: stands for the content in the footer; without it the hash of the cells
    does. report_share: called after every batch with `share_read()`, which the reader sets.
    """

    def __init__(
        self,
        folder: Path,
        place: Callable[[int], str],
        *,
        empty_is_missing: bool = False,
        options: ReadOptions = DEFAULT_READ_OPTIONS,
        source_sha256: str | None = None,
        report_share: ShareReporter = lambda share: None,
    ) -> None:
        self.share_read: Callable[[], float] = lambda: 0.0
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
        self._report_share = report_share
        self._source_sha256 = source_sha256
        self._hash = hashlib.sha256()
        self._filled: set[str] = set()
        self._sample: list[TableRow] = []

    def add_column(self, name: str) -> None:
        """Add a column, in which all rows so far have a missing cell.

        Raises DataError for a name that is too long or has invalid characters, and for too many columns.
        """
        check_column_name(name)
        if len(self.columns) == MAX_COLUMNS:
            hint = "Keep only the columns that your prompt and completion use. Are rows and columns swapped?"
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
        """Add a row with a cell for every column. Its cells are checked when its batch is written."""
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
        """Write the remaining rows and the footer to `final`, without the columns in `drop`."""
        self.flush()
        kept = [column for column in self.columns if column not in drop]
        filled = [column for column in kept if column in self._filled]
        joins = find_joins(kept, filled, self._sample, self._options.answered_by)
        joined = [JoinedColumn(join, ChatColumns(skip=self._options.bad_rows == "skip")) for join in joins]
        notices = [notice for notice in notices if not self._tells_otherwise(notice, joins)]
        notices = [*notices, *_name_notices(self.columns), *_brace_notices(self.columns), *self._repair_notice()]
        threads = find_thread_columns({normalize_column_name(name): name for name in reversed(filled)}, self._sample)
        if (
            threads is not None
            and self._options.join_messages
            and bool(threads.persons) == bool(self._options.answered_by)
        ):
            threads = replace(threads, answered_by=self._options.answered_by)
            self._write_threads(final, label, notices, threads)
            return
        if threads is not None and not threads.persons:
            offers = [*offers, self._offer_threads(threads)]
        elif not joins and may_be_messages(suggest_columns(kept, self._sample, self._chats.faults)):
            offers = [*offers, *speaker_offers(filled, self._sample, threads, self._options)]
        if self._part is not None and len(self._parts) == 1 and not drop and not joined:
            # the part is the table already
            self._part.add_key_value_metadata(self._footer(label, kept, notices, offers, []))
            self._part.close()
            self._parts[0].replace(final)
            return
        if self._part is not None:
            self._part.close()
        columns = list(dict.fromkeys([*kept, *(join.target for join in joins)]))
        schema = pa.schema([(column, pa.string()) for column in columns])
        with pq.ParquetWriter(final, schema, compression="zstd") as out:
            self._merge_parts(out, kept, joined)
            out.add_key_value_metadata(self._footer(label, columns, notices, offers, joined))

    def _tells_otherwise(self, notice: str, joins: Sequence[ConversationJoin]) -> bool:
        """Return whether a reader took for JSON text or for a pair what turned out to be a conversation."""
        columns = (*self._chats.faults, *(column for join in joins for column in join.columns))
        texts = [f"Lists and objects in '{name}' were converted to JSON text" for name in columns]
        return notice.startswith((*texts, "This is OpenAI's older")) and (bool(joins) or "older" not in notice)

    def _offer_threads(self, threads: ThreadColumns) -> Offer:
        preview = preview_turns(join_threads(threads, self._sample)[:1])
        label = f"Join the {self.rows:,} messages into conversations"
        if threads.are_in_file_order:
            label = f"Join the {self.rows:,} messages in the order of the file; a system message begins a conversation"
        return Offer(label, replace(self._options, join_messages=True), preview)

    def _write_threads(self, final: Path, label: str, notices: Sequence[str], threads: ThreadColumns) -> None:
        """Write a table with a row for each conversation instead of one for each message."""
        rows: list[TableRow] = []
        if self._part is not None:
            self._part.close()
        schema = pa.schema([(column, pa.string()) for column in threads.needed])
        for part in self._parts:
            rows += _align(pq.read_table(part), schema).to_pylist()
            part.unlink()
        folder = self._folder / "threads"
        folder.mkdir()
        digest = self._source_sha256 if self._source_sha256 is not None else self._hash.hexdigest()
        writer = TableWriter(folder, self._place, options=self._options, source_sha256=digest)
        writer.add_column(JOINED_COLUMN)
        cells = join_threads(threads, rows)
        for at, cell in enumerate(cells, start=1):
            writer.add([cell], at)
        unused = [name for name in self.columns if name in self._filled and name not in threads.needed]
        made = "1 conversation" if len(cells) == 1 else f"{len(cells):,} conversations"
        by = f" The messages of '{threads.answered_by}' are the answers." if threads.answered_by else ""
        joined = f"{self.rows:,} messages were joined into {made}, as chosen.{by}"
        left = f" Not used: {', '.join(unused[:MAX_LISTED])}." if unused else ""
        writer.finish(final, label, [*notices, joined + left])
        folder.rmdir()

    def _merge_parts(self, out: pq.ParquetWriter, columns: Sequence[str], joined: Sequence[JoinedColumn]) -> None:
        """Merge the parts: columns were added on the way, one is dropped, or conversations are joined."""
        schema = pa.schema([(column, pa.string()) for column in columns])
        for part in self._parts:
            with pq.ParquetFile(part) as file:
                for index in range(file.num_row_groups):
                    rows = _align(file.read_row_group(index), schema)
                    for each in joined:
                        rows = each.add_to(rows)
                    out.write_table(rows)
            part.unlink()

    def _footer(
        self,
        label: str,
        columns: Sequence[str],
        notices: Sequence[str],
        offers: Sequence[Offer],
        joined: Sequence[JoinedColumn],
    ) -> dict[str, str]:
        missing = {column: self.missing.get(column, 0) for column in columns}
        faults, chats = self._chats.faults, self._chats
        parts: dict[str, list[str]] = {}
        for each in joined:
            notices = [*notices, each.join.notice]
            missing[each.join.target] = each.missing
            if each.chats.faults:
                chats, parts = each.chats, {each.join.target: list(each.join.columns)}
                others = {column: fault for column, fault in faults.items() if column not in each.join.columns}
                faults = {**chats.faults, **others}
        notices = [*notices, *chats.notices()]
        offered = [offer.dump() for offer in (*offers, *chats.offers(self._options))]
        digest = self._source_sha256 if self._source_sha256 is not None else self._hash.hexdigest()
        return make_table_footer(digest, label, missing, notices, chats=faults, offers=offered, joined=parts)

    def flush(self) -> None:
        """Write the rows collected so far. Raises DataError for a cell that is not allowed."""
        if not self._cells:
            return
        arrays = [self._array(index, column) for index, column in enumerate(zip(*self._cells, strict=True))]
        batch = pa.RecordBatch.from_arrays(arrays, names=self.columns)
        if len(self._sample) < MAX_SAMPLE_ROWS:
            self._sample += batch.slice(0, SAMPLE_ROWS_PER_BATCH).to_pylist()
        if self._part is None:
            self._parts.append(self._folder / f"part-{len(self._parts)}.parquet")
            self._part = pq.ParquetWriter(self._parts[-1], batch.schema, compression="zstd")
        self._part.write_batch(batch)
        if self._source_sha256 is None:
            self._hash.update(batch.serialize())
        self._cells, self._marks, self._characters = [], [], 0
        self._report_share(self.share_read())

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
        cells = self._chats.check_cells(self.columns[index], cells, self.rows - len(self._cells) + 1)
        name = self.columns[index]
        if name not in self._filled and any(not is_blank_cell(cell) for cell in cells):
            self._filled.add(name)
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
        cells = "1 cell" if self._repaired == 1 else f"{self._repaired:,} cells"
        return [f"In {cells}, NUL characters were removed and unpaired surrogates replaced with U+FFFD."]

    def _refuse(
        self,
        index: int,
        cells: Sequence[str | None],
        is_wrong: Callable[[str], bool],
        explain: Callable[[str], tuple[str, str]],
    ) -> None:
        at = next(i for i, cell in enumerate(cells) if cell and is_wrong(cell))
        message, hint = explain(cells[at] or "")
        row = self.rows - len(self._cells) + at + 1
        message = f"Row {row:,} ({self._place(self._marks[at])}), column '{self.columns[index]}': {message}"
        if explain is _too_long:
            raise DataError(message, hint)
        repaired = _as_text(cells[at] or "")
        repair = replace(self._options, repair_text=True)
        offer = Offer("Remove or replace invalid characters", repair, shorten_preview([repaired]))
        raise UnreadableError(message, hint, [offer])


def _name_notices(columns: Sequence[str]) -> list[str]:
    """Name the columns with invisible characters in their names: templates find them without these."""
    odd = {name: visible for name in columns if (visible := make_visible(name)) != name}
    if not odd:
        return []
    shown = [f"'{visible[:40]}' ({', '.join(_codes(name, visible))})" for name, visible in odd.items()]
    listed = ", ".join(shown[:MAX_LISTED]) + (", …" if len(shown) > MAX_LISTED else "")
    return [f"Column names contain invisible characters: {listed}. Templates work with and without them."]


def _codes(name: str, visible: str) -> list[str]:
    return sorted({f"U+{ord(char):04X}" for char in name if char not in visible})


def _brace_notices(columns: Sequence[str]) -> list[str]:
    """A template has no way to name a column with braces in its name."""
    names = [name for name in columns if "{" in name or "}" in name]
    if not names:
        return []
    shown = ", ".join(f"'{name[:40]}'" for name in names[:MAX_LISTED])
    return [f"Columns with braces in their names can't be used in templates. To use them, rename {shown} in the file."]


def _as_text(cell: str) -> str:
    return _INVALID_CHARACTERS.sub(lambda found: "" if found.group() == "\0" else "\ufffd", cell)


def check_column_name(name: str) -> None:
    """Raise DataError for a column name that is too long or contains invalid characters."""
    if len(name) > MAX_COLUMN_NAME_CHARACTERS:
        limit = f"at most {MAX_COLUMN_NAME_CHARACTERS:,} are allowed"
        message = f"A column name has {len(name):,} characters ('{name[:40]}...'); {limit}."
        raise DataError(message, "Make sure that the first line of the file contains the column names.")
    if "\0" in name or _has_surrogate(name):
        shown = name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
        raise DataError(f"The column name '{shown}' contains an invalid character.", "Rename the column.")


def _has_surrogate(cell: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in cell)


def _too_long(cell: str) -> tuple[str, str]:
    message = f"the cell has {len(cell):,} characters; at most {MAX_CELL:,} are allowed."
    return message, "Shorten it, or split it into several rows."


def _nul(cell: str) -> tuple[str, str]:
    return f"the cell contains a NUL character after {cell[: cell.index(chr(0))][-30:]!r}.", "Remove it from the file."


def _surrogate(cell: str) -> tuple[str, str]:
    found = next(character for character in cell if _has_surrogate(character))
    message = f"the cell contains half of a character (\\u{ord(found):04x}, an unpaired surrogate)."
    return message, "Correct it in the file: the text was split inside an emoji or a rare character."


def _align(part: pa.Table, schema: Any) -> pa.Table:
    """Return the part with exactly the schema's columns; its cells are missing in those that were added later."""
    empty = pa.nulls(part.num_rows, pa.string())
    return pa.table([part.column(name) if name in part.column_names else empty for name in schema.names], schema=schema)


class WriterFactory(Protocol):
    """Makes the TableWriter that a reader writes its rows to; the arguments are those of TableWriter."""

    def __call__(self, place: Callable[[int], str], *, empty_is_missing: bool = False) -> TableWriter: ...


@dataclass(frozen=True)
class SourceFile:
    """What a reader gets. folder: where it may write; it is deleted afterwards."""

    path: Path
    options: ReadOptions
    new_writer: WriterFactory
    folder: Path
    report_progress: DataProgressReporter


@dataclass(frozen=True)
class ReadOutcome:
    """What a reader returns. writer: holds the rows; notices: the reader's decisions, in words.

    drop: columns to remove; offers: other ways to read the file.
    """

    writer: TableWriter
    notices: list[str]
    drop: list[str] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
