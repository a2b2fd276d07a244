"""The strict CSV reader: delimiter detection, the header, and rows that don't fit the header.

Python's csv module in strict mode splits the records. An empty cell is a missing one. Nothing is converted: 007, NA,
1e5 and True stay text.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import TextIO

from toolkit.data.read_options import (
    MAX_CELL,
    MAX_COLUMNS,
    MAX_LISTED,
    Offer,
    ReadOptions,
    UnreadableError,
    shorten_preview,
)
from toolkit.data.readers.csv_layout import (
    SAMPLE_CHARACTERS,
    CsvLayout,
    detect_layout,
    double_escaped_quotes,
    escaped_quotes_offers,
    split_swallowed_lines,
    swallowed_offer,
    text_quotes_offers,
)
from toolkit.data.readers.encoding import detect_encoding
from toolkit.data.readers.json_text import starts_as_json
from toolkit.data.readers.table_writer import ReadOutcome, SourceFile, TableWriter
from toolkit.data.shapes.drawn_tables import DrawnLines
from toolkit.data.shapes.foreign_texts import refuse_foreign_text
from toolkit.data.shapes.missing_header import NO_HEADER, NO_HEADER_NOTICE, number_columns
from toolkit.data.shapes.text_files import TextLayout, find_text_layout
from toolkit.data.table import rows_in_words
from toolkit.errors import DataError


def read_csv(source: SourceFile) -> ReadOutcome:
    """Read the rows of a CSV file.

    Raises DataError that names the place, or UnreadableError with the options that would make the file readable.
    """
    source.report_progress(0.0, "detecting the encoding")
    path, options, encoding = source.path, source.options, detect_encoding(source.path, source.options)
    writer = source.new_writer(lambda line: f"line {line:,}", empty_is_missing=True)
    csv.field_size_limit(MAX_CELL)
    _check_delimiter(options)
    with path.open(encoding=encoding.codec, errors=encoding.errors, newline="") as file:
        sample = file.read(SAMPLE_CHARACTERS)
        if (text := _recognize_text(sample, options)) is not None:
            file.seek(0)
            return _read_text(file, text, writer, encoding.notices)
        _refuse_json(sample)
        rewrite = double_escaped_quotes if options.quotes == "backslash" else None
        declared = re.match(r"sep=([^\w\s\"]|\t)\r?\n", sample)
        whole = len(sample) < SAMPLE_CHARACTERS
        named = declared.group(1) if declared else None
        below = sample[declared.end() if declared else 0 :]
        layout = detect_layout(rewrite(below) if rewrite else below, options, named, whole=whole)
        file.seek(0)
        lines = map(rewrite, file) if rewrite else file
        drawn = DrawnLines(lines, layout.drawn) if layout.drawn else None
        records = _CsvRecords(drawn or lines, layout, options, sample)
        if declared:
            next(records.lines)  # the line "sep=;" that Excel writes is no header
        notices, offers = [*encoding.notices, *layout.notices], list(layout.offers)
        rows = records.rows()
        header, rows = _read_header(rows, options, notices)
        names = clean_header(header, notices, options)
        for name in names:
            writer.add_column(name)
        width_check, size = _RowWidthCheck(len(names), options), path.stat().st_size
        stream: TextIO = file
        writer.share_read = lambda: stream.buffer.tell() / size
        for line, fields in rows:
            if width_check.accepts(line, fields):
                is_full = len(fields) == len(names)
                writer.add(fields if is_full else fields[: len(names)] + [""] * (len(names) - len(fields)), line)
        writer.share_read = lambda: 1.0
    offers = [*records.offers(), *offers]
    notices += [
        *width_check.finish(header, offers),
        *records.notices(),
        *(drawn.notices() if drawn else []),
        *(offer.doubt for offer in offers if offer.doubt),
    ]
    return ReadOutcome(writer, notices, _drop_empty_last_column(header, names, writer, notices), offers)


def _check_delimiter(options: ReadOptions) -> None:
    """Raise DataError if cells can't be split at the delimiter that was chosen."""
    if options.delimiter in ('"', "\r", "\n", " "):
        hint = "Choose a comma, semicolon, tab or vertical bar."
        raise DataError(f"{options.delimiter!r} can't be used as a delimiter.", hint)


