"""JSON, read strictly: a list of objects, one object a line, or one of the usual wrappings of these.

Numbers keep their text (3.10 stays 3.10, a 23-digit id stays whole), true and false are the words, null and an absent
key are missing, a nested value becomes its JSON text. NaN, repeated keys and all that is not JSON are refused with the
place. A list is held in memory whole, objects a line are streamed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from toolkit.data.jsontext import (
    DECODER,
    Repeated,
    all_objects,
    is_chat,
    json_text,
    kind,
    reason,
    remedy,
    skip_space,
)
from toolkit.data.limits import MAX_COLUMNS
from toolkit.data.writer import TableWriter
from toolkit.errors import DataError

_NEED = "The top level must be a list of objects, or one object on each line"


class JsonReader:
    """Feeds a JSON file's rows to a TableWriter. `notices` fills while it reads."""

    def __init__(self, path: Path, codec: str) -> None:
        self.notices: list[str] = []
        self._path = path
        self._codec = codec
        self._text = ""
        self._nested: dict[str, int] = {}
        self._chats: set[str] = set()
        self._columns: dict[str, str] = {}
        self.place: Callable[[int], str] = lambda line: f"line {line:,}"

    def read(self, writer: TableWriter) -> None:
        """Write every row; raises DataError with the row and its place."""
        rows = self._lines() if self._one_object_a_line() else self._document()
        for mark, value in rows:
            if not isinstance(value, dict):
                message = f"{_NEED}; row {writer.rows + 1:,} ({self.place(mark)}) is {kind(value)}."
                raise DataError(message, 'Write every row as an object, e.g. {"question": "...", "answer": "..."}.')
            self._add(writer, value, mark)
        if not writer.rows:
            raise DataError("The file has 0 rows; at least 2 are needed.", "Add rows to it.")
        if not writer.columns:
            raise DataError(f"None of the {writer.rows:,} objects has a key.", "Choose a file with columns.")
        self._nested_notices()

    def _add(self, writer: TableWriter, value: dict[str, Any], mark: int) -> None:
        for key in value:
            if key not in self._columns:
                self._columns[key] = self._name(key, writer)
                writer.grow(self._columns[key])
        row = writer.rows + 1
        writer.add([self._cell(key, value.get(key), row, mark) for key in self._columns], mark)

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
        try:
            text = json_text(value, top=True)
        except ValueError as error:
            message = f"Row {row:,} ({self.place(mark)}), column '{key}': {error} is not JSON."
            raise DataError(message, f'Write null for a missing value, or "{error}" for the word.') from error
        except RecursionError as error:
            raise DataError(f"Row {row:,} ({self.place(mark)}) is nested too deeply.", "Flatten it.") from error
        if isinstance(value, dict | list):
            self._nested[key] = self._nested.get(key, 0) + 1
            if key not in self._chats and is_chat(value):
                self._chats.add(key)
        return text

    def _nested_notices(self) -> None:
        for key, count in self._nested.items():
            if key in self._chats:
                self.notices.append(
                    f"Column '{key}' holds chats (lists of role and content). This version does not train on their "
                    "turns one by one: the column is their JSON text. For one answer a row, make a column for the "
                    "question and one for the answer."
                )
            else:
                self.notices.append(f"Column '{key}' holds lists or objects in {count:,} rows; they are JSON text.")

    def _one_object_a_line(self) -> bool:
        """True when the first line that is not blank is a whole object and another line follows."""
        with self._path.open(encoding=self._codec) as file:
            lines = (line for line in file if line.strip())
            first = next(lines, "")
            if not first.lstrip().startswith("{"):
                return False
            try:
                json.loads(first, parse_int=str)
            except (ValueError, RecursionError):
                return False
            return next(lines, None) is not None

    def _lines(self) -> Iterator[tuple[int, Any]]:
        with self._path.open(encoding=self._codec, newline="\n") as file:
            count = 0
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                count += 1
                value, end = self._decode(text, skip_space(text, 0), line, f"Row {count:,}")
                if skip_space(text, end) != len(text):
                    message = f"Line {line:,} goes on after its object, at character {end + 1:,}."
                    raise DataError(message, "Put every object on a line of its own.")
                yield line, value

    def _document(self) -> Iterator[tuple[int, Any]]:
        self._text = text = self._path.read_text(encoding=self._codec)
        self.place = self._offset
        start = skip_space(text, 0)
        if start == len(text):
            raise DataError("The file holds only blank lines.", "Choose a file with rows.")
        if text[start] == "[":
            yield from self._list(text, start)
            return
        value, end = self._decode(text, start, start, "The file")
        if not isinstance(value, dict):
            message = f"{_NEED}; found {kind(value)}."
            raise DataError(message, "Choose a file with rows.")
        if skip_space(text, end) == len(text):
            yield from ((start, row) for row in self._unwrap(value))
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
            value, end = self._decode(text, at, at, f"Row {count:,}")
            yield at, value
            at = skip_space(text, end)
            if text[at : at + 1] == ",":
                at = skip_space(text, at + 1)
                if text[at : at + 1] == "]":
                    raise DataError(f"There is a comma after the last row, at {self._offset(at)}.", "Delete it.")
            elif text[at : at + 1] != "]":
                found = "the file ends" if at == len(text) else f"there is {text[at]!r}"
                message = f"After row {count:,} a comma or ] must follow; {found} at {self._offset(at)}."
                raise DataError(message, "The file is cut off or damaged there." if at == len(text) else "Correct it.")
        after = skip_space(text, at + 1)
        if after != len(text):
            raise DataError(f"The list ends, and more text follows at {self._offset(after)}.", "Make it one list.")

    def _decode(self, text: str, at: int, mark: int, what: str) -> tuple[Any, int]:
        try:
            return DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            where = self.place(mark) if text is not self._text else self._offset(error.pos)
            if text is not self._text:
                where += f", character {error.pos + 1:,}"
            raise DataError(f"{what} is not JSON, at {where}: {reason(error)}", remedy(error, text)) from error
        except Repeated as error:
            raise DataError(f"{what} ({self.place(mark)}): {error.message}", error.hint) from error
        except RecursionError as error:
            raise DataError(f"{what} ({self.place(mark)}) is nested too deeply.", "Flatten it.") from error

    def _offset(self, at: int) -> str:
        line = self._text.count("\n", 0, at) + 1
        return f"line {line:,}, character {at - self._text.rfind(chr(10), 0, at):,}"

    def _unwrap(self, value: dict[str, Any]) -> list[Any]:
        """The rows of a file that is one object."""
        if is_chat(value.get("messages")) or not value:
            return [value] if value else []
        tables = [key for key, found in value.items() if found and isinstance(found, list) and all_objects(found)]
        lists = [key for key, found in value.items() if isinstance(found, list)]
        if len(tables) > 1:
            keys = ", ".join(f"'{key}' ({len(value[key]):,})" for key in tables[:10])
            raise DataError(f"The file holds several lists of rows: {keys}.", "Save the one you want as its own file.")
        if tables:
            others = [key for key in value if key != tables[0]]
            left = f" Left out: {', '.join(others[:10])}." if others else ""
            self.notices.append(f"The rows are the list '{tables[0]}'.{left}")
            rows: list[Any] = value[tables[0]]
            return rows
        if len(lists) == len(value):
            return self._columns_to_rows(value)
        if len(value) > 1 and all(isinstance(found, dict) for found in value.values()):
            message = f"{_NEED}; found one object of {len(value):,} objects."
            raise DataError(message, "Made with pandas? Write it with to_json(..., orient='records').")
        return [value]

    def _columns_to_rows(self, value: dict[str, Any]) -> list[Any]:
        lengths = {key: len(cells) for key, cells in value.items()}
        if len(value) > MAX_COLUMNS or len(set(lengths.values())) > 1:
            shown = ", ".join(f"'{key}' has {length:,}" for key, length in list(lengths.items())[:10])
            raise DataError(f"The file's lists differ in length: {shown}.", "Make all columns equally long.")
        self.notices.append("The file is an object of columns.")
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
