"""Splitting text into words and reading JSON from it, the same way for every measure and in any script.

A number keeps its sign, point and separators ("-3.5" is one word, not "3" and "5"). In scripts that are written without
spaces every character is a word.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

_WORD_PATTERN = re.compile(
    r"(?<!\w)[+-]?\d+(?:[.,:/-]\d+)*(?!\w)"  # numbers, dates, times
    r"|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # scripts written without spaces
    r"|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+(?:['’][^\W\d_]+)*"
)
_FENCE_PATTERN = re.compile(r"\A```[a-zA-Z]*\n(.*?)\n?```\Z", re.S)


def split_words(text: str) -> list[str]:
    """Return the words of a text, case-folded and in compatibility form (NFKC)."""
    return _WORD_PATTERN.findall(unicodedata.normalize("NFKC", text).casefold())


def normalize_words(text: str) -> str:
    """Return the words joined by single spaces; a text without words (an emoji) is only stripped."""
    return " ".join(split_words(text)) or text.strip()


def split_reasoning(text: str) -> tuple[str, str]:
    """Return (reasoning, answer). Reasoning is a block in think tags before the answer; the prompt may have opened it.

    Reasoning that the token limit cut off has no answer after it.
    """
    reasoning, closed, answer = text.rpartition("</think>")
    begun = text.lstrip().startswith("<think>")
    if not closed and not begun:
        return "", text
    thought = (reasoning if closed else text).strip().removeprefix("<think>").strip()
    return thought, answer.lstrip() if closed else ""


def drop_reasoning(text: str) -> str:
    """Return an answer without the reasoning before it."""
    return split_reasoning(text)[1]


def is_exact_match(answer: str, expected: str) -> bool:
    """Return whether an answer equals the expected one, ignoring white space at both ends and reasoning."""
    return drop_reasoning(answer).strip() == drop_reasoning(expected).strip()


class InvalidJsonError(ValueError):
    """The text is not a JSON value; the message says where."""


def parse_answer_json(text: str) -> Any:
    """Return the JSON value of a text; a Markdown code fence around it is allowed.

    Raises InvalidJsonError, also for NaN and Infinity, which Python would accept.
    """
    trimmed = text.strip()
    fenced = _FENCE_PATTERN.match(trimmed)
    try:
        return json.loads(fenced.group(1) if fenced else trimmed, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidJsonError("it is nested too deeply") from error
    except ValueError as error:
        raise InvalidJsonError(str(error)) from error


def iterate_json_fields(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for every leaf of a JSON object; lists and empty objects are leaves."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from iterate_json_fields(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value


def same_json(left: Any, right: Any) -> bool:
    """Return whether two JSON values are equal: 4 equals 4.0, but true does not equal 1."""
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
