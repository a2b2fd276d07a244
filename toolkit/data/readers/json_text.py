"""JSON values as text: a decoder that keeps numbers as written, and messages about invalid JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from toolkit.data.chat_messages import expand_pairs
from toolkit.data.python_literals import read_python_object
from toolkit.data.table import rows_in_words
from toolkit.errors import DataError

_ESCAPE = re.compile(r"\\.", re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r\ufeff]*")


class JsonNumber(str):
    """A number as it is written in the file."""

    __slots__ = ()


class NonFiniteNumber(str):
    """NaN, Infinity or -Infinity, which Python's decoder accepts and JSON does not allow."""

    __slots__ = ()


class RepeatedKeyError(DataError):
    """A key appears twice in one object."""


TRUNCATED_HINT = "The file is incomplete: copy or download it again."
"""The hint of every error that means that the file ends too early."""


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RepeatedKeyError(f"the key '{key[:60]}' appears twice in one object.", "Keep one of the two.")
    return found


def _make_decoder(*, strict: bool) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_build_object,
        parse_int=JsonNumber,
        parse_float=JsonNumber,
        parse_constant=NonFiniteNumber,
        strict=strict,
    )


JSON_DECODER, TOLERANT_DECODER = _make_decoder(strict=True), _make_decoder(strict=False)
"""The second one also accepts line breaks, tabs and other control characters inside strings."""

_STRING = r'"(?:[^"\\]|\\.)*"'
_COMMENT = re.compile(rf"({_STRING})|(?<![^\s,{{}}\[\]])//[^\n]*|/\*.*?\*/|(?m:^[ \t]*#[^\n]*)", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"({_STRING})|,(?=\s*[}}\]])", re.DOTALL)


def blank_out_extras(text: str) -> tuple[str, list[str]]:
    """Return the text with spaces for comments and for commas before a closing bracket, and the names of what it had.

    Strings are unchanged, and every other character keeps its position.
    """
    found = []
    for name, pattern in (("comments", _COMMENT), ("trailing commas", _TRAILING_COMMA)):
        blanked = pattern.sub(lambda match: match.group(1) or re.sub(r"[^\n]", " ", match.group()), text)
        if blanked != text:
            found.append(name)
        text = blanked
    return text, found


@dataclass
class Leniency:
    """What a file had that strict JSON does not allow, and was read all the same.

    control: rows with line breaks or tabs inside strings; marks: byte order marks inside the file; encoded: rows that
    were JSON inside a string; python: rows that were dicts of Python.
    """

    control: int = 0
    marks: int = 0
    encoded: int = 0
    python: int = 0
    _extras: dict[str, None] = field(default_factory=dict)

    def note_extras(self, names: Iterable[str]) -> None:
        self._extras |= dict.fromkeys(names)

    def notices(self) -> list[str]:
        found = []
        if self._extras:
            found.append(f"The file is not strict JSON: {' and '.join(self._extras)} were ignored.")
        if self.control:
            rows = rows_in_words(self.control)
            found.append(f"Line breaks and tabs inside strings were kept in {rows}. JSON writes them \\n and \\t.")
        if self.marks:
            found.append("A byte order mark inside the file was ignored: it seems to be several files in one.")
        if self.encoded:
            found.append(f"{rows_in_words(self.encoded)} of JSON inside a string (encoded twice) were decoded.")
        if self.python:
            found.append(f"{rows_in_words(self.python)} written as Python text were converted to JSON.")
        return found


def starts_as_json(sample: str) -> bool:
    """Return whether a text starts as a JSON list or object, or with a line that is one inside a string."""
    first = sample.lstrip().split("\n", 1)[0].strip()
    first = read_python_object(first) or first
    if not first.startswith(("{", "[", '"{', '"[')):
        return False
    try:
        value = json.loads(first.rstrip(","))
        return not isinstance(value, str) or isinstance(json.loads(value), dict | list)
    except (ValueError, RecursionError):
        return re.match(r"\[\s*(\{|$)|\{\s*(\"|$)", first) is not None


def is_comment_line(line: str) -> bool:
    return line.lstrip().startswith(("//", "#"))


def has_open_string(text: str) -> bool:
    """Return whether the text ends inside a JSON string."""
    return _ESCAPE.sub("", text).count('"') % 2 == 1


def skip_space(text: str, at: int) -> int:
    """Return the first position from `at` on that is not JSON white space or the mark of a file that was appended."""
    match = _SPACE.match(text, at)
    return match.end() if match else at


def json_text(value: Any, *, top: bool = False) -> str:
    """Return a value as JSON text, with numbers as written. top: return a string itself, without quotes.

    Raises ValueError with the text of a number that JSON does not allow, such as NaN.
    """
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


def all_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def is_message_list(value: Any) -> bool:
    """Return whether the value is a conversation as OpenAI (role, content) or ShareGPT (from, value) writes it."""
    if not isinstance(value, list) or not value or not all_objects(value):
        return False
    said = {"content", "parts", "tool_calls", "function_call"}
    rows = value if "role" in value[0] or "from" in value[0] else expand_pairs(value)
    return all(("role" in row and said & row.keys()) or {"from", "value"} <= row.keys() for row in rows)


def describe_json_type(value: Any) -> str:
    """Return what a value is, in words: "an object", "the number 3"."""
    if isinstance(value, JsonNumber | NonFiniteNumber):
        return f"the number {value[:30]}"
    names = {dict: "an object", list: "a list", str: "a string", bool: str(value).lower(), type(None): "null"}
    return names[type(value)]


def describe_decode_error(error: json.JSONDecodeError) -> str:
    return error.msg[:1].lower() + error.msg[1:].removesuffix(" at") + "."


def suggest_json_fix(error: json.JSONDecodeError, text: str) -> str:
    """Return the next step for text that is not valid JSON; TRUNCATED_HINT when it ends too early."""
    found = text[error.pos : error.pos + 1]
    before = text[: error.pos].rstrip()[-1:]
    if found == "'" or re.match(r"(None|True|False)\b", text[error.pos : error.pos + 6]):
        return "This looks like Python, not JSON: write it with json.dump."
    if found in ("}", "]") and before == ",":
        return "Delete the comma before the closing bracket."
    if found in ("/", "#"):
        return "JSON does not allow comments: delete them."
    if error.pos >= len(text.rstrip()):
        return TRUNCATED_HINT
    if error.pos == 0 or not text[: error.pos].strip():
        return "If this is a CSV file, give it a name that ends with .csv."
    return "Correct this place in the file."
