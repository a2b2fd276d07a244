"""CSV, read strictly: a cell is the text between its delimiters, and a row that doesn't fit its header is an error.

Python's csv module in strict mode does the splitting; this adds the delimiter, the header, and the rows that don't fit.
An empty cell is a missing one. Nothing is converted: 007, NA, 1e5 and True stay as they are.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from toolkit.data.read_options import MAX_CELL, MAX_COLUMNS, Offer, ReadOptions, UnreadableError, shorten_preview
from toolkit.data.readers.encoding import DetectedEncoding
from toolkit.data.readers.table_writer import TableWriter
from toolkit.errors import DataError

MAX_LISTED_LINES = 10


@dataclass(frozen=True)
class ReadOutcome:
    """What a reader says beside the rows: notices, columns to drop, and other ways to read the file."""

    notices: list[str]
    drop: list[str]
    offers: list[Offer]


def read_csv(path: Path, encoding: DetectedEncoding, options: ReadOptions, writer: TableWriter) -> ReadOutcome:
    """Write the file's rows to `writer`. Raises DataError with the place, UnreadableError with the ways out."""
    csv.field_size_limit(MAX_CELL)
    if options.delimiter in ('"', "\r", "\n", " "):
        raise DataError(f"{options.delimiter!r} can't be a delimiter.", "Choose a comma, semicolon, tab or bar.")
    with path.open(encoding=encoding.codec, errors=encoding.errors, newline="") as file:
        sample = file.read(SAMPLE_CHARACTERS)
        _refuse_json(sample)
        marked = re.match(r"sep=([^\w\s\"]|\t)\r?\n", sample)
        delimiter = options.delimiter or (
            marked.group(1) if marked else detect_delimiter(sample, whole=len(sample) < SAMPLE_CHARACTERS)
        )
        file.seek(0)
        records = _records(file, delimiter)
        if marked:
            next(records)
        notices = delimiter_notice(delimiter, chosen=options.delimiter is not None)
        offers = delimiter_offers(sample, delimiter, options)
        header = next((fields for _, fields in records if fields), None)
        if header is None:
            raise DataError("The file holds only blank lines.", "Choose a file with a header and rows.")
        names = clean_header(header, notices)
        for name in names:
            writer.add_column(name)
        body, size = _RowWidthCheck(len(names), options), path.stat().st_size
        stream: TextIO = file
        writer.at = lambda: stream.buffer.tell() / size
        for line, fields in records:
            if body.fits(line, fields):
                whole = len(fields) == len(names)
                writer.add(fields if whole else fields[: len(names)] + [""] * (len(names) - len(fields)), line)
        writer.at = lambda: 1.0
    notices += body.finish(header, offers)
    return ReadOutcome(notices, _drop_empty_last_column(header, names, writer, notices), offers)


