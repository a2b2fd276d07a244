"""Text as words and as JSON, for comparing answers: in any script, the same way for every measure.

A number keeps its sign, point and separators ("-3.5" is one word, not "3" and "5"); a character of a script without
spaces is a word by itself. Knows no measure.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

_WORD = re.compile(
    r"(?<!\w)[+-]?\d+(?:[.,:/-]\d+)*(?!\w)"  # numbers, dates, times
    r"|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # scripts written without spaces
    r"|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+(?:['’][^\W\d_]+)*"
)
_FENCE = re.compile(r"\A```[a-zA-Z]*\n(.*?)\n?```\Z", re.S)


def split_words(text: str) -> list[str]:
    """The words of a text, case and width of characters set aside."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalize_words(text: str) -> str:
    """The words joined by one space; for a text without any (an emoji, a sign) the text itself, trimmed."""
    return " ".join(split_words(text)) or text.strip()


class InvalidJsonError(ValueError):
    """The text is no JSON value; the message says where."""


def parse_answer_json(text: str) -> Any:
    """The JSON value of a text, one Markdown fence around it allowed. Raises NotJson; NaN and Infinity are not JSON."""
    trimmed = text.strip()
    fenced = _FENCE.match(trimmed)
    try:
        return json.loads(fenced.group(1) if fenced else trimmed, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidJsonError("it is nested too deeply") from error
    except ValueError as error:
        raise InvalidJsonError(str(error)) from error


def iterate_json_fields(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf of a JSON object; lists are leaves, an empty object too."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from iterate_json_fields(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value


def same_json(left: Any, right: Any) -> bool:
    """Equality of JSON values: 4 and 4.0 are one number, true and 1 are not the same."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
    return (type(left) is type(right) and left == right) or (_is_number(left) and _is_number(right) and left == right)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
