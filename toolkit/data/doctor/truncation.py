"""Token lengths of a table's rows, and the effects of the max sequence length on their answers.

The background worker writes the lengths to a file.
Truncation keeps the start of an example, so a row that is too long loses the end of its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.findings import Finding, Fix
from toolkit.data.table import RowNumbers, rows_in_words
from toolkit.errors import DataError

MAX_LENGTH_SETTING = "training.sft_args.max_seq_length"
DEFAULT_COMPLETE_SHARE = 0.99
"""Share of the rows that a suggested length keeps complete."""
MAX_LENGTH_MULTIPLE = 8
"""Suggested lengths are multiples of this: GPUs multiply matrices of such sizes faster."""


RowTokenCounts = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class RowLengths:
    """Tokens of each row's prompt, and of its completion with the end token, before truncation; int32.

    Both are -1 in a row that is skipped because of a missing cell.
    """

    prompt: RowTokenCounts
    completion: RowTokenCounts

    @property
    def total(self) -> RowTokenCounts:
        """Tokens of each row's prompt and completion together; -1 in a skipped row."""
        return np.where(self.prompt < 0, -1, self.prompt + self.completion).astype(np.int32)


def read_row_lengths(file: Path) -> RowLengths:
    """Read the lengths. Raises DataError when the file is missing or invalid; the worker can write it again."""
    try:
        both = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"The token lengths can't be read ({error}).", "Open the page again.") from error
    return RowLengths(both[:, 0], both[:, 1])


def find_truncated_rows(lengths: RowLengths, limit: int) -> RowNumbers:
    """Return the row numbers of the examples that lose at least the end of their answer."""
    return np.flatnonzero(lengths.total > limit)


def find_rows_without_completion(lengths: RowLengths, limit: int) -> RowNumbers:
    """Return the row numbers of the examples that lose their whole answer and are skipped in training."""
    return np.flatnonzero((lengths.prompt >= limit) & (lengths.total > limit))


def suggest_max_length(lengths: RowLengths, share: float = DEFAULT_COMPLETE_SHARE) -> int:
    """Return the smallest multiple of MAX_LENGTH_MULTIPLE at which `share` of the rows keep their whole answer."""
    ranked = np.sort(usable_row_lengths(lengths))
    if not len(ranked):
        return MAX_LENGTH_MULTIPLE
    needed = int(ranked[int(np.ceil(share * len(ranked))) - 1])
    return -(-needed // MAX_LENGTH_MULTIPLE) * MAX_LENGTH_MULTIPLE


def usable_row_lengths(lengths: RowLengths) -> Any:
    """Return the tokens of each row that is not skipped."""
    return lengths.total[lengths.total >= 0]


def length_histogram(lengths: RowLengths, bars: int = 40) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (edges, counts) of at most `bars` bars of equal integer width, from 0 to the longest row, in tokens."""
    tokens = usable_row_lengths(lengths)
    longest = int(tokens.max(initial=0))
    width = max(1, -(-(longest + 1) // bars))
    edges = np.arange(0, longest + 1 + width, width)
    return edges, np.histogram(tokens, edges)[0]


def find_truncated_answers(lengths: RowLengths, limit: int) -> Finding | None:
    """Return the finding about answers that a max sequence length of `limit` tokens truncates, or None."""
    rows, lost = find_truncated_rows(lengths, limit), find_rows_without_completion(lengths, limit)
    if not rows.size:
        return None
    total = rows_in_words(len(usable_row_lengths(lengths)))
    are, lose = ("is", "loses") if rows.size == 1 else ("are", "lose")
    all_of_it = f"; {lost.size:,} of them {'loses' if lost.size == 1 else 'lose'} all of it" if lost.size else ""
    return Finding(
        "cut_answer",
        "Answers truncated at the max sequence length",
        f"{rows.size:,} of {total} {are} longer than {limit:,} tokens and {lose} the end of the answer{all_of_it}.",
        "The model learns answers that break off, and does not learn when to end an answer.",
        "serious",
        rows,
        tuple(_truncation_fixes(lengths, limit, rows)),
    )


def _truncation_fixes(lengths: RowLengths, limit: int, rows: RowNumbers) -> list[Fix]:
    for_most, for_all = suggest_max_length(lengths), suggest_max_length(lengths, 1.0)
    label = f"Set max sequence length to {for_all:,} (nothing is truncated)"
    fixes = [Fix(label, "set", settings={MAX_LENGTH_SETTING: for_all})]
    if limit < for_most < for_all:
        share = f"{DEFAULT_COMPLETE_SHARE * 100:.0f} % of the rows"
        label = f"Set max sequence length to {for_most:,} ({share} stay complete)"
        fixes.insert(0, Fix(label, "set", settings={MAX_LENGTH_SETTING: for_most}))
    words = rows_in_words(rows.size)
    fixes.append(Fix(f"Remove {words}", "drop", f"{words} with more than {limit:,} tokens removed", rows))
    return fixes
