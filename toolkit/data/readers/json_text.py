"""JSON values and their text: the decoder that keeps numbers as written, and the words for what is not JSON.

Knows no file and no table.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from toolkit.errors import DataError

_SPACE = re.compile(r"[ \t\n\r]*")


class JsonNumber(str):
    """A number's text, as in the file."""

    __slots__ = ()


class NonFiniteNumber(str):
    """NaN, Infinity or -Infinity: Python reads them, JSON has no such thing."""

    __slots__ = ()


class RepeatedKeyError(DataError):
    """A key twice in one object."""


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RepeatedKeyError(f"the key '{key[:60]}' stands twice in one object.", "Keep one of the two.")
    return found


JSON_DECODER = json.JSONDecoder(
    object_pairs_hook=_build_object, parse_int=JsonNumber, parse_float=JsonNumber, parse_constant=NonFiniteNumber
)


def skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def json_text(value: Any, *, top: bool = False) -> str:
    """A value's text: numbers as in the file, strings bare at the top. Raises ValueError(NaN) for what JSON lacks."""
    if isinstance(value, NonFiniteNumber):
        raise ValueError(str(value))
    if isinstance(value, JsonNumber):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json_text(key)}: {json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(json_text, value)) + "]"
    if isinstance(value, str) and top:
        return value
    return json.dumps(value, ensure_ascii=False)


def all_objects(found: list[Any]) -> bool:
    return all(isinstance(row, dict) for row in found)


def is_message_list(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all_objects(value):
        return False
    return all({"role", "content"} <= row.keys() or {"from", "value"} <= row.keys() for row in value)


def describe_json_type(value: Any) -> str:
    if isinstance(value, JsonNumber | NonFiniteNumber):
        return f"the number {value[:30]}"
    names = {dict: "an object", list: "a list", str: "a text", bool: str(value).lower(), type(None): "null"}
    return names[type(value)]


def describe_decode_error(error: json.JSONDecodeError) -> str:
    return error.msg[:1].lower() + error.msg[1:] + "."


def suggest_json_fix(error: json.JSONDecodeError, text: str) -> str:
    found = text[error.pos : error.pos + 1]
    before = text[: error.pos].rstrip()[-1:]
    if found == "'" or re.match(r"(None|True|False)\b", text[error.pos : error.pos + 6]):
        return "It looks like Python, not JSON: write it with json.dump."
    if found in ("}", "]") and before == ",":
        return "Delete the comma before the closing bracket."
    if found in ("/", "#"):
        return "JSON has no comments: delete them."
    if error.pos >= len(text.rstrip()):
        return "The text ends too early: the file was cut off."
    if error.pos == 0 or not text[: error.pos].strip():
        return "Is it a CSV file? Then choose CSV as the file type."
    return "Correct this place in the file."
