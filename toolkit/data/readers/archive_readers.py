"""Readers of packed files, which may unpack to a limit only: the cells of an Excel sheet (.xlsx), and gzip.

Formulas are never computed: a cell has the value that Excel saved with it.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, time
from itertools import chain, islice
from pathlib import Path
from typing import Any

import openpyxl

from toolkit.data.read_options import MAX_LISTED, Offer, ReadOptions, UnreadableError, shorten_preview
from toolkit.data.readers.csv_layout import SAMPLE_ROWS, count_title_rows, title_notice
from toolkit.data.readers.csv_reader import clean_header
from toolkit.data.readers.encoding import ENCODING_HEAD_BYTES
from toolkit.data.readers.formats import kind_of_content, load_reader, unpacked_bytes_limit
from toolkit.data.readers.table_writer import ReadOutcome, SourceFile
from toolkit.data.shapes.missing_header import NO_HEADER, NO_HEADER_NOTICE, missing_header_offers, number_columns
from toolkit.errors import DataError

_CHUNK_BYTES = 1 << 20
LAST_SHEET_ROW = 1_048_576
"""Excel's own last row. openpyxl would make an empty row for each one before a higher number."""
MAX_ARCHIVE_ENTRIES = 10_000
SheetRow = tuple[int, list[str]]
"""Number of the row in the sheet, and its cells as text."""


def read_gzip(source: SourceFile) -> ReadOutcome:
    """Unpack a gzip file into the folder of the table, and read what is inside. Raises DataError."""
    source.report_progress(0.0, "unpacking")
    inner = source.folder / "unpacked"
    try:
        _unpack_gzip(source.path, inner, unpacked_bytes_limit(source.path))
        with inner.open("rb") as file:
            head = file.read(ENCODING_HEAD_BYTES)
        kind = kind_of_content(head, "csv")
        if kind == "gzip":
            raise DataError("The gzip file contains another gzip file.", "Unpack it, and choose the file inside.")
        outcome = load_reader(kind)(replace(source, path=inner))
    finally:
        inner.unlink(missing_ok=True)
    return replace(outcome, notices=["The gzip file was unpacked.", *outcome.notices])


def _unpack_gzip(path: Path, target: Path, limit: int) -> None:
    written = 0
    try:
        with gzip.open(path, "rb") as packed, target.open("wb") as out:
            while chunk := packed.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > limit:
                    message = f"The gzip file unpacks to more than {limit >> 20:,} MB."
                    raise DataError(message, "Unpack it, and choose the file inside.")
                out.write(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        message = f"The gzip file can't be unpacked ({error})."
        raise DataError(message, "It is damaged or incomplete: copy or download it again.") from error


def read_xlsx(source: SourceFile) -> ReadOutcome:
    """Read the rows of the first sheet with content, or of the one that the options name. Raises DataError."""
    source.report_progress(0.0, "opening the workbook")
    _check_archive(source.path)
    try:
        with source.path.open("rb") as file:  # openpyxl refuses a path that does not end with .xlsx
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            return _read_book(source, {sheet.title: sheet for sheet in book.worksheets})
    except DataError:
        raise
    except Exception as error:  # openpyxl raises errors of many kinds for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        message = f"The Excel file can't be read: {reason}."
        raise DataError(message, "In Excel, choose Save As > CSV UTF-8, and use that file.") from error


def _read_book(source: SourceFile, sheets: Mapping[str, Any]) -> ReadOutcome:
    filled = [name for name, sheet in sheets.items() if next(_rows(sheet), None) is not None]
    # a sheet with a single row holds a title
    tables = [each for each in filled if len([*islice(_rows(sheets[each]), 2)]) > 1]
    name = _chosen_sheet([*tables, *(each for each in filled if each not in tables)], source.options)
    notices = [f"Rows were read from the sheet '{name}'."] if len(filled) > 1 else []
    offers = [_sheet_offer(other, sheets[other], source.options) for other in filled if other != name][:MAX_LISTED]
    writer = source.new_writer(lambda row: f"row {row:,} of the sheet", empty_is_missing=True)
    rows = _rows(sheets[name])
    head, chosen = list(islice(rows, SAMPLE_ROWS)), source.options.header_row
    titles = count_title_rows(_pad_rows(head)) if chosen is None else max(0, chosen - 1)
    if titles >= len(head):
        raise DataError(f"The sheet '{name}' has only {len(head)} rows.", "Choose an earlier row for the column names.")
    notices += title_notice(titles)
    if not titles:
        offers += missing_header_offers(_pad_rows(head), source.options)
    if chosen == NO_HEADER:
        notices.append(NO_HEADER_NOTICE)
        header, rows = number_columns(len(head[0][1])), chain(head, rows)
    else:
        header, rows = head[titles][1], chain(head[titles + 1 :], rows)
    names = clean_header(header, notices, source.options)
    for column in names:
        writer.add_column(column)
    for number, cells in rows:
        for added in range(len(names) + 1, len(cells) + 1):
            names.append(f"column {added}")
            writer.add_column(names[-1])
        writer.add([*cells, *[""] * (len(names) - len(cells))], number)
    if not writer.rows:
        raise DataError(f"The sheet '{name}' has a header and 0 rows; at least 2 are needed.", "Add rows.")
    notices += [offer.doubt for offer in offers if offer.doubt]
    return ReadOutcome(writer, notices, offers=offers)


def _pad_rows(rows: Sequence[SheetRow]) -> list[list[str]]:
    """Return the cells of rows with as many cells in each."""
    width = max((len(cells) for _, cells in rows), default=0)
    return [[*cells, *[""] * (width - len(cells))] for _, cells in rows]


def _check_archive(path: Path) -> None:
    """Raise DataError for a file that is no archive, or that unpacks to too much."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        message = f"The Excel file can't be read: {str(error)[:200]}."
        raise DataError(message, "The file is damaged or incomplete: copy or download it again.") from error
    limit = unpacked_bytes_limit(path)
    if len(entries) > MAX_ARCHIVE_ENTRIES or sum(entry.file_size for entry in entries) > limit:
        message = f"The Excel file unpacks to more than {limit >> 20:,} MB or {MAX_ARCHIVE_ENTRIES:,} files."
        raise DataError(message, "In Excel, choose Save As > CSV UTF-8, and use that file.")


def _chosen_sheet(filled: Sequence[str], options: ReadOptions) -> str:
    if not filled:
        raise DataError("The Excel file has no sheet with cells.", "Choose a file with rows.")
    if options.rows_from is None:
        return filled[0]
    if options.rows_from not in filled:
        names = ", ".join(f"'{name}'" for name in filled[:MAX_LISTED])
        first = Offer(f"Read the sheet '{filled[0]}'", replace(options, rows_from=filled[0]))
        raise UnreadableError(f"There is no sheet '{options.rows_from}'.", f"The sheets are: {names}.", [first])
    return options.rows_from


def _sheet_offer(name: str, sheet: Any, options: ReadOptions) -> Offer:
    lines = shorten_preview("  │  ".join(cells) for _, cells in _rows(sheet))
    return Offer(f"Read the sheet '{name}'", replace(options, rows_from=name), lines)


def _rows(sheet: Any) -> Iterator[SheetRow]:
    """Yield the rows with content, without the empty cells at their end."""
    sheet.reset_dimensions()  # the size that a file states may be wrong
    for number, values in enumerate(sheet.iter_rows(max_row=LAST_SHEET_ROW, values_only=True), start=1):
        cells = [_cell_text(value) for value in values]
        while cells and not cells[-1].strip():
            cells.pop()
        if cells:
            yield number, cells


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)
