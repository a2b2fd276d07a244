"""How a JSON file holds its rows: lists, columns, the layouts that pandas writes, objects by id, and nested objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from toolkit.data.conversations import CHAT_KEYS
from toolkit.data.read_options import MAX_COLUMNS, MAX_LISTED, Offer, ReadOptions, UnreadableError, shorten_preview
from toolkit.data.readers.json_text import JsonNumber, all_objects, is_message_list, json_text
from toolkit.errors import DataError

KEY_COLUMN = "key"
"""Column for the keys of a file that is one object with a row under each key."""
_DATASET_KEYS = frozenset(("file_name", "hf_hub_url", "ms_hub_url", "script_url"))
_COLUMN_LISTS = frozenset(("features", "schema", "columns"))
"""Lists that describe the columns of the rows in another list."""
EXPECTED_TOP_LEVEL = "The top level must be a list of objects, or one object per line"
_TABLE_NAME = re.compile(
    r"question|answer|prompt|completion|instruction|input|output|text|label|response|messages|review|sentiment|q|a"
)
"""Keys that are more likely names of columns than ids of rows."""


def unwrap_rows(value: dict[str, Any], options: ReadOptions, notice: Callable[[str], None]) -> list[Any]:
    """Return the rows inside a file's only object; `notice` takes what was decided.

    Raises DataError, or UnreadableError with offers when there are several lists of rows.
    """
    if not value or any(is_message_list(value.get(key)) for key in CHAT_KEYS):
        return [value] if value else []
    lists: dict[str, list[Any]] = {key: found for key, found in value.items() if isinstance(found, list)}
    if all(isinstance(found, dict) and _DATASET_KEYS & found.keys() for found in value.values()):
        message = "This is LLaMA-Factory's list of datasets (dataset_info.json), not data."
        raise DataError(message, "Choose the file that one of its entries names under file_name.")
    if options.rows_from is not None:
        if options.rows_from not in lists:
            names = ", ".join(f"'{key[:40]}'" for key in list(lists)[:MAX_LISTED]) or "none"
            raise DataError(f"There is no list '{options.rows_from}' in the file.", f"Its lists are: {names}.")
        notice(f"Rows were read from the list '{options.rows_from}', as chosen.")
        return lists[options.rows_from]
    if (rows := _split_to_rows(value, notice)) is not None:
        return rows
    tables = [key for key, found in lists.items() if found and all_objects(found)]
    tables = [key for key in tables if key not in _COLUMN_LISTS] or tables
    if len(tables) > 1:
        names = ", ".join(f"'{key}' ({len(value[key]):,})" for key in tables[:MAX_LISTED])
        raise UnreadableError(
            f"The file has several lists of rows: {names}.",
            "Choose one of them, or make one the top level of the file.",
            [_list_offer(key, lists[key], options) for key in tables[:MAX_LISTED]],
        )
    if tables:
        others = [key for key in value if key != tables[0]]
        ignored = f" Ignored: {', '.join(others[:MAX_LISTED])}." if others else ""
        notice(f"Rows were read from the list '{tables[0]}'.{ignored}")
        return lists[tables[0]]
    if (key := _find_wrapper(value)) is not None:
        notice(f"Rows were read from the object '{key}'.")
        return unwrap_rows(value[key], options, notice)
    if len(lists) == len(value):
        return _columns_to_rows(value, notice)
    if all(isinstance(found, dict) and found for found in value.values()):
        return _objects_to_rows(value, notice)
    return [value]


def _find_wrapper(value: dict[str, Any]) -> str | None:
    """Return the key of the object that holds the rows, next to plain values that are no row themselves."""
    found = [key for key, inner in value.items() if isinstance(inner, dict) and _holds_rows(inner)]
    others = [key for key in value if key not in found]
    is_row = _has_table_name(others) or any(_is_part_of_row(value[key]) for key in others)
    return found[0] if len(found) == 1 and not is_row else None


def _is_part_of_row(value: Any) -> bool:
    """Return whether a value is more than some numbers about the rows, such as how many there are."""
    return isinstance(value, list) or (isinstance(value, dict) and any(map(_is_text_or_nested, value.values())))


def _is_text_or_nested(value: Any) -> bool:
    return isinstance(value, dict | list) or type(value) is str


def _holds_rows(inner: dict[str, Any]) -> bool:
    if any(isinstance(found, list) and len(found) > 1 and all_objects(found) for found in inner.values()):
        return True
    objects = [found for found in inner.values() if isinstance(found, dict)]
    return len(objects) > 1 and len(objects) == len(inner) and all(map(_has_table_name, objects))


def _split_to_rows(value: dict[str, Any], notice: Callable[[str], None]) -> list[Any] | None:
    """Return the rows of pandas' orient="split": names of columns next to lists of cells; None for another layout."""
    names, cells = value.get("columns"), value.get("data")
    if not value.keys() <= {"columns", "index", "data"} or not isinstance(names, list) or not isinstance(cells, list):
        return None
    if not names or not all(isinstance(name, str) for name in names) or not all(isinstance(row, list) for row in cells):
        return None
    for number, row in enumerate(cells, start=1):
        if len(row) != len(names):
            message = (
                f"The file has {len(names):,} columns, but row {number:,} of its list 'data' has {len(row):,} cells."
            )
            raise DataError(message, "Create the file again, for example with pandas to_json(..., orient='records').")
    notice("The file has the layout that pandas calls split: its list 'data' holds the rows.")
    rows = [dict(zip(names, row, strict=True)) for row in cells]
    index = value.get("index")
    if not isinstance(index, list) or len(index) != len(rows) or _counts_from_zero(index) or "index" in names:
        return rows
    return [{"index": key, **row} for key, row in zip(index, rows, strict=True)]


