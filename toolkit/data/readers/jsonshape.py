"""The shapes in which JSON holds rows: a list of objects, an object around such a list, an object of columns.

Values in, rows and notices out; what is ambiguous is offered as a choice. Knows no file and no table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from toolkit.data.read_options import MAX_COLUMNS, Offer, ReadOptions, UnreadableError, shorten_preview
from toolkit.data.readers.json_text import JsonNumber, all_objects, is_message_list, json_text
from toolkit.errors import DataError

CHAT_KEYS = ("messages", "conversations", "conversation")
EXPECTED_TOP_LEVEL = "The top level must be a list of objects, or one object on each line"


def unwrap_rows(value: dict[str, Any], options: ReadOptions, notice: Callable[[str], None]) -> list[Any]:
    """The rows inside one object. Raises DataError, or UnreadableError where several lists could be meant."""
    if not value or any(is_message_list(value.get(key)) for key in CHAT_KEYS):
        return [value] if value else []
    lists: dict[str, list[Any]] = {key: found for key, found in value.items() if isinstance(found, list)}
    if options.rows_from is not None:
        if options.rows_from not in lists:
            there = ", ".join(f"'{key[:40]}'" for key in list(lists)[:10]) or "none"
            raise DataError(f"There is no list '{options.rows_from}' in the file.", f"Its lists are: {there}.")
        notice(f"The rows are the list '{options.rows_from}', as chosen.")
        return lists[options.rows_from]
    tables = [key for key, found in lists.items() if found and all_objects(found)]
    if len(tables) > 1:
        names = ", ".join(f"'{key}' ({len(value[key]):,})" for key in tables[:10])
        raise UnreadableError(
            f"The file has several lists of rows: {names}.",
            "Choose one, or keep one of them as the top level.",
            [_list_offer(key, lists[key], options) for key in tables[:10]],
        )
    if tables:
        others = [key for key in value if key != tables[0]]
        left = f" Left out: {', '.join(others[:10])}." if others else ""
        notice(f"The rows are the list '{tables[0]}'.{left}")
        return lists[tables[0]]
    if len(lists) == len(value):
        return _columns_to_rows(value, notice)
    if len(value) > 1 and all(isinstance(found, dict) for found in value.values()):
        message = f"{EXPECTED_TOP_LEVEL}; found one object of {len(value):,} objects."
        raise DataError(message, "Made with pandas? Write it with to_json(..., orient='records').")
    return [value]


def flatten_row(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    """The row with the values inside its objects under outer.inner. Raises DataError where two get one name."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        inner = flatten_row(value, f"{before}{key}.") if isinstance(value, dict) and value else {before + key: value}
        twice = flat.keys() & inner.keys()
        if twice:
            name = sorted(twice)[0]
            raise DataError(f"Two values would both be called '{name[:60]}'.", "Rename one of them in the file.")
        flat |= inner
    return flat


def flatten_offer(row: dict[str, Any], options: ReadOptions) -> Offer:
    """The choice to make columns of what stands inside a row's objects."""
    flat = flatten_row(row)
    lines = shorten_preview(f"{name}: {_value_preview(value)}" for name, value in flat.items() if name not in row)
    return Offer("Make columns of the values inside objects", replace(options, flatten=True), lines)


def _list_offer(key: str, rows: list[Any], options: ReadOptions) -> Offer:
    return Offer(
        f"The rows are the list '{key}'", replace(options, rows_from=key), shorten_preview(map(_value_preview, rows))
    )


def _value_preview(value: Any) -> str:
    try:
        return json_text(value)[:200] if not isinstance(value, str) or isinstance(value, JsonNumber) else value[:200]
    except (ValueError, RecursionError):
        return "…"


def _columns_to_rows(value: dict[str, Any], notice: Callable[[str], None]) -> list[Any]:
    lengths = {key: len(cells) for key, cells in value.items()}
    if len(value) > MAX_COLUMNS or len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{key}' has {length:,}" for key, length in list(lengths.items())[:10])
        raise DataError(f"The file's lists differ in length: {shown}.", "Make all columns equally long.")
    notice("The file is an object of columns.")
    return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
