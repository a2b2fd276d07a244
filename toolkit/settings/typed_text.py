"""Conversion between the text of a form field and the value of a setting.

Text that cannot be parsed stays text: it goes into the draft as it was typed, where validation reports it and the form
shows it again. Nothing that was typed is lost or changed silently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from toolkit.settings.field_spec import FieldSpec

LIBRARY_DEFAULT = "library default"
"""Stands for None where an empty field cannot: among several values, and in tables."""
AUTO = "Auto"
"""The word for an empty setting that is on or off as machine, model and data suggest."""

TEXT_SEPARATOR = "---"
"""The line between two values of a long text."""

RANGE_KINDS = ("whole", "number", "size")
MAX_RANGE_CHARACTERS = 100
MAX_RANGE_NUMBERS = 10_000
"""Numbers that a range such as 0-3 in a list stands for at most."""
RANGE_VALUES = 41
"""Values that a range of numbers stands for: with "log", 20 per decade of a range over two."""

_NONE_WORDS = {LIBRARY_DEFAULT, "none", "null", "default"}
_FLAG_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def parse_field_text(spec: FieldSpec, text: str) -> Any:
    """Return the value of a field's text. Empty is None for an optional setting; text that cannot be parsed is kept."""
    plain = text.strip()
    if not plain and spec.kind != "text":
        return None if spec.optional else ""
    match spec.kind:
        case "whole":
            return _parse_whole(plain)
        case "number":
            return _parse_number(plain)
        case "size":
            return _parse_size(plain)
        case "flag":
            return _FLAG_WORDS.get(plain.lower(), text)
        case "words":
            return [word for word in re.split(r"[,\s]+", plain) if word]
        case "indexes":
            return parse_indexes(re.split(r"[,\s]+", plain))
        case _:
            return None if spec.optional and not plain else text


def normalize_text(spec: FieldSpec, value: Any) -> Any:
    """Convert a value from a file to the setting's type (YAML reads 1e-4 as text); others are returned unchanged."""
    if isinstance(value, str) and spec.kind in ("whole", "number", "size", "flag"):
        return parse_field_text(spec, value)
    if spec.kind == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else value
    return value


