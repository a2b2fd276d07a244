"""A text with its changed words marked, as text on screen: nothing in it is ever read as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from toolkit.evaluation.statistics.word_diff import Part
from toolkit.ui.elements.escape import plain

MOST = 4_000
"""Characters of a text that are shown with marks."""


def marked(parts: Sequence[Part], colour: str) -> str:
    """Markdown of the parts, the changed ones on a background of `colour` ("red", "green")."""
    left = MOST
    pieces: list[str] = []
    for part in parts:
        text = part.text[:left]
        left -= len(text)
        pieces.append("  \n".join(_line(line, part.changed, colour) for line in text.split("\n")))
        if left <= 0:
            pieces.append("…")
            break
    return "".join(pieces) or " "


def _line(text: str, changed: bool, colour: str) -> str:
    shown = _spaced(text, keep=changed)
    return f":{colour}-background[{shown}]" if changed and shown else shown


def _spaced(text: str, *, keep: bool) -> str:
    """Escaped, with white space that markdown would swallow kept as such."""
    words = re.split(r"(\s+)", text)
    return "".join(_blank(word, keep) if word.isspace() else plain(word, MOST) for word in words)


def _blank(space: str, keep: bool) -> str:
    return "\u00a0" * len(space) if keep or len(space) > 1 else " "
