"""Escape text from outside (names, columns, cells, log lines, model output) for Streamlit's markdown.

`st.text` and `st.code` show plain text already. Labels, captions, errors and buttons are markdown and need escaping.
"""

from __future__ import annotations

import re

from toolkit.system.printable import strip_control_characters

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=@/])")
_SPLIT = "\0"
"""Marks a place at which the text is split; `strip_control_characters` removes it from texts."""
_SPLIT_MARKUP = ":gray[]"
"""An empty colored span. Links, emoji codes and arrows are looked for in what the parser leaves as one piece of text,
after backslashes are gone: a split in their middle is the only thing that stops them."""
_FOUND_IN_TEXT = re.compile(
    r"(?P<scheme>https?)(?=://)|(?P<www>www)(?=\.)|(?P<mail>[-.\w+])(?=@[-\w])|(?P<code>:[\w+\-/]+)(?=:)"
    r"|(?<!\S)(?P<arrow><->|->|<-|--|>=|<=|~=)(?!\S)",
    re.IGNORECASE,
)


def escape_text(text: object, limit: int = 200) -> str:
    """Return `text` on one line of at most `limit` characters, escaped so that it appears character by character.

    Nothing in it is read as markdown, HTML, LaTeX, an emoji code, an arrow or a link, not even a bare address. Control
    and bidirectional characters are removed.
    """
    line = " ".join(strip_control_characters(text).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    split = _FOUND_IN_TEXT.sub(_split_match, line)
    return _SPECIAL.sub(r"\\\1", split).replace(_SPLIT, _SPLIT_MARKUP)


def _split_match(found: re.Match[str]) -> str:
    return _SPLIT.join(found[0]) if found["arrow"] else found[0] + _SPLIT


def escape_lines(text: object, limit: int = 4000) -> str:
    """Return the first `limit` characters of `text` escaped as by `escape_text`, with line breaks kept."""
    lines = str(text)[:limit].splitlines()
    return "  \n".join(escape_text(line, limit) for line in lines)