def _recognize_text(sample: str, options: ReadOptions) -> TextLayout | None:
    """Return how to read a text without cells, None if it is CSV. Raises DataError for one that holds no examples."""
    if options.delimiter is not None or options.header_row is not None:
        return None
    refuse_foreign_text(sample)
    return find_text_layout(sample)


def _read_text(file: TextIO, layout: TextLayout, writer: TableWriter, notices: Iterable[str]) -> ReadOutcome:
    for name in layout.columns:
        writer.add_column(name)
    for line, cells in layout.read(file):
        writer.add(cells, line)
    return ReadOutcome(writer, [*notices, layout.notice])


def _read_header(
    rows: Iterator[tuple[int, list[str]]], options: ReadOptions, notices: list[str]
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the column names and the rows below them. Raises DataError for a file without a row."""
    line, header = next(rows, (0, []))
    if not header:
        raise DataError("The file contains only blank lines.", "Choose a file with a header and rows.")
    if options.header_row != NO_HEADER:
        return header, rows
    notices.append(NO_HEADER_NOTICE)
    return number_columns(len(header)), chain([(line, header)], rows)


class _QuoteError(DataError):
    """A quote is not closed, or is followed by text."""


class _CsvRecords:
    """The records of a file below its title, as their lines and cells: the header, then the rows."""

    def __init__(self, file: Iterable[str], layout: CsvLayout, options: ReadOptions, sample: str) -> None:
        self._sample = sample
        self.lines = _records(file, layout)
        self._layout = layout
        self._options = options
        self._marks = self._split = self._swallowing = 0
        self._offer: Offer | None = None

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line, cells) of the header and of every row; a blank row has no cells.

        Raises DataError for a row that is not valid CSV, UnreadableError if it can be read with quotes as text.
        """
        try:
            yield from self._rows()
        except _QuoteError as error:
            given = (self._sample, self._layout.delimiter, self._options)
            offers = [*escaped_quotes_offers(*given), *text_quotes_offers(*given)]
            raise UnreadableError(error.message, error.hint, offers) from error

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        layout, delimiter = self._layout, self._layout.delimiter
        lines = islice(self.lines, layout.title_lines, None)
        header = next((record for record in lines if record[1]), (0, [], False))
        for at, (line, fields, spans) in enumerate(chain([header], lines)):
            if fields and fields[0].startswith("\ufeff"):
                self._marks += 1
                fields[0] = fields[0][1:]
            swallowed = split_swallowed_lines(fields, delimiter) if spans and at else None
            if swallowed is None:
                yield line, fields
            elif self._options.quotes == "lines":
                self._split += 1
                yield from ((line + nth, row) for nth, row in enumerate(swallowed))
            else:
                self._swallowing += 1
                if self._offer is None and self._options.quotes is None:
                    self._offer = swallowed_offer(fields, swallowed, line, self._options)
                yield line, fields

    def notices(self) -> list[str]:
        found = []
        if self._marks:
            found.append("A byte order mark inside the file was ignored: it seems to be several files in one.")
        if self._split:
            found.append(f"{rows_in_words(self._split)} that spanned several lines were split at them, as chosen.")
        return found

    def offers(self) -> list[Offer]:
        if self._offer is None:
            return []
        doubt = self._offer.doubt
        if self._swallowing > 1:
            doubt = doubt.replace("1 row spans", f"{rows_in_words(self._swallowing)} span", 1)
        return [replace(self._offer, doubt=doubt)]


def clean_header(header: list[str], notices: list[str], options: ReadOptions) -> list[str]:
    """Return the column names without outer spaces and with a number for each empty name; both add a notice.

    Raises DataError for too many columns, UnreadableError for two equal names that no option numbers.
    """
    names = [name.strip() for name in header]
    stripped = [name for name, original in zip(names, header, strict=True) if name != original and name]
    if stripped:
        notices.append(f"Spaces around column names were removed: {_listed(stripped)}.")
    empty = [index for index, name in enumerate(names) if not name]
    for index in empty:
        names[index] = f"column {index + 1}"
    if empty and empty != [len(names) - 1]:
        notices.append(f"Columns without a name were named {_listed([names[index] for index in empty])}.")
    if len(names) > MAX_COLUMNS:
        raise DataError(
            f"The header has {len(names):,} columns; at most {MAX_COLUMNS:,} are allowed.",
            "Keep only the columns that your prompt and completion use.",
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated and options.number_names:
        names = number_names(names)
        notices.append(f"Repeated column names were numbered, as chosen: {_listed(repeated)}.")
    elif repeated:
        places = [str(index + 1) for index, name in enumerate(names) if name == repeated[0]]
        message = f"Columns {', '.join(places[:MAX_LISTED])} are all named '{repeated[0][:60]}'."
        shown = shorten_preview(["  \u2502  ".join(number_names(names))])
        offer = Offer("Number the repeated column names", replace(options, number_names=True), shown)
        raise UnreadableError(message, "Give each column a unique name in the first line of the file.", [offer])
    return names


def number_names(names: Sequence[str]) -> list[str]:
    """Return the names with a number behind each repetition: "Labels", "Labels 2", "Labels 3"."""
    taken, found = set(names), dict[str, None]()
    for name in names:
        number, numbered = 1, name
        while numbered in found or (number > 1 and numbered in taken):
            number += 1
            numbered = f"{name} {number}"
        found[numbered] = None
    return [*found]


class _RowWidthCheck:
    """Counts the rows that fit the header's width, and words the notices and errors for those that don't."""

    def __init__(self, width: int, options: ReadOptions) -> None:
        self.width = width
        self.good = self.blank = self.bad = self.filled = 0
        self.ended = 0  # rows that fit but for an empty cell after a delimiter at their end
        self._options = options
        self._first_bad: list[tuple[int, int]] = []
        self._first_ended: list[tuple[int, int]] = []

    def accepts(self, line: int, fields: list[str]) -> bool:
        """Count the row; return whether it is kept."""
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
        """Return the notices.

        Raises UnreadableError with offers when rows don't fit the header, DataError when there are no rows.
        """
        skip = self._options.bad_rows == "skip"
        # if only some rows end with a delimiter, their extra cell may be a shifted value
        mixed = bool(self.ended and self.good) and not skip
        bad = sorted(self._first_bad + (self._first_ended if mixed else []))[:MAX_LISTED]
        count = self.bad + (self.ended if mixed else 0)
        if count and not skip:
            raise UnreadableError(
                *_row_width_message(count, bad, self.width), [*self._recovery_offers(count, bad), *offers]
            )
        if not self.good and not self.ended and not self.filled:
            names = _listed([name.strip() for name in header])
            raise DataError(f"The file has a header ({names}) and 0 rows; at least 2 are needed.", "Add rows.")
        notices = []
        if self.bad:
            rows = ", ".join(f"line {line:,}" for line, _ in bad)
            more = ", …" if count > len(bad) else ""
            were = "row that doesn't fit the header was" if self.bad == 1 else "rows that don't fit the header were"
            notices.append(f"{self.bad:,} {were} skipped, as chosen: {rows}{more}.")
        if self.filled:
            notices.append(f"In {rows_in_words(self.filled)}, missing cells were treated as empty, as chosen.")
        if self.ended and self.good:
            end = "ends" if self.ended == 1 else "end"
            rows = rows_in_words(self.ended)
            notices.append(f"{rows} {end} with a delimiter; the empty cell after it was ignored.")
        elif self.ended:
            notices.append("Every row ends with a delimiter; the empty cell after it was ignored.")
        if self.blank and self.width == 1:
            lines = "blank line was" if self.blank == 1 else "blank lines were"
            notices.append(f"{self.blank:,} {lines} skipped.")
        return notices

    def _recovery_offers(self, count: int, bad: list[tuple[int, int]]) -> list[Offer]:
        kept = self.good + self.ended
        these = "this row" if count == 1 else f"these {count:,} rows"
        offers = []
        if kept:
            label = f"Skip {these} and keep the other {'row' if kept == 1 else f'{kept:,}'}"
            offers.append(Offer(label, replace(self._options, bad_rows="skip")))
        if all(cells < self.width for _, cells in bad) and self.bad == count:
            label = f"Treat the missing cells in {these} as empty"
            offers.append(Offer(label, replace(self._options, bad_rows="fill")))
        return offers

    @staticmethod
    def _remember(listed: list[tuple[int, int]], line: int, count: int) -> None:
        if len(listed) < MAX_LISTED:
            listed.append((line, count))


def _records(file: Iterable[str], layout: CsvLayout) -> Iterator[tuple[int, list[str], bool]]:
    """Yield for each record the line on which it starts, its cells, and whether it spans several lines."""
    if layout.ends_with:
        file = (line.rstrip("\r\n").removesuffix(layout.ends_with) + "\n" for line in file)
    if layout.padding.startswith(" "):
        file = (line if '"' in line else line.replace(layout.padding, layout.delimiter) for line in file)
    reader = csv.reader(
        file,
        delimiter=layout.delimiter,
        strict=True,
        skipinitialspace=layout.skips_spaces,
        quoting=csv.QUOTE_NONE if layout.quotes_are_text else csv.QUOTE_MINIMAL,
    )
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _syntax_error(error, line, reader.line_num) from error
        yield line, fields, reader.line_num > line
        line = reader.line_num + 1


def _syntax_error(error: csv.Error, first: int, last: int) -> DataError:
    where = f"line {first:,}" if first == last else f"lines {first:,} to {last:,}"
    text = str(error)
    if "unexpected end" in text:
        message = f"The row at line {first:,} has an opening quote without a closing quote."
        return _QuoteError(message, 'Close the quote, or write "" for a quote that belongs to the text.')
    if "field limit" in text:
        message = f"The row at {where} has a cell of more than {MAX_CELL:,} characters."
        return DataError(message, "Shorten it, or check for an earlier quote that is never closed.")
    if "expected after" in text:
        message = f"In the row at {where}, a quoted cell continues after its closing quote."
        return _QuoteError(message, 'Write "" for quotes that belong to the text, and quote the whole cell.')
    return DataError(f"The row at {where} is not valid CSV ({text}).", "Correct this row in the file.")


def _row_width_message(count: int, bad: list[tuple[int, int]], width: int) -> tuple[str, str]:
    rows = ", ".join(f"line {line:,} has {cells}" for line, cells in bad)
    more = f", and {count - len(bad):,} more" if count > len(bad) else ""
    message = (
        f"{count:,} {'row does' if count == 1 else 'rows do'} not fit the header, which has {width} "
        f"{'column' if width == 1 else 'columns'}: {rows}{more}."
    )
    if any(cells > width for _, cells in bad):
        return message, "Put quotes around cells that contain the delimiter, or correct these rows."
    return message, "Add the missing delimiters to these rows."


def _drop_empty_last_column(header: list[str], names: list[str], writer: TableWriter, notices: list[str]) -> list[str]:
    """Return the last column if it has neither a name nor cells, because every line ends with a delimiter."""
    if header[-1].strip() or len(names) < 2:
        return []
    writer.flush()
    if writer.missing[names[-1]] == writer.rows:
        notices.append("Every line ends with a delimiter; the empty column after it was ignored.")
        return [names[-1]]
    notices.append(f"The last column has no name; it was named {names[-1]}.")
    return []


def _refuse_json(sample: str) -> None:
    if starts_as_json(sample):
        first = sample.lstrip()[:1]
        raise DataError(f"This is JSON, not CSV: it starts with {first}.", "Choose JSON as the file type.")


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:MAX_LISTED])
    return shown + (", ..." if len(names) > MAX_LISTED else "")
