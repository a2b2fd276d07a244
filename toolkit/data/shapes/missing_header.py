"""Files without column names: their first line is a row, and would be lost as the header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from toolkit.data.read_options import Offer, ReadOptions, shorten_preview

NO_HEADER = 0
"""The number of the header row that stands for none."""
MIN_SENTENCE_WORDS = 4
"""Words of a cell that is a sentence rather than a name."""
MIN_REPEATS = 2
"""Rows of the sample that repeat a cell of the first line in its column: it is a value, for example a label."""
NO_HEADER_NOTICE = "The file has no column names, as chosen: its columns were numbered."


def missing_header_offers(rows: Sequence[Sequence[str]], options: ReadOptions) -> list[Offer]:
    """Return the offer to read the first line as a row where that is likely. rows: the first ones of the file."""
    filled = [row for row in rows if row]
    if options.header_row is not None or not _looks_like_a_row(filled):
        return []
    chosen, keep = replace(options, header_row=NO_HEADER), replace(options, header_row=1)
    preview = _preview([number_columns(len(filled[0])), *filled])
    doubt = "The first line looks like a row of data, not like column names."
    return [Offer("The file has no column names", chosen, preview, doubt, _preview(filled), keep)]


def number_columns(count: int) -> list[str]:
    """Return names for columns that have none: "column 1", "column 2" and so on."""
    return [f"column {number}" for number in range(1, count + 1)]


def _looks_like_a_row(rows: Sequence[Sequence[str]]) -> bool:
    header = [cell.strip() for cell in rows[0]] if rows else []
    # a header that stands in the file several times is no value
    rest = [[cell.strip() for cell in row] for row in rows[1:]]
    rest = [row for row in rest if len(row) == len(header) and row != header]
    if len(header) < 2 or not all(header) or len(rest) < MIN_REPEATS:
        return False
    counts = [0 if cell.isdigit() else sum(row[at] == cell for row in rest) for at, cell in enumerate(header)]
    # the questions of a form are sentences too, but all of them are questions
    sentences = [cell for cell in header if len(cell.split()) >= MIN_SENTENCE_WORDS and cell[-1] in ".!?"]
    return max(counts) >= MIN_REPEATS or (len(sentences) == len(header) and any(cell[-1] in ".!" for cell in sentences))


def _preview(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return shorten_preview("  \u2502  ".join(row) for row in rows)
