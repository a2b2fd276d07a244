"""Markdown of a text with its changed words highlighted; the text itself is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

from toolkit.evaluation.statistics.word_diff import DiffSpan
from toolkit.ui.elements.escape import escape_text

MAX_MARKED_CHARACTERS = 4_000
"""Characters of a text that are shown with marks."""


def mark_changes(parts: Sequence[DiffSpan], color: str) -> str:
    """Return markdown of the parts, with the changed ones on a background of `color` ("red", "green")."""
    left = MAX_MARKED_CHARACTERS
    pieces: list[str] = []
    for part in _join_changes(parts):
        text = part.text[:left]
        left -= len(text)
        pieces.append("  \n".join(_line(line, part.changed, color) for line in text.split("\n")))
        if left <= 0:
            pieces.append("…")
            break
    return "".join(pieces) or " "


def _join_changes(parts: Sequence[DiffSpan]) -> list[DiffSpan]:
    """Return the parts with changed ones joined across a space, which would be a hole between two backgrounds."""
    joined: list[DiffSpan] = []
    for part in parts:
        bridges = len(joined) > 1 and joined[-1].text == " " and not joined[-1].changed and joined[-2].changed
        if part.changed and bridges:
            joined[-2:] = [DiffSpan(f"{joined[-2].text} {part.text}", changed=True)]
        elif part.changed and joined and joined[-1].changed:
            joined[-1] = DiffSpan(joined[-1].text + part.text, changed=True)
        else:
            joined.append(part)
    return joined


def mark_edits(old: Sequence[DiffSpan], new: Sequence[DiffSpan]) -> str:
    """Return Markdown of the new text with added words on a green background and removed words struck through in gray.

    old, new: the two sides that `diff_words` returns. Their unchanged spans are the same texts in the same order.
    """
    pieces: list[str] = []
    position = 0
    for span in new:
        if position < len(old) and old[position].changed:
            pieces.append(_strike_through(old[position].text))
            position += 1
        pieces.append(mark_changes([span], "green"))
        position += not span.changed
    return "".join([*pieces, *(_strike_through(span.text) for span in old[position:])])


def _strike_through(text: str) -> str:
    words = " ".join(text.split())
    # Markdown strikes through only what has no white space next to the marks
    marked = f":gray[~~{escape_text(words, MAX_MARKED_CHARACTERS)}~~]" if words else ""
    return f"{' ' * text[:1].isspace()}{marked}{' ' * text[-1:].isspace()}"


def _line(text: str, changed: bool, color: str) -> str:
    shown = _escape_with_spaces(text, keep=changed)
    return f":{color}-background[{shown}]" if changed and shown else shown


def _escape_with_spaces(text: str, *, keep: bool) -> str:
    """Return the text escaped, with the white space that markdown would collapse as no-break spaces."""
    words = re.split(r"(\s+)", text)
    return "".join(
        _visible_space(word, keep) if word.isspace() else escape_text(word, MAX_MARKED_CHARACTERS) for word in words
    )


def _visible_space(space: str, keep: bool) -> str:
    return "\u00a0" * len(space) if keep or len(space) > 1 else " "
