"""Text from outside without the characters that steer a screen or a terminal: no escape, no bell, no reversed line.

Knows no markup (`ui/elements/escape.py`). What stays is shown as it is: letters of every script, emoji and their joiners.
"""

from __future__ import annotations

import re

# C0 and C1 controls but tab and line break; marks, embeddings, overrides and isolates of text direction
_CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape_control_characters(text: str) -> str:
    """`text` with each of them as its number, so that a preview shows them and is not turned around by them."""
    return _CONTROL_CHARACTERS.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)


def strip_control_characters(text: object) -> str:
    """`text` without them; tabs and line breaks stay."""
    return _CONTROL_CHARACTERS.sub("", str(text))
