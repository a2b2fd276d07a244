"""What a maximum length does to the answers of a table whose token lengths are known. Knows no tokenizer.

Truncation keeps the beginning of an example: what a row loses is the end of its answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.data.doctor.token_lengths import Lengths
from toolkit.data.findings import Finding, Fix, Rows

SETTING = "training.sft_args.max_seq_length"
KEPT = 0.99
STEP = 8
"""Suggested lengths are multiples of it: matrices of such sizes are computed faster."""


def rows_cut(lengths: Lengths, limit: int) -> Rows:
    """Row numbers of the examples that lose at least the end of their answer."""
    return np.flatnonzero(lengths.whole > limit)


def rows_lost(lengths: Lengths, limit: int) -> Rows:
    """Row numbers of those that lose all of it: they are left out of training."""
    return np.flatnonzero((lengths.prompt >= limit) & (lengths.whole > limit))


def keeping(lengths: Lengths, share: float = KEPT) -> int:
    """The smallest length, a multiple of STEP, at which `share` of the rows keep their whole answer."""
    ranked = np.sort(present(lengths))
    if not len(ranked):
        return STEP
    needed = int(ranked[int(np.ceil(share * len(ranked))) - 1])
    return -(-needed // STEP) * STEP


def present(lengths: Lengths) -> Any:
    """Tokens of the rows that are not left out."""
    return lengths.whole[lengths.whole >= 0]


def histogram(lengths: Lengths, bars: int = 40) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(edges, counts): at most `bars` of equal, whole width from 0 to the longest."""
    whole = present(lengths)
    longest = int(whole.max(initial=0))
    width = max(1, -(-(longest + 1) // bars))
    edges = np.arange(0, longest + 1 + width, width)
    return edges, np.histogram(whole, edges)[0]


def cut_answers(lengths: Lengths, limit: int) -> Finding | None:
    """What the maximum length `limit` does to the answers; None when nothing is lost."""
    rows, lost = rows_cut(lengths, limit), rows_lost(lengths, limit)
    if not rows.size:
        return None
    of = f"{len(present(lengths)):,} rows"
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
        tuple(_fixes(lengths, limit, rows)),
    )


def _fixes(lengths: Lengths, limit: int, rows: Rows) -> list[Fix]:
    most, everything = keeping(lengths), keeping(lengths, 1.0)
    fixes = [Fix(f"Set the length to {everything:,}, nothing is cut", "set", settings={SETTING: everything})]
    if limit < most < everything:
        fixes.insert(0, Fix(f"Set the length to {most:,}, 99 % stay whole", "set", settings={SETTING: most}))
    words = f"{rows.size:,} row{'' if rows.size == 1 else 's'}"
    fixes.append(Fix(f"Remove {words}", "drop", f"{words} with more than {limit:,} tokens removed", rows))
    return fixes
