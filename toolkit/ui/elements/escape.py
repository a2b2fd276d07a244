"""Text from outside (names, columns, cells, log lines, model output) as text on screen, never as markup.

`st.text` and `st.code` need no help; labels, captions, errors and buttons are markdown, and go through here.
"""

from __future__ import annotations

import re

from toolkit.system.printable import strip_control_characters

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=@/])")


def escape_text(text: object, limit: int = 200) -> str:
    """`text` with everything that markdown, HTML, LaTeX, emoji or a link could grow from escaped, on one line, and
    without characters that turn the line around."""
    line = " ".join(strip_control_characters(text).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return _SPECIAL.sub(r"\\\1", line)


def escape_lines(text: object, limit: int = 4000) -> str:
    """Like `plain`, line breaks kept."""
    lines = str(text)[:limit].splitlines()
    return "  \n".join(escape_text(line, limit) for line in lines)
