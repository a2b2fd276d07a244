"""The text of HTML, as mail programs and help desks write messages."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_MARKED = re.compile(r"\s*<(p|div|br|span|html|body|table|ul|ol|b|strong|a|!doctype)\b[^>]*>", re.IGNORECASE)
_LINES = frozenset(("p", "div", "br", "li", "tr", "h1", "h2", "h3", "blockquote"))
_HIDDEN = frozenset(("style", "script", "head"))


class _TextParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in _HIDDEN
        if tag in _LINES:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in _HIDDEN and self._hidden > 0
        if tag in _LINES - {"br"}:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data.replace("\xa0", " "))


def is_html(text: str) -> bool:
    """Return whether a text begins with a tag of HTML."""
    return _MARKED.match(text) is not None


def strip_html(text: str) -> str:
    """Return the text of a message that begins with a tag of HTML, a line for each paragraph; another unchanged."""
    if not is_html(text):
        return text
    parser = _TextParser()
    parser.feed(text)
    parser.close()
    lines = [" ".join(line.split()) for line in "".join(parser.parts).split("\n")]
    return "\n".join(filter(None, lines))
