"""Escape text from outside (names, columns, cells, log lines, model output) for Streamlit's markdown.

`st.text` and `st.code` show plain text already. Labels, captions, errors and buttons are markdown and need escaping.
"""

from __future__ import annotations

import re

from toolkit.system.printable import strip_control_characters

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=@/])")


def escape_text(text: object, limit: int = 200) -> str:
    """Return `text` on one line of at most `limit` characters, escaped so that nothing in it is read as markup.

    Markup is markdown, HTML, LaTeX, emoji codes and links. Control and bidirectional characters are removed.
    """
    line = " ".join(strip_control_characters(text).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return _SPECIAL.sub(r"\\\1", line)


def escape_lines(text: object, limit: int = 4000) -> str:
    """Return the first `limit` characters of `text` escaped as by `escape_text`, with line breaks kept."""
    lines = str(text)[:limit].splitlines()
    return "  \n".join(escape_text(line, limit) for line in lines)
