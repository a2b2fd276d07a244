"""JSON, read strictly: a list of objects, one object a line, or one of the usual wrappings of these.

Numbers keep their text (3.10 stays 3.10, a 23-digit id stays whole), true and false are the words, null and an absent
key are missing, a nested value becomes its JSON text. NaN, repeated keys and all that is not JSON are refused with the
place. A list is held in memory whole, objects a line are streamed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from toolkit.data.read_options import MAX_COLUMNS, Offer, ReadOptions, UnreadableError, shorten_preview
from toolkit.data.readers.encoding import DetectedEncoding
from toolkit.data.readers.json_text import (
    JSON_DECODER,
    JsonNumber,
    NonFiniteNumber,
    RepeatedKeyError,
    all_objects,
    describe_decode_error,
    describe_json_type,
    is_message_list,
    json_text,
    skip_space,
    suggest_json_fix,
)
from toolkit.data.readers.table_writer import TableWriter
from toolkit.errors import DataError

MAX_LISTED_RECORDS = 10


class JsonReader:
    """Feeds a JSON file's rows to a TableWriter. `notices` and `offers`, other ways to read it, fill meanwhile."""

    def __init__(self, path: Path, encoding: DetectedEncoding, options: ReadOptions) -> None:
        self.notices: list[str] = []
        self.offers: list[Offer] = []
        self._path = path
        self._encoding = encoding
        self._options = options
        self._text = ""
        self._nested: dict[str, int] = {}
        self._chats: set[str] = set()
        self._left_out: list[str] = []
        self._columns: dict[str, str] = {}
        self.place: Callable[[int], str] = lambda line: f"line {line:,}"

    def read(self, writer: TableWriter) -> None:
        """Write every row; raises DataError with the row and its place."""
        rows = self._lines(writer) if self._one_object_a_line() else self._document()
        for mark, value in rows:
            row = {"messages": value} if is_message_list(value) else value
            if not isinstance(row, dict):
                message = f"{EXPECTED_TOP_LEVEL}; row {writer.rows + 1:,} ({self.place(mark)}) is {describe_json_type(value)}."
                raise DataError(message, 'Write every row as an object, e.g. {"question": "...", "answer": "..."}.')
            self._add(writer, row, mark)
        if not writer.rows:
            raise DataError("The file has 0 rows; at least 2 are needed.", "Add rows to it.")
        if not writer.columns:
            raise DataError(f"None of the {writer.rows:,} objects has a key.", "Choose a file with columns.")
        self._add_closing_notices()

    def _add(self, writer: TableWriter, value: dict[str, Any], mark: int) -> None:
        if self._options.flatten:
            value = self._flatten_if_chosen(value, writer.rows + 1, mark)
        for key in value:
            if key not in self._columns:
                self._columns[key] = self._name(key, writer)
                writer.add_column(self._columns[key])
        row = writer.rows + 1
        # text and what is missing are most cells, and need no call
        cells = [cell if (cell := value.get(key)) is None or type(cell) is str else self._cell(key, cell, row, mark)
                 for key in self._columns]  # fmt: skip
        writer.add(cells, mark)

    def _flatten_if_chosen(self, value: dict[str, Any], row: int, mark: int) -> dict[str, Any]:
        try:
            return flatten_row(value)
        except DataError as error:
            raise DataError(f"Row {row:,} ({self.place(mark)}): {error.message}", error.hint) from error

    def _name(self, key: str, writer: TableWriter) -> str:
        if key.strip():
            return key
        name = f"column {len(writer.columns) + 1}"
        self.notices.append(f"A key without a name is called {name}.")
        if name in self._columns.values():
            raise DataError(f"There is a key without a name, and one named '{name}'.", "Give the key a name.")
        return name

    def _cell(self, key: str, value: Any, row: int, mark: int) -> str | None:
        if value is None or type(value) is str:
            return value
        if isinstance(value, NonFiniteNumber) and self._options.repair_text:
            return str(value)
        try:
            text = json_text(value, top=True)
        except ValueError as error:
            message = f"Row {row:,} ({self.place(mark)}), column '{key}': {error} is not JSON."
            hint = f'Write null for a missing value, or "{error}" for the word.'
            offer = Offer(f"Read {error} as the word", replace(self._options, repair_text=True))
            raise UnreadableError(message, hint, [offer] if isinstance(value, NonFiniteNumber) else []) from error
        except RecursionError as error:
            raise DataError(f"Row {row:,} ({self.place(mark)}) is nested too deeply.", "Flatten it.") from error
        if isinstance(value, dict | list):
            self._nested[key] = self._nested.get(key, 0) + 1
            if key not in self._chats and is_message_list(value):
                self._chats.add(key)
            if isinstance(value, dict) and value and not self.offers and not self._options.flatten:
                self.offers.append(flatten_offer({key: value}, self._options))
        return text

    def _add_closing_notices(self) -> None:
        for key, count in self._nested.items():
            if key not in self._chats:
                self.notices.append(f"Column '{key}' holds lists or objects in {count:,} rows; they are JSON text.")
        if self._left_out:
            shown = ", ".join(self._left_out[:MAX_LISTED_RECORDS]) + (
                ", …" if len(self._left_out) > MAX_LISTED_RECORDS else ""
            )
            self.notices.append(f"{len(self._left_out):,} rows that are no JSON were left out, as chosen: {shown}.")
        if self._options.flatten:
            self.notices.append("Values inside objects have columns of their own, as chosen.")

    def _one_object_a_line(self) -> bool:
        """True when the first line that is not blank is a whole object and another line follows."""
        with self._open() as file:
            lines = (line for line in file if line.strip())
            first = next(lines, "")
            if not first.lstrip().startswith("{"):
                return False
            try:
                json.loads(first, parse_int=str)
            except (ValueError, RecursionError):
                return False
            return next(lines, None) is not None

    def _lines(self, writer: TableWriter) -> Iterator[tuple[int, Any]]:
        size = self._path.stat().st_size
        with self._open() as file:
            writer.at = lambda: file.buffer.tell() / size
            count = 0
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                count += 1
                try:
                    value, end = self._decode(text, skip_space(text, 0), line, f"Row {count:,}")
                except DataError as error:
                    self._leave_out(error, line, count, text)
                    continue
                if skip_space(text, end) != len(text):
                    message = f"Line {line:,} goes on after its object, at character {end + 1:,}."
                    raise DataError(message, "Put every object on a line of its own.")
                yield line, value
            writer.at = lambda: 1.0

    def _leave_out(self, error: DataError, line: int, row: int, text: str) -> None:
        """Remember a line that is no JSON, when the user wants that; else offer it."""
        if self._options.bad_rows == "skip":
            self._left_out.append(f"line {line:,}")
            return
        if row == 1:
            raise error
        way = Offer(
            "Leave out lines that are no JSON", replace(self._options, bad_rows="skip"), shorten_preview([text])
        )
        raise UnreadableError(error.message, error.hint, [way]) from error

    def _open(self) -> TextIO:
        encoding = self._encoding
        return self._path.open(encoding=encoding.codec, errors=encoding.errors, newline="\n")

    def _document(self) -> Iterator[tuple[int, Any]]:
        with self._open() as file:
            self._text = text = file.read()
        self.place = self._offset
        start = skip_space(text, 0)
        if start == len(text):
            raise DataError("The file holds only blank lines.", "Choose a file with rows.")
        if text[start] == "[":
            yield from self._list(text, start)
            return
        value, end = self._decode(text, start, start, "The file")
        if not isinstance(value, dict):
            message = f"{EXPECTED_TOP_LEVEL}; found {describe_json_type(value)}."
            raise DataError(message, "Choose a file with rows.")
        if skip_space(text, end) == len(text):
            yield from ((start, row) for row in unwrap_rows(value, self._options, self.notices.append))
            return
        yield start, value
        while (start := skip_space(text, end)) < len(text):
            value, end = self._decode(text, start, start, "An object")
            yield start, value

    def _list(self, text: str, start: int) -> Iterator[tuple[int, Any]]:
        at = skip_space(text, start + 1)
        count = 0
        while text[at : at + 1] != "]":
            count += 1
            try:
                value, end = self._decode(text, at, at, f"Row {count:,}")
            except DataError as error:
                if self._is_truncated(error, text, count):
                    return
                raise
            yield at, value
            at = skip_space(text, end)
            if text[at : at + 1] == ",":
                at = skip_space(text, at + 1)
                if text[at : at + 1] == "]":
                    raise DataError(f"There is a comma after the last row, at {self._offset(at)}.", "Delete it.")
            elif text[at : at + 1] != "]":
                found = "the file ends" if at == len(text) else f"there is {text[at]!r}"
                message = f"After row {count:,} a comma or ] must follow; {found} at {self._offset(at)}."
                hint = "The file is cut off or damaged there." if at == len(text) else "Correct it."
                if self._is_truncated(DataError(message, hint), text, count + 1):
                    return
                raise DataError(message, hint)
        after = skip_space(text, at + 1)
        if after != len(text):
            raise DataError(f"The list ends, and more text follows at {self._offset(after)}.", "Make it one list.")

    def _is_truncated(self, error: DataError, text: str, row: int) -> bool:
        """Whether the list ends too early and the user wants what is before; raises the offer to do so."""
        if "cut off" not in error.hint or row == 1:
            return False
        if self._options.bad_rows == "skip":
            self._left_out.append(f"row {row:,}, where the file is cut off")
            return True
        way = Offer(f"Keep the {row - 1:,} rows before it", replace(self._options, bad_rows="skip"))
        raise UnreadableError(error.message, error.hint, [way]) from error

    def _decode(self, text: str, at: int, mark: int, what: str) -> tuple[Any, int]:
        try:
            return JSON_DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            where = self.place(mark) if text is not self._text else self._offset(error.pos)
            if text is not self._text:
                where += f", character {error.pos + 1:,}"
            raise DataError(
                f"{what} is not JSON, at {where}: {describe_decode_error(error)}", suggest_json_fix(error, text)
            ) from error
        except RepeatedKeyError as error:
            raise DataError(f"{what} ({self.place(mark)}): {error.message}", error.hint) from error
        except RecursionError as error:
            raise DataError(f"{what} ({self.place(mark)}) is nested too deeply.", "Flatten it.") from error

    def _offset(self, at: int) -> str:
        line = self._text.count("\n", 0, at) + 1
        return f"line {line:,}, character {at - self._text.rfind(chr(10), 0, at):,}"


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
