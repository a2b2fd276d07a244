"""What a maximum length does to the answers of a table whose token lengths are known. Knows no tokenizer.

Truncation keeps the beginning of an example: what a row loses is the end of its answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.data.doctor.token_lengths import RowLengths
from toolkit.data.findings import Finding, Fix, RowNumbers

MAX_LENGTH_SETTING = "training.sft_args.max_seq_length"
DEFAULT_WHOLE_SHARE = 0.99
MAX_LENGTH_MULTIPLE = 8
"""Suggested lengths are multiples of it: matrices of such sizes are computed faster."""


def find_truncated_rows(lengths: RowLengths, limit: int) -> RowNumbers:
    """Row numbers of the examples that lose at least the end of their answer."""
    return np.flatnonzero(lengths.whole > limit)


def find_rows_without_completion(lengths: RowLengths, limit: int) -> RowNumbers:
    """Row numbers of those that lose all of it: they are left out of training."""
    return np.flatnonzero((lengths.prompt >= limit) & (lengths.whole > limit))


def suggest_max_length(lengths: RowLengths, share: float = DEFAULT_WHOLE_SHARE) -> int:
    """The smallest length, a multiple of STEP, at which `share` of the rows keep their whole answer."""
    ranked = np.sort(usable_row_lengths(lengths))
    if not len(ranked):
        return MAX_LENGTH_MULTIPLE
    needed = int(ranked[int(np.ceil(share * len(ranked))) - 1])
    return -(-needed // MAX_LENGTH_MULTIPLE) * MAX_LENGTH_MULTIPLE


def usable_row_lengths(lengths: RowLengths) -> Any:
    """Tokens of the rows that are not left out."""
    return lengths.whole[lengths.whole >= 0]


def length_histogram(lengths: RowLengths, bars: int = 40) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(edges, counts): at most `bars` of equal, whole width from 0 to the longest."""
    whole = usable_row_lengths(lengths)
    longest = int(whole.max(initial=0))
    width = max(1, -(-(longest + 1) // bars))
    edges = np.arange(0, longest + 1 + width, width)
    return edges, np.histogram(whole, edges)[0]


def find_truncated_answers(lengths: RowLengths, limit: int) -> Finding | None:
    """What the maximum length `limit` does to the answers; None when nothing is lost."""
    rows, lost = find_truncated_rows(lengths, limit), find_rows_without_completion(lengths, limit)
    if not rows.size:
        return None
    of = f"{len(usable_row_lengths(lengths)):,} rows"
    whole = f", {lost.size:,} of them all of it" if lost.size else ""
    message = f"{rows.size:,} of {of} {'is' if rows.size == 1 else 'are'} longer than {limit:,} tokens and lose "
    message = message.replace("lose ", "loses ") if rows.size == 1 else message
    return Finding(
        "cut_answer",
        "Answers cut off by the length limit",
        f"{message}the end of the answer{whole}.",
        "The model learns answers that break off, and does not learn to end them.",
        "serious",
        rows,
        tuple(_truncation_fixes(lengths, limit, rows)),
    )


def _truncation_fixes(lengths: RowLengths, limit: int, rows: RowNumbers) -> list[Fix]:
    most, everything = suggest_max_length(lengths), suggest_max_length(lengths, 1.0)
    fixes = [Fix(f"Set the length to {everything:,}, nothing is cut", "set", settings={MAX_LENGTH_SETTING: everything})]
    if limit < most < everything:
        fixes.insert(0, Fix(f"Set the length to {most:,}, 99 % stay whole", "set", settings={MAX_LENGTH_SETTING: most}))
    words = f"{rows.size:,} row{'' if rows.size == 1 else 's'}"
    fixes.append(Fix(f"Remove {words}", "drop", f"{words} with more than {limit:,} tokens removed", rows))
    return fixes
