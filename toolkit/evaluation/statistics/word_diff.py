"""The differences between two texts, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

_PIECE_PATTERN = re.compile(r"\s+|\w+|[^\w\s]")
_WORD_PATTERN = re.compile(r"\w+")
MIN_COMMON_SHARE = 0.4
"""Of the words of both texts; with fewer in common, nearly every word of an answer would be marked."""
MAX_DIFF_PIECES = 1_500
"""Texts with more words and punctuation marks are not compared: the comparison is quadratic."""


@dataclass(frozen=True)
class DiffSpan:
    """A span of one text. changed: whether the other text has something else there, or nothing."""

    text: str
    changed: bool = False


def have_common_words(left: str, right: str) -> bool:
    """Return whether the texts have enough words in common, in the same order, for their differences to be a help."""
    common, total = 0, 0
    for side in diff_words(left, right):
        for span in side:
            words = len(_WORD_PATTERN.findall(span.text))
            total += words
            common += 0 if span.changed else words
    return common >= MIN_COMMON_SHARE * total


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
