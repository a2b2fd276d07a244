"""Text from outside (names, columns, cells, log lines, model output) as text on screen, never as markup.

`st.text` and `st.code` need no help; labels, captions, errors and buttons are markdown, and go through here.
"""

from __future__ import annotations

import re

from toolkit.system.printable import legible

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=@/])")


def plain(text: object, limit: int = 200) -> str:
    """`text` with everything that markdown, HTML, LaTeX, emoji or a link could grow from escaped, on one line, and
    without characters that turn the line around."""
    line = " ".join(legible(text).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return _SPECIAL.sub(r"\\\1", line)


def plain_lines(text: object, limit: int = 4000) -> str:
    """Like `plain`, line breaks kept."""
    lines = str(text)[:limit].splitlines()
    return "  \n".join(plain(line, limit) for line in lines)
