"""Conversations and rows that were written as Python text, as pandas and print do, and their JSON text.

A strict parser of literals reads them: nothing is evaluated. Arrays of numpy, which have no commas, are read as lists.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from typing import Any

_SKIPPED = (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)
_NO_LITERAL = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)
_DICT_START = re.compile(r"\s*\{\s*'")
_MARKS = ("'role'", "'from'", '"role"', '"from"')


def read_python_messages(cell: str) -> str | None:
    """Return the JSON text of a cell that holds a list of messages as Python text; None for any other cell."""
    start = cell.lstrip()
    if not start.startswith(("[", "array(")) or not any(mark in cell for mark in _MARKS):
        return None
    try:
        value = _parse_literal(cell.strip())
        is_chat = isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
        return json.dumps(value, ensure_ascii=False, allow_nan=False) if is_chat else None
    except _NO_LITERAL:
        return None


def read_python_list(cell: str) -> Any:
    """Return the list or object that a cell holds as Python text, also as numpy writes it; None for any other cell."""
    try:
        value = ast.literal_eval(" ".join(_list_tokens(cell.strip())))
    except _NO_LITERAL:
        return None
    return value if isinstance(value, list | dict) else None


def read_python_object(line: str) -> str | None:
    """Return the JSON text of a line that holds a dict as Python text; None for any other line."""
    if not _DICT_START.match(line):
        return None
    try:
        tree = ast.parse(line.strip().removesuffix(","), mode="eval")
        value = ast.literal_eval(tree)
        keys = [
            [getattr(key, "value", None) for key in node.keys] for node in ast.walk(tree) if isinstance(node, ast.Dict)
        ]
        # JSON knows no other keys, and of two equal ones the first would be lost
        if not all(isinstance(key, str) for each in keys for key in each) or any(len(set(k)) < len(k) for k in keys):
            return None
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except _NO_LITERAL:
        return None


def _parse_literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return ast.literal_eval(" ".join(_list_tokens(text)))


def _list_tokens(text: str) -> Iterator[str]:
    """Yield the tokens of a text, with commas between the items of arrays, and without `array(` and its `dtype`."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in _SKIPPED]
    words = [token.string for token in tokens]
    opened: list[bool] = []  # for each open bracket, whether it belongs to `array(`
    before, at = "", 0
    while at < len(words):
        word = words[at]
        if word == "array" and words[at + 1 : at + 2] == ["("]:
            opened.append(True)
            at += 2
            continue
        if word == "," and words[at + 1 : at + 3] == ["dtype", "="]:
            at += 4
            continue
        if word in ("(", "[", "{"):
            if before in ("}", "]"):
                yield ","
            opened.append(False)
        elif word in (")", "]", "}") and opened and opened.pop():
            at += 1
            continue
        if before[-1:] in ("'", '"') and word[:1] in ("'", '"'):
            yield ","
        yield word
        before, at = word, at + 1
