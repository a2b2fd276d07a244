"""Text for pages and terminals: numbers with their units, and text of unknown origin without control characters.

Letters of every script, emoji and their joiners stay. Markup is not escaped here.
"""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from typing import Any, TextIO

# C0 and C1 controls except tab and line break; marks, embeddings, overrides and isolates of the text direction
_CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape_control_characters(text: str) -> str:
    """Replace control and bidirectional characters by their code point, so that a preview shows them."""
    return _CONTROL_CHARACTERS.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)


def clean_terminal_text(text: str) -> str:
    """Remove what `strip_control_characters` removes, and returns, which would overwrite the line before them."""
    return strip_control_characters(text).replace("\r", "")


class _PlainFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        # indented: a quoted text with a line break must not look like a line of its own
        return clean_terminal_text(super().formatMessage(record)).replace("\n", "\n    ")

    def formatException(self, ei: Any) -> str:
        return clean_terminal_text(super().formatException(ei))


class PlainLogHandler(logging.StreamHandler[TextIO]):
    """Writes log lines to standard error without control characters: they may quote a file from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_PlainFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write to what is standard error now, which a progress bar replaces."""
        self.setStream(sys.stderr)
        super().emit(record)


def log_plain_text() -> None:
    """Log the warnings of this process with a PlainLogHandler."""
    logging.basicConfig(level=logging.WARNING, handlers=[PlainLogHandler()])


def strip_control_characters(text: object) -> str:
    """Remove control and bidirectional characters; keep tabs and line breaks."""
    return _CONTROL_CHARACTERS.sub("", str(text))


def make_file_stem(text: str, length: int = 40) -> str:
    """Return text as a file's name without its ending: [a-z0-9_-], at most `length` characters; "" if none remain."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:length].strip("-")


def format_duration(seconds: float | None) -> str:
    """Format a duration: 7 -> "7 s", 95 -> "1 min 35 s", 4000 -> "1 h 06 min"; None -> "–"."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def about_duration(seconds: float) -> str:
    """Return the duration rounded to the accuracy of a forecast: 5 s, 1 min from 90 s, 10 min from 1 h."""
    if seconds >= 3600:
        return f"about {format_duration(round(seconds / 600) * 600).removesuffix(' 00 min')}"
    if seconds < 90:
        return f"about {format_duration(round(seconds / 5) * 5 or 5)}"
    return f"about {format_duration(round(seconds / 60) * 60).removesuffix(' 00 s')}"


def format_count(number: int | None) -> str:
    """Format a count: 1234567 -> "1,234,567"; None -> "–"."""
    return "–" if number is None else f"{number:,}"


def format_plural(number: int, noun: str) -> str:
    """Format a count with its noun: (1, "row") -> "1 row"; (3, "row") -> "3 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(number: float | None) -> str:
    """Format bytes with a binary unit: 5_400_000 -> "5.1 MiB"; None -> "–"."""
    if number is None:
        return "–"
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_share(fraction: float | None) -> str:
    """Format a fraction as a percentage: 0.9875 -> "98.8 %"; None -> "–".

    "100 %" and "0 %" mean exactly all and nothing: 0.9999 is "99.9 %".
    """
    if fraction is None:
        return "–"
    rounded = min(max(fraction, 0.001), 0.999) if 0 < fraction < 1 else fraction
    return f"{100 * rounded:.1f} %".replace(".0 %", " %")


def format_figure(number: float | None) -> str:
    """Format a loss or a rate with four significant digits; None -> "–"."""
    return "–" if number is None else format_number(number)


def format_number(number: float, digits: int = 4, *, signed: bool = False) -> str:
    """Format a number with that many significant digits: 11800.0 -> "11,800", -0.5 -> "−0.5", 2e-05 -> "2e−5".

    Digits before the point are all written. signed: a plus sign before positive numbers.
    """
    plus = "+" if signed else ""
    text = f"{number:{plus},.0f}" if 1000 <= abs(number) < 1e15 else f"{number:{plus}.{digits}g}"
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), text).replace("-", "−")