def format_field_text(spec: FieldSpec, value: Any) -> str:
    """Return the shortest text that `parse_field_text` reads as the same value; "" for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value!r}" if spec.kind == "size" else format_short_number(value)
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def is_auto_flag(spec: FieldSpec) -> bool:
    """Return whether the setting is on, off, or decided automatically, which is its default."""
    return spec.kind == "flag" and spec.optional and spec.default is None


def summarize_value(spec: FieldSpec, value: Any, limit: int = 48) -> str:
    """Return a value for a sentence or table cell: one line of at most `limit` characters, never empty."""
    if value is None:
        return AUTO if is_auto_flag(spec) else LIBRARY_DEFAULT
    text = " ".join(format_field_text(spec, value).split())
    if not text:
        return "empty"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def parse_several_values(spec: FieldSpec, text: str) -> list[Any]:
    """Parse several values: numbers separated by commas, lists one per line, texts separated by `---` lines."""
    if spec.kind == "text":
        return split_texts(text, keep_empty=True)
    text = re.sub(r"\s+%", "%", text) if spec.kind == "size" else text
    separator = r"[,;\s]+"
    if spec.kind in RANGE_KINDS:
        separator = r"[,;]|\s+(?!log\b)"
        text = re.sub(r"\s+log\b", " log", re.sub(r"\s*\.\.\s*", "..", text))
    parts = text.splitlines() if spec.kind in ("words", "indexes") else re.split(separator, text)
    return [parse_one_of_several(spec, part.strip()) for part in parts if part.strip()]


def is_value_range(spec: FieldSpec | None, value: Any) -> bool:
    """Return whether a value is a range, such as "1e-5..1e-3 log", in place of one value of a number."""
    return spec is not None and spec.kind in RANGE_KINDS and isinstance(value, str) and ".." in value


def expand_value_range(spec: FieldSpec, text: str) -> list[Any]:
    """Return the values that a range stands for: every whole number, or RANGE_VALUES evenly spaced ones with both ends.

    With "log", their ratios are even. Raises ValueError, with what is wrong.
    """
    given = text.strip() if len(text) <= MAX_RANGE_CHARACTERS else ""
    parts = re.fullmatch(r"(\S+?)\s*\.\.\s*(\S+?)(\s+log)?", given)
    ends = [parse_field_text(spec, part) for part in parts.group(1, 2)] if parts else []
    if parts is None or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise ValueError("a range is written as two numbers, for example 1e-5..1e-3 or 1e-5..1e-3 log")
    low, high = (float(end) for end in ends)
    if low >= high:
        raise ValueError("its first number must be smaller than its second")
    if parts[3] and low <= 0:
        raise ValueError("a log range needs numbers above 0")
    is_whole = all(isinstance(end, int) for end in ends)
    if is_whole and not parts[3] and high - low < RANGE_VALUES:
        return list(range(int(low), int(high) + 1))
    shares = [at / (RANGE_VALUES - 1) for at in range(RANGE_VALUES)]
    between = [low * (high / low) ** share if parts[3] else low + (high - low) * share for share in shares[1:-1]]
    values = [ends[0], *(round(value) if is_whole else float(f"{value:.3g}") for value in between), ends[1]]
    return list(dict.fromkeys(values))


def split_texts(text: str, *, keep_empty: bool = False) -> list[str]:
    """Split a text at its `---` lines."""
    parts = [part.strip("\n") for part in re.split(rf"(?m)^{TEXT_SEPARATOR}[ \t]*$", text)]
    return [part for part in parts if keep_empty or part.strip()]


def format_several_values(spec: FieldSpec, values: Sequence[Any]) -> str:
    """Return the text that `parse_several_values` reads as the same values."""
    words = [format_one_of_several(spec, value) for value in values]
    if spec.kind == "text":
        return f"\n{TEXT_SEPARATOR}\n".join(words)
    return ("\n" if spec.kind in ("words", "indexes") else ", ").join(words)


def parse_one_of_several(spec: FieldSpec, word: str) -> Any:
    """Parse one of several values. "none" means the library's default, unless "none" is a value of the setting."""
    if spec.optional and (
        word == LIBRARY_DEFAULT or (spec.kind not in ("text", "choice") and word.lower() in _NONE_WORDS)
    ):
        return None
    return parse_field_text(spec, word)


def format_one_of_several(spec: FieldSpec, value: Any) -> str:
    """Return the text that `parse_one_of_several` reads as the same value."""
    if value is None:
        return "none" if spec.kind not in ("text", "choice") else LIBRARY_DEFAULT
    return format_field_text(spec, value)


def parse_indexes(words: Sequence[str]) -> list[Any]:
    """Parse whole numbers; "0-3" means 0, 1, 2, 3. Words that are not numbers are kept for validation to report."""
    found: list[Any] = []
    for word in words:
        span = re.fullmatch(r"(\d{1,9})-(\d{1,9})", word)
        if span and 0 <= int(span[2]) - int(span[1]) < MAX_RANGE_NUMBERS:
            found += range(int(span[1]), int(span[2]) + 1)
        elif word:
            found.append(_parse_whole(word))
    return found


def format_short_number(value: float) -> str:
    """Return a number in its shortest exact form: 0.0002 -> "2e-4", 0.05 -> "0.05", 1.0 -> "1"."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value).removesuffix(".0")
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    rest = "".join(map(str, digits[1:]))
    mantissa = f"{digits[0]}.{rest}" if rest else str(digits[0])
    return f"{'-' if sign else ''}{mantissa}e{int(exponent) + len(digits) - 1}"


def _parse_whole(text: str) -> Any:
    return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else text


def _parse_number(text: str) -> Any:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", text):
        return text
    value = float(text)
    return value if math.isfinite(value) else text


def _parse_size(text: str) -> Any:
    """Parse a share ("80 %", "0.8") or a number of rows ("80"); the spelling decides, as in a file."""
    if text.endswith("%"):
        share = _parse_number(text[:-1].strip())
        return share if isinstance(share, str) else float(Decimal(text[:-1].strip()) / 100)
    whole = _parse_whole(text)
    return whole if isinstance(whole, int) else _parse_number(text)