def clean_header(header: list[str], notices: list[str]) -> list[str]:
    """The columns' names: outer spaces off and empty names numbered, both with a notice; two equal names refused."""
    names = [name.strip() for name in header]
    stripped = [name for name, given in zip(names, header, strict=True) if name != given and name]
    if stripped:
        notices.append(f"Spaces around column names were removed: {_listed(stripped)}.")
    empty = [index for index, name in enumerate(names) if not name]
    for index in empty:
        names[index] = f"column {index + 1}"
    if empty and empty != [len(names) - 1]:
        notices.append(f"Columns without a name are called {_listed([names[index] for index in empty])}.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        places = [str(index + 1) for index, name in enumerate(names) if name == twice[0]]
        message = f"Columns {', '.join(places[:MAX_LISTED_LINES])} are all named '{twice[0][:60]}'."
        raise DataError(message, "Give every column a name of its own in the file's first line.")
    if len(names) > MAX_COLUMNS:
        raise DataError(
            f"The header has {len(names):,} columns; at most {MAX_COLUMNS:,} are allowed.",
            "Keep the columns that the prompt needs.",
        )
    return names


class _RowWidthCheck:
    """Which rows fit the header's width, and the words for those that don't."""

    def __init__(self, width: int, options: ReadOptions) -> None:
        self.width = width
        self.good = self.blank = self.bad = self.filled = 0
        self.ended = 0
        self._options = options
        self._first_bad: list[tuple[int, int]] = []
        self._first_ended: list[tuple[int, int]] = []

    def fits(self, line: int, fields: list[str]) -> bool:
        if len(fields) == self.width:
            self.good += 1
            return True
        if not fields:
            self.blank += 1
        elif len(fields) == self.width + 1 and not fields[-1]:
            self.ended += 1
            self._remember(self._first_ended, line, len(fields))
            return True
        elif len(fields) < self.width and self._options.bad_rows == "fill":
            self.filled += 1
            return True
        else:
            self.bad += 1
            self._remember(self._first_bad, line, len(fields))
        return False

    def finish(self, header: list[str], offers: list[Offer]) -> list[str]:
        """The notices; raises UnreadableError with ways out when rows don't fit, DataError when there are none."""
        skip = self._options.bad_rows == "skip"
        mixed = bool(self.ended and self.good) and not skip
        bad = sorted(self._first_bad + (self._first_ended if mixed else []))[:MAX_LISTED_LINES]
        count = self.bad + (self.ended if mixed else 0)
        if count and not skip:
            raise UnreadableError(
                *_row_width_message(count, bad, self.width), [*self._recovery_offers(count, bad), *offers]
            )
        if not self.good and not self.ended and not self.filled:
            names = _listed([name.strip() for name in header])
            raise DataError(f"The file has a header ({names}) and 0 rows; at least 2 are needed.", "Add rows to it.")
        notices = []
        if self.bad:
            rows = ", ".join(f"line {line:,}" for line, _ in bad)
            more = ", …" if count > len(bad) else ""
            were = "row that doesn't fit the header was" if self.bad == 1 else "rows that don't fit the header were"
            notices.append(f"{self.bad:,} {were} left out, as chosen: {rows}{more}.")
        if self.filled:
            notices.append(f"In {_rows(self.filled)} the cells that are not there count as missing, as chosen.")
        if self.ended and self.good:
            end = "ends" if self.ended == 1 else "end"
            notices.append(f"{_rows(self.ended)} {end} with a delimiter; the empty cell after it was left out.")
        elif self.ended:
            notices.append("Every row ends with a delimiter; the empty cell after it was left out.")
        if self.blank and self.width == 1:
            lines = "blank line was" if self.blank == 1 else "blank lines were"
            notices.append(f"{self.blank:,} {lines} left out.")
        return notices

    def _recovery_offers(self, count: int, bad: list[tuple[int, int]]) -> list[Offer]:
        kept = self.good + self.ended
        these = "this row" if count == 1 else f"these {count:,} rows"
        ways = []
        if kept:
            label = f"Leave {these} out and keep {kept:,}"
            ways.append(Offer(label, replace(self._options, bad_rows="skip")))
        if all(cells < self.width for _, cells in bad) and self.bad == count:
            label = f"Treat the missing cells of {these} as empty"
            ways.append(Offer(label, replace(self._options, bad_rows="fill")))
        return ways

    @staticmethod
    def _remember(kept: list[tuple[int, int]], line: int, count: int) -> None:
        if len(kept) < MAX_LISTED_LINES:
            kept.append((line, count))


def _records(file: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which the record begins, its cells)."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _syntax_error(error, line, reader.line_num) from error
        yield line, fields
        line = reader.line_num + 1


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def _syntax_error(error: csv.Error, first: int, last: int) -> DataError:
    where = f"line {first:,}" if first == last else f"lines {first:,} to {last:,}"
    text = str(error)
    if "unexpected end" in text:
        message = f"A quote opens in the row at line {first:,} and never closes."
        return DataError(message, 'Close it, or double a quote that is meant as text ("").')
    if "field limit" in text:
        message = f"The row at {where} has a cell of more than {MAX_CELL:,} characters."
        return DataError(message, "Shorten it; perhaps a quote before it is never closed.")
    if "expected after" in text:
        message = f"In the row at {where} a quoted cell goes on after its closing quote."
        return DataError(message, 'Double the quotes that are meant as text (""), and quote the whole cell.')
    return DataError(f"The row at {where} is not CSV ({text}).", "Correct this row in the file.")


def _row_width_message(count: int, bad: list[tuple[int, int]], width: int) -> tuple[str, str]:
    rows = ", ".join(f"line {line:,} has {cells}" for line, cells in bad)
    more = f", and {count - len(bad):,} more" if count > len(bad) else ""
    message = (
        f"{count:,} {'row does' if count == 1 else 'rows do'} not fit the header, which has {width} "
        f"{'column' if width == 1 else 'columns'}: {rows}{more}."
    )
    if any(cells > width for _, cells in bad):
        return message, "Put quotes around cells that hold the delimiter, or correct these rows."
    return message, "Add the missing delimiters to these rows."


def _drop_empty_last_column(header: list[str], names: list[str], writer: TableWriter, notices: list[str]) -> list[str]:
    """A header and rows that all end with a delimiter make a last column without name and cells: no column at all."""
    if header[-1].strip() or len(names) < 2:
        return []
    writer.flush()
    if writer.missing[names[-1]] == writer.rows:
        notices.append("Every line ends with a delimiter; the empty column after it was left out.")
        return [names[-1]]
    notices.append(f"The last column has no name; it is called {names[-1]}.")
    return []


def _refuse_json(sample: str) -> None:
    first = sample.lstrip().split("\n", 1)[0].strip()
    if not first.startswith(("{", "[")):
        return
    try:
        json.loads(first.rstrip(","))
    except ValueError:
        if not re.match(r"\[\s*(\{|$)|\{\s*(\"|$)", first):
            return
    raise DataError("This is JSON, not CSV: it begins with " + first[:1] + ".", "Choose JSON as the file type.")


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:MAX_LISTED_LINES])
    return shown + (", ..." if len(names) > MAX_LISTED_LINES else "")


