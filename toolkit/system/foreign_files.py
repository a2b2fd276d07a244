"""Read files that another program may have written, with limits: regular files only, JSON of bounded size and depth.

A pipe or a device would keep the reader waiting, and JSON can hold what Python's types can't: numbers of any size, and
half characters that can't be shown or stored.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from pydantic import ValidationError

MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_DEPTH = 64
MAX_JSON_PARTS = 200_000
"""Commas and brackets, those in texts included: an empty list takes 2 bytes in a file and 60 in memory."""
MAX_LARGE_JSON_PARTS = 4_000_000
"""For files that hold something for each row of a dataset or each word of a model."""
MAX_JSON_INTEGER = 2**63 - 1
NO_LENGTH_LIMITS = (int(1e30), 10**30)
"""The longest text of a tokenizer without a limit: as transformers writes it, and as people do."""
_SUSPICIOUS = re.compile(rb"[0-9]{19}|[0-9][eE]\+?[0-9]|\\u[dD][89a-fA-F]")
"""A number that may be too large, or half of a character, which its other half need not follow."""


def open_regular_file(path: Path) -> BufferedReader:
    """Open a file for reading, through links. Raises OSError for what is not a regular file: a pipe would block."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(code, "it is not a regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_foreign_file(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """Return the content of a regular file. limit: in bytes. Raises OSError, also for a larger file."""
    with open_regular_file(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", str(path))
        return file.read(limit)


def describe_read_error(error: Exception) -> str:
    """Return why a file can't be read, as the end of a sentence: one line, without the path and the full stop."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"'{'.'.join(map(str, first['loc']))[:80]}' is wrong: {first['msg']}"
    if isinstance(error, KeyError):
        return f"'{str(error.args[0])[:80]}' is missing"
    text = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
    return text.strip().splitlines()[0][:300].rstrip(".")


def read_foreign_json(path: Path, limit: int = MAX_JSON_BYTES, parts: int = MAX_JSON_PARTS) -> Any:
    """Return the value of a JSON file. Raises OSError, or ValueError for what `parse_foreign_json` refuses."""
    return parse_foreign_json(read_foreign_file(path, limit), parts)


def parse_foreign_json(text: bytes | str, parts: int = MAX_LARGE_JSON_PARTS) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for deep nesting, odd numbers and half characters.

    parts: commas and brackets that it may have; they are counted before anything is parsed.
    """
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if sum(map(raw.count, (b",", b"[", b"{"))) > parts:
        raise ValueError(f"it has more than {parts:,} values")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    if raw[:4].count(0) or _SUSPICIOUS.search(raw):  # UTF-16 and UTF-32 hide what the pattern looks for
        _check_values(value)
    _check_depth(value)
    return value


def find_weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model's folder that are loaded: the whole one, or else those of the index.

    Some folders hold the same weights a second time, in their maker's own format (consolidated.safetensors).
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    try:
        named = set(read_foreign_json(index, parts=MAX_LARGE_JSON_PARTS)["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or a broken one: its own check tells
        named = set()
    found = sorted(folder.glob("*.safetensors"))
    return [path for path in found if path.name in named] or found


_TOO_DEEP = f"it is nested more than {MAX_JSON_DEPTH} levels deep"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it contains {name}, which is not JSON")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [inner for one in level for inner in _children(one) if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_values(value: Any) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        for one in level:
            _check_value(one)
            if isinstance(one, dict):
                for name in one:
                    _check_value(name)
        level = [inner for one in level for inner in _children(one)]


def _check_value(value: Any) -> None:
    if isinstance(value, int) and value not in NO_LENGTH_LIMITS and not -MAX_JSON_INTEGER <= value <= MAX_JSON_INTEGER:
        raise ValueError(f"the number {str(value)[:20]}... is too large")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is too large")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text contains half of a character") from error