def _objects_to_rows(value: dict[str, Any], notice: Callable[[str], None]) -> list[Any]:
    """Return the rows of an object of objects, which has a row under each key, or a column under each key."""
    inner = next(iter(value.values())).keys()
    is_table = all(found.keys() == inner for found in value.values())
    by_column = is_table and (_counts_from_zero(inner) or (_has_table_name(value) and not _has_table_name(inner)))
    if by_column and len(value) <= MAX_COLUMNS and not _counts_from_zero(value):
        notice("The file has the layout that pandas calls columns: an object with the cells of each column.")
        return [{name: cells[key] for name, cells in value.items()} for key in inner]
    is_nested = any(isinstance(cell, dict | list) for found in value.values() for cell in found.values())
    if len(value) == 1 and is_nested and not _has_table_name(inner):
        return [value]
    rows = list(value.values())
    if _counts_from_zero(value):
        notice("The file has the layout that pandas calls index: a row under each number.")
        return rows
    column = KEY_COLUMN
    while any(column in row for row in rows):
        column += "_"
    notice(f"The file is one object with a row under each key. The keys are in column '{column}'.")
    return [{column: key, **row} for key, row in value.items()]


def _has_table_name(keys: Iterable[str]) -> bool:
    return any(_TABLE_NAME.fullmatch(key.strip().casefold()) for key in keys)


def _counts_from_zero(keys: Iterable[Any]) -> bool:
    """Return whether the keys are the numbers from 0 on, as pandas numbers rows."""
    return all(str(key) == str(number) for number, key in enumerate(keys))


def flatten_row(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the row with the values of its nested objects under outer.inner.

    Raises DataError when two values would get the same name.
    """
    flat: dict[str, Any] = {}
    for key, value in row.items():
        inner = flatten_row(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
        repeated = flat.keys() & inner.keys()
        if repeated:
            name = sorted(repeated)[0]
            raise DataError(f"Two values would both be named '{name[:60]}'.", "Rename one of them in the file.")
        flat |= inner
    return flat


def flatten_offer(row: dict[str, Any], options: ReadOptions) -> Offer:
    """Return the offer to make columns of the values in nested objects."""
    flat = flatten_row(row)
    lines = shorten_preview(f"{name}: {_value_preview(value)}" for name, value in flat.items() if name not in row)
    return Offer("Flatten nested objects into columns", replace(options, flatten=True), lines)


def _list_offer(key: str, rows: list[Any], options: ReadOptions) -> Offer:
    preview = shorten_preview(map(_value_preview, rows))
    return Offer(f"Read the rows from the list '{key}'", replace(options, rows_from=key), preview)


def _value_preview(value: Any) -> str:
    try:
        return json_text(value)[:200] if not isinstance(value, str) or isinstance(value, JsonNumber) else value[:200]
    except (ValueError, RecursionError):
        return "…"


def _columns_to_rows(value: dict[str, Any], notice: Callable[[str], None]) -> list[Any]:
    lengths = {key: len(cells) for key, cells in value.items()}
    if len(value) > MAX_COLUMNS or len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{key}' has {length:,}" for key, length in list(lengths.items())[:MAX_LISTED])
        raise DataError(f"The file's lists differ in length: {shown}.", "Give all columns the same length.")
    notice("The file is one object with a list for each column.")
    return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]


def openai_notices(columns: list[str]) -> list[str]:
    """Return a notice about OpenAI's older files, which have these two keys per line."""
    if sorted(columns) != ["completion", "prompt"]:
        return []
    return [
        "This is OpenAI's older fine-tuning format, with a prompt and a completion per row: "
        "use {prompt} as the prompt and {completion} as the completion."
    ]
