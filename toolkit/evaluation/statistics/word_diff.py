"""What differs between two texts, word by word. Knows no screen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

_PIECE = re.compile(r"\s+|\w+|[^\w\s]")
MAX_DIFF_PIECES = 1_500
"""Beyond so many words and signs the texts are shown without marks: the comparison is quadratic."""


@dataclass(frozen=True)
class DiffSpan:
    """A stretch of one text. changed: the other text has something else there, or nothing."""

    text: str
    changed: bool = False


def diff_words(left: str, right: str) -> tuple[list[DiffSpan], list[DiffSpan]]:
    """Both texts in parts; the parts of each joined are that text."""
    ours, theirs = _PIECE.findall(left), _PIECE.findall(right)
    if len(ours) > MAX_DIFF_PIECES or len(theirs) > MAX_DIFF_PIECES:
        return [DiffSpan(left, left != right)], [DiffSpan(right, left != right)]
    sides: tuple[list[DiffSpan], list[DiffSpan]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        for side, pieces in zip(sides, (ours[a:b], theirs[c:d]), strict=True):
            if pieces:
                side.append(DiffSpan("".join(pieces), kind != "equal"))
    return sides
