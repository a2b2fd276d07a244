"""The differences between two texts, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

_PIECE_PATTERN = re.compile(r"\s+|\w+|[^\w\s]")
MAX_DIFF_PIECES = 1_500
"""Texts with more words and punctuation marks are not compared: the comparison is quadratic."""


@dataclass(frozen=True)
class DiffSpan:
    """A span of one text. changed: whether the other text has something else there, or nothing."""

    text: str
    changed: bool = False


def diff_words(left: str, right: str) -> tuple[list[DiffSpan], list[DiffSpan]]:
    """Return the spans of both texts; the spans of each, joined, are that text."""
    left_pieces, right_pieces = _PIECE_PATTERN.findall(left), _PIECE_PATTERN.findall(right)
    if len(left_pieces) > MAX_DIFF_PIECES or len(right_pieces) > MAX_DIFF_PIECES:
        return [DiffSpan(left, left != right)], [DiffSpan(right, left != right)]
    sides: tuple[list[DiffSpan], list[DiffSpan]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, left_pieces, right_pieces, autojunk=False).get_opcodes():
        for side, pieces in zip(sides, (left_pieces[a:b], right_pieces[c:d]), strict=True):
            if pieces:
                side.append(DiffSpan("".join(pieces), kind != "equal"))
    return sides
