"""Which character stands between the cells of a CSV file: the likely one, and previews of all that are possible.

Looks at the beginning of the file. Knows no table.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from toolkit.data.read_options import Offer, ReadOptions, shorten_preview

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
