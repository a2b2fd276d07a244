"""Removal of control characters from text of unknown origin, before it is shown on a screen or in a terminal.

Letters of every script, emoji and their joiners stay. Markup is not escaped here.
"""

from __future__ import annotations

import re

# C0 and C1 controls except tab and line break; marks, embeddings, overrides and isolates of the text direction
_CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape_control_characters(text: str) -> str:
    """Replace control and bidirectional characters by their code point, so that a preview shows them."""
    return _CONTROL_CHARACTERS.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)


def clean_terminal_text(text: str) -> str:
    """Remove what `strip_control_characters` removes, and returns, which would overwrite the line before them."""
    return strip_control_characters(text).replace("\r", "")


def strip_control_characters(text: object) -> str:
    """Remove control and bidirectional characters; keep tabs and line breaks."""
    return _CONTROL_CHARACTERS.sub("", str(text))