DELIMITERS = (",", ";", "\t", "|")


DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


SAMPLE_CHARACTERS = 65_536


SAMPLE_ROWS = 50


def detect_delimiter(sample: str, *, whole: bool) -> str:
    """The delimiter among , ; tab | under which the header has several names and the sample's rows as many cells.

    A comma wins a tie. Where no delimiter makes the rows even, the one with the widest header; a single column: comma.
    """
    widths = {}
    for delimiter in DELIMITERS:
        rows = [len(fields) for fields in sample_rows(sample, delimiter)]
        widths[delimiter] = rows if whole or len(rows) < 2 else rows[:-1]
    several = {delimiter: rows for delimiter, rows in widths.items() if rows and rows[0] > 1}
    even = [delimiter for delimiter, rows in several.items() if set(rows) <= {rows[0], rows[0] + 1}]
    exact = [delimiter for delimiter in even if set(several[delimiter]) == {several[delimiter][0]}]
    for choice in (exact, even):
        if choice:
            return choice[0]
    return max(several, key=lambda delimiter: several[delimiter][0], default=",")


def delimiter_offers(sample: str, used: str, options: ReadOptions) -> list[Offer]:
    """The other delimiters under which the header has several names, each with the first rows cut by it."""
    offers = []
    for delimiter in DELIMITERS:
        rows = sample_rows(sample, delimiter)
        if delimiter != used and rows and len(rows[0]) > 1:
            lines = shorten_preview("  \u2502  ".join(fields) for fields in rows)
            offers.append(
                Offer(f"Cells end at {DELIMITER_NAMES[delimiter]}", replace(options, delimiter=delimiter), lines)
            )
    return offers


def sample_rows(sample: str, delimiter: str) -> list[list[str]]:
    """The first rows of the sample; fewer where it can't be cut by this delimiter."""
    rows: list[list[str]] = []
    try:
        for fields in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter):
            if fields:
                rows.append(fields)
            if len(rows) > SAMPLE_ROWS:
                break
    except csv.Error:
        return []
    return rows


def delimiter_notice(delimiter: str, *, chosen: bool) -> list[str]:
    """What there is to say about a delimiter that is no comma."""
    if delimiter == "," or chosen:
        return []
    return [f"Columns are separated by {DELIMITER_NAMES.get(delimiter, repr(delimiter))}."]
