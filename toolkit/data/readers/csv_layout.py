"""How a CSV file is laid out, from the sample at its start: delimiter, title lines, spaces before quotes, drawn tables.

Where a file can be read in two ways, the layout has an offer with a doubt, which shows both.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from toolkit.data.read_options import Offer, ReadOptions, shorten_preview
from toolkit.data.shapes.drawn_tables import BAR, DrawnTable, find_drawn_table
from toolkit.data.shapes.missing_header import missing_header_offers

DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
DELIMITERS = tuple(DELIMITER_NAMES)
"""The delimiters that are detected, the likeliest first."""
SAMPLE_CHARACTERS = 65_536
"""Characters at the start of the file from which the layout is detected."""
SAMPLE_ROWS = 50
"""Rows of the sample that are compared."""
MAX_TITLE_LINES = 10
"""Lines above the header that are recognized as a title."""
MIN_ROWS_BELOW_TITLE = 10
"""Rows of equal width that show that a line above them is a title, if nothing else does."""
MIN_PADDED_ROWS = 2
"""Rows, besides the header, whose cells show whether delimiters have spaces around them."""
_NUMBER = re.compile(r"[-+]?[\d.,]+%?")
_SPACED_QUOTE = re.compile(r" +\"")
_RULER = re.compile(r"\s*:?[-=_+]{2,}:?\s*")

CsvRow = list[str]

_ESCAPED_QUOTE = re.compile(r'(?<!\\)((?:\\\\)*)\\"')


@dataclass(frozen=True)
class CsvLayout:
    """title_lines: rows above the header; skips_spaces: whether spaces in front of a cell are ignored.

    padding: the delimiter with the spaces around it, if these are no part of the cells.

    quotes_are_text: whether quotes enclose no cells; drawn: the table that the lines draw;
    ends_with: what stands at the end of each line and is ignored; offers: other ways to read the file.
    """

    delimiter: str
    title_lines: int = 0
    skips_spaces: bool = False
    padding: str = ""
    quotes_are_text: bool = False
    drawn: DrawnTable | None = None
    ends_with: str = ""
    notices: tuple[str, ...] = ()
    offers: tuple[Offer, ...] = ()


def detect_layout(sample: str, options: ReadOptions, declared: str | None, *, whole: bool) -> CsvLayout:
    """Return the layout of a file that starts with the sample. declared: the delimiter that its first line names.

    whole: whether the sample is the whole file; otherwise its last row may be incomplete.
    """
    quotes_are_text = options.quotes == "text"
    plain = declared is None and options.delimiter in (None, BAR) and options.header_row is None
    if plain and (drawn := find_drawn_table(sample.splitlines()[: None if whole else -1])) is not None:
        return CsvLayout(BAR, quotes_are_text=True, drawn=drawn)
    sample = sample.replace('"', "") if quotes_are_text else sample
    ends_with = _line_end(sample, whole=whole) if not options.delimiter and not declared else ""
    sample = re.sub(rf"{ends_with}(?=\r?\n|$)", "", sample) if ends_with else sample
    delimiter = options.delimiter or declared
    likely = [delimiter] if delimiter else likely_delimiters(sample, whole=whole)
    delimiter = likely[0]
    rows = _sample_records(sample, delimiter)
    titles = count_title_rows(rows) if options.header_row is None else max(0, options.header_row - 1)
    skips = has_spaces_before_quotes(sample, delimiter)
    padding = "" if options.delimiter or skips else _padding(sample, rows[titles:], delimiter, whole=whole)
    notices = delimiter_notice(delimiter, chosen=options.delimiter is not None)
    if ends_with:
        notices.append("Every line ends with a semicolon after its last cell; it was ignored.")
    if skips:
        notices.append("Spaces in front of quoted cells were ignored.")
    if padding:
        notices.append("Every delimiter has spaces around it: they are no part of the cells.")
    notices += title_notice(titles)
    offers = delimiter_offers(sample, delimiter, options, likely)
    if titles and options.header_row is None:
        names = shorten_preview("  \u2502  ".join(row) for row in rows if row)
        offers.append(Offer("The first line has the column names", replace(options, header_row=1), names))
    elif not declared:
        offers += missing_header_offers(rows if whole else rows[:-1], options)
    skips = skips or padding != ""
    return CsvLayout(delimiter, titles, skips, padding, quotes_are_text, None, ends_with, tuple(notices), tuple(offers))


def _padding(sample: str, rows: Sequence[CsvRow], delimiter: str, *, whole: bool) -> str:
    """Return the delimiter with its spaces if they stand at every one of the sample: "a, b" or "a | b"; else ""."""
    filled = [row for row in (rows if whole else rows[:-1]) if row]
    cells = [cell for row in filled for cell in row[1:]]
    if (
        delimiter == "\t"
        or not cells
        or len(filled) <= MIN_PADDED_ROWS
        or not all(cell[:1] == " " != cell[1:2] for cell in cells)
    ):
        return ""
    before = [cell for row in filled for cell in row[:-1]]
    return f" {delimiter} " if '"' not in sample and all(cell[-1:] == " " for cell in before) else f"{delimiter} "


def _line_end(sample: str, *, whole: bool) -> str:
    """Return a semicolon if it ends each line of a file whose cells are separated by something else."""
    lines = [line for line in sample.splitlines() if line.strip()][: None if whole else -1]
    ends = len(lines) > 1 and all(line.endswith(";") and line.count(";") == 1 for line in lines)
    return ";" if ends and all(line.count(",") or line.count("\t") for line in lines) else ""


def title_notice(count: int) -> list[str]:
    """Return a notice about rows above the header."""
    if not count:
        return []
    return [f"The first {'row is' if count == 1 else f'{count} rows are'} a title; the column names are below it."]


def likely_delimiters(sample: str, *, whole: bool) -> list[str]:
    """Return the delimiters with which the header has several names and the sample's rows have as many cells.

    If there are several, the first one splits the header into more names and is less often followed by a space. If no
    delimiter gives rows of equal width, the one with the widest header is returned; for a single column a comma.
    """
    widths = {}
    for delimiter in DELIMITERS:
        rows = _sample_records(sample, delimiter)
        filled = [row for row in rows[count_title_rows(rows) :] if row]
        found = [len(row) for row in filled]
        widths[delimiter] = found if whole or len(found) < 2 else found[:-1]
    several = {delimiter: found for delimiter, found in widths.items() if found and found[0] > 1}
    # a row may end with a delimiter, and so have one more cell
    even = [delimiter for delimiter, found in several.items() if set(found) <= {found[0], found[0] + 1}]
    exact = [delimiter for delimiter in even if set(several[delimiter]) == {several[delimiter][0]}]
    for choice in (exact, even):
        if choice:
            return sorted(choice, key=lambda delimiter: _rank(sample, delimiter))
    return [max(several, key=lambda delimiter: several[delimiter][0], default=",")]


def detect_delimiter(sample: str, *, whole: bool) -> str:
    """Return the likeliest delimiter."""
    return likely_delimiters(sample, whole=whole)[0]


def _rank(sample: str, delimiter: str) -> tuple[int, bool]:
    """Return what orders delimiters with which the sample is a table: more names first, then fewer spaces after it."""
    rows = sample_rows(sample, delimiter)
    cells = [cell for row in rows for cell in row[1:]]
    spaced = sum(cell.startswith(" ") for cell in cells)
    return -sum(bool(name.strip()) for name in rows[0]), spaced > len(cells) / 2


def count_title_rows(rows: Sequence[CsvRow]) -> int:
    """Return how many rows above the header hold a title, a comment or nothing. rows: the first ones of the file."""
    filled = [[cell for cell in row if cell.strip()] for row in rows]
    at = next((at for at, cells in enumerate(filled[: MAX_TITLE_LINES + 1]) if len(cells) > 1), 0)
    titles, header, body = rows[:at], rows[at] if at < len(rows) else [], [row for row in rows[at + 1 :] if row]
    if not any(filled[:at]) or any(cells and not row[0].strip() for row, cells in zip(titles, filled, strict=False)):
        return 0
    names = [name.strip() for name in header]
    plain = all(names) and len(set(names)) == len(names) and not any(map(_NUMBER.fullmatch, names))
    if not plain or any(name.startswith(" ") for name in header) or {len(row) for row in body} != {len(header)}:
        return 0
    text = titles[0][0].strip() if titles[0] else ""
    if text.startswith("#") or any(not cells for cells in filled[:at]):
        return at
    is_padded = all(len(row) == len(header) for row in titles)
    return at if " " in text and (is_padded or len(header) > 2 or len(body) >= MIN_ROWS_BELOW_TITLE) else 0


def has_spaces_before_quotes(sample: str, delimiter: str) -> bool:
    """Return whether quotes stand after spaces, and all rows are of equal width when these spaces are ignored."""
    if not any(_SPACED_QUOTE.match(cell) for row in sample_rows(sample, delimiter) for cell in row[1:]):
        return False
    rows = [row for row in _sample_records(sample, delimiter, skips_spaces=True) if row]
    widths = {len(row) for row in (rows[:-1] if len(sample) >= SAMPLE_CHARACTERS else rows)}
    return len(widths) == 1 and widths != {1}


def is_ruler(cells: Iterable[str]) -> bool:
    """Return whether a row has only dashes and the like, as the line below a header in Markdown and in terminals."""
    found = [cell for cell in cells if cell.strip()]
    return bool(found) and all(_RULER.fullmatch(cell) for cell in found)


def split_swallowed_lines(cells: Sequence[str], delimiter: str) -> list[CsvRow] | None:
    """Return the rows that the lines of a record would make if a quote did not span them; None if they make none.

    cells: a record with a cell that spans lines. Its lines make rows if each has as many cells as the record.
    """
    spanning = [at for at, cell in enumerate(cells) if "\n" in cell]
    if len(spanning) != 1 or delimiter not in cells[spanning[0]]:
        return None
    at = spanning[0]
    first, *middle, last = cells[at].replace("\r\n", "\n").split("\n")
    rows = [
        [*cells[:at], *f'"{first}'.split(delimiter)],
        *(_split_line(line, delimiter) for line in middle),
        [*f'{last}"'.split(delimiter), *cells[at + 1 :]],
    ]
    return rows if all(len(row) == len(cells) for row in rows) and len(cells) > 1 else None


def _split_line(line: str, delimiter: str) -> CsvRow:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return line.split(delimiter)


def swallowed_offer(record: Sequence[str], rows: Sequence[CsvRow], line: int, options: ReadOptions) -> Offer:
    """Return the offer to read the lines of records as rows; `record` is the first such record, at this line."""
    doubt = f"1 row spans several lines that could be rows of their own, first at line {line:,}: a quote may hide rows."
    other = shorten_preview("  \u2502  ".join(row) for row in rows)
    now = shorten_preview(["  \u2502  ".join(cell.replace("\n", " \u21b5 ") for cell in record)])
    return Offer(
        "Read each of these lines as a row",
        replace(options, quotes="lines"),
        other,
        doubt,
        now,
        replace(options, quotes="cells"),
    )


def double_escaped_quotes(text: str) -> str:
    """Return a text with "" for each quote behind a backslash, as Spark and MySQL write those inside a cell."""
    return _ESCAPED_QUOTE.sub(r'\1""', text)


def escaped_quotes_offers(sample: str, delimiter: str, options: ReadOptions) -> list[Offer]:
    """Return the offer to read quotes behind backslashes as text, if all rows of the sample are then of equal width."""
    if options.quotes == "backslash" or _ESCAPED_QUOTE.search(sample) is None:
        return []
    rows = [row for row in _sample_records(double_escaped_quotes(sample), delimiter) if row]
    whole = rows[:-1] if len(sample) >= SAMPLE_CHARACTERS else rows
    if len({len(row) for row in whole}) != 1 or len(whole[0]) < 2:
        return []
    shown = [row for row in whole if any('"' in cell for cell in row)] or whole
    lines = shorten_preview("  \u2502  ".join(row) for row in shown)
    return [Offer('Read \\" as a quote inside a cell', replace(options, quotes="backslash"), lines)]


def text_quotes_offers(sample: str, delimiter: str, options: ReadOptions) -> list[Offer]:
    """Return the offer to read quotes as ordinary characters, if all rows of the sample are then of equal width."""
    lines = [line for line in sample.splitlines() if line.strip()]
    widths = {line.count(delimiter) for line in (lines if len(sample) < SAMPLE_CHARACTERS else lines[:-1])}
    if len(widths) != 1 or widths == {0} or options.quotes == "text":
        return []
    label, shown = "Read quotes as ordinary characters", [line for line in lines if '"' in line] or lines
    return [Offer(label, replace(options, quotes="text"), shorten_preview(shown))]


def delimiter_offers(sample: str, used: str, options: ReadOptions, likely: Sequence[str] = ()) -> list[Offer]:
    """Return the other delimiters with which the header has several names, with the first rows as a preview.

    likely: those that fit as well as the used one; their offers have a doubt.
    """
    offers = []
    now = shorten_preview("  \u2502  ".join(fields) for fields in sample_rows(sample, used))
    for delimiter in DELIMITERS:
        rows = sample_rows(sample, delimiter)
        if delimiter != used and rows and len(rows[0]) > 1:
            name = DELIMITER_NAMES[delimiter]
            lines = shorten_preview("  \u2502  ".join(fields) for fields in rows)
            doubt = f"The file can be split at {DELIMITER_NAMES[used]} and at {name}." if delimiter in likely else ""
            chosen = replace(options, delimiter=delimiter)
            keep = replace(options, delimiter=used)
            offers.append(Offer(f"Cells are separated by {name}", chosen, lines, doubt, now if doubt else (), keep))
    return offers


def sample_rows(sample: str, delimiter: str) -> list[CsvRow]:
    """Return the first rows of the sample, or none if it can't be split at this delimiter."""
    return [row for row in _sample_records(sample, delimiter) if row]


def _sample_records(sample: str, delimiter: str, *, skips_spaces: bool = False) -> list[CsvRow]:
    """Return the first records of the sample with the blank ones, or none if it can't be split at this delimiter."""
    rows: list[CsvRow] = []
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, skipinitialspace=skips_spaces)
    try:
        for fields in reader:
            rows.append(fields)
            if len(rows) > SAMPLE_ROWS:
                break
    except csv.Error:
        return []
    return rows


def delimiter_notice(delimiter: str, *, chosen: bool) -> list[str]:
    """Return a notice about a detected delimiter other than a comma."""
    if delimiter == "," or chosen:
        return []
    return [f"Columns are separated by {DELIMITER_NAMES.get(delimiter, repr(delimiter))}."]
