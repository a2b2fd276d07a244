"""The strict JSON reader: a list of objects, one object per line, or one of the usual objects around a list.

Numbers keep their text (3.10 stays 3.10, a 23-digit id keeps its digits), true and false become these words, null and
an absent key are missing cells, a nested value becomes JSON text. NaN, repeated keys and invalid JSON are refused with
their place. A list is held in memory as a whole, lines are streamed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from toolkit.data.read_options import MAX_COLUMNS, MAX_LISTED, Offer, ReadOptions, UnreadableError, shorten_preview
from toolkit.data.readers.encoding import DetectedEncoding, detect_encoding
from toolkit.data.readers.json_text import (
    JSON_DECODER,
    TRUNCATED_HINT,
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
from toolkit.data.readers.table_writer import ReadOutcome, SourceFile, TableWriter
from toolkit.data.table import rows_in_words
from toolkit.errors import DataError

CHAT_KEYS = ("messages", "conversations", "conversation")
EXPECTED_TOP_LEVEL = "The top level must be a list of objects, or one object per line"


def read_json(source: SourceFile) -> ReadOutcome:
    """Read the rows of a JSON or JSONL file.

    Raises DataError that names the place, or UnreadableError with the options that would make the file readable.
    """
    source.report_progress(0.0, "detecting the encoding")
    encoding = detect_encoding(source.path, source.options)
    reader = JsonReader(source.path, encoding, source.options)
    writer = source.new_writer(lambda mark: reader.place(mark))
    reader.read(writer)
    notices = [*encoding.notices, *reader.notices, *_openai_notices(writer.columns)]
    return ReadOutcome(writer, notices, offers=reader.offers)


def _openai_notices(columns: list[str]) -> list[str]:
    """OpenAI's older files have these two keys per line; the newer ones have `messages`."""
    if sorted(columns) != ["completion", "prompt"]:
        return []
    return [
        "This is OpenAI's older fine-tuning format, with a prompt and a completion per row: "
        "use {prompt} as the prompt and {completion} as the completion."
    ]


class JsonReader:
    """Writes a JSON file's rows to a TableWriter, and collects `notices` and `offers` of other ways to read it."""

    def __init__(self, path: Path, encoding: DetectedEncoding, options: ReadOptions) -> None:
        self.notices: list[str] = []
        self.offers: list[Offer] = []
        self._path = path
        self._encoding = encoding
        self._options = options
        self._text = ""
        self._nested: dict[str, int] = {}
        self._chats: set[str] = set()
        self._skipped: list[str] = []
        self._columns: dict[str, str] = {}  # key in the file -> name of the column
        self.place: Callable[[int], str] = lambda line: f"line {line:,}"

    def read(self, writer: TableWriter) -> None:
        """Write every row. Raises DataError that names the row and its place."""
        rows = self._lines(writer) if self._has_object_per_line() else self._document()
        for mark, value in rows:
            row = {"messages": value} if is_message_list(value) else value
            if not isinstance(row, dict):
                where = f"row {writer.rows + 1:,} ({self.place(mark)})"
                message = f"{EXPECTED_TOP_LEVEL}; {where} is {describe_json_type(value)}."
                raise DataError(message, 'Write every row as an object, e.g. {"question": "...", "answer": "..."}.')
            self._add(writer, row, mark)
        if not writer.rows:
            raise DataError("The file has 0 rows; at least 2 are needed.", "Add rows.")
        if not writer.columns:
            raise DataError(f"None of the {writer.rows:,} objects has a key.", "Choose a file whose objects have keys.")
        self._add_closing_notices()

    def _add(self, writer: TableWriter, value: dict[str, Any], mark: int) -> None:
        if self._options.flatten:
            value = self._flatten_if_chosen(value, writer.rows + 1, mark)
        for key in value:
            if key not in self._columns:
                self._columns[key] = self._name(key, writer)
                writer.add_column(self._columns[key])
        row = writer.rows + 1
        # most cells are strings or missing: they are taken here, because a call for each is slow
        cells = [
            cell if (cell := value.get(key)) is None or type(cell) is str else self._cell(key, cell, row, mark)
            for key in self._columns
        ]
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
        self.notices.append(f"An empty key was renamed to {name}.")
        if name in self._columns.values():
            raise DataError(f"There is an empty key, and another key named '{name}'.", "Give the empty key a name.")
        return name

    def _cell(self, key: str, value: Any, row: int, mark: int) -> str | None:
        if value is None or type(value) is str:
            return value
        if isinstance(value, NonFiniteNumber) and self._options.repair_text:
            return str(value)
        try:
            text = json_text(value, top=True)
        except ValueError as error:
            message = f"Row {row:,} ({self.place(mark)}), column '{key}': {error} is not valid JSON."
            hint = f'Write null for a missing value, or "{error}" for the text.'
            offer = Offer(f"Read {error} as text", replace(self._options, repair_text=True))
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
                rows = rows_in_words(count)
                self.notices.append(f"Lists and objects in '{key}' were converted to JSON text in {rows}.")
        if self._skipped:
            count = len(self._skipped)
            shown = ", ".join(self._skipped[:MAX_LISTED]) + (", …" if count > MAX_LISTED else "")
            were = "that is not valid JSON was" if count == 1 else "that are not valid JSON were"
            self.notices.append(f"{rows_in_words(count)} {were} skipped, as chosen: {shown}.")
        if self._options.flatten:
            self.notices.append("Nested objects were flattened into columns, as chosen.")

    def _has_object_per_line(self) -> bool:
        """Return whether the first line that is not blank is a complete object and another line follows."""
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
            writer.share_read = lambda: file.buffer.tell() / size
            count = 0
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                count += 1
                try:
                    value, end = self._decode(text, skip_space(text, 0), line, f"Row {count:,}")
                except DataError as error:
                    self._skip_or_offer(error, line, count, text)
                    continue
                if skip_space(text, end) != len(text):
                    message = f"Line {line:,} continues after its object, at character {end + 1:,}."
                    raise DataError(message, "Put each object on its own line.")
                yield line, value
            writer.share_read = lambda: 1.0

    def _skip_or_offer(self, error: DataError, line: int, row: int, text: str) -> None:
        """Skip a line that is not valid JSON if the user has chosen so; otherwise raise UnreadableError that offers it.

        If the first row is invalid, the file is probably not JSON at all: its error is raised as it is.
        """
        if self._options.bad_rows == "skip":
            self._skipped.append(f"line {line:,}")
            return
        if row == 1:
            raise error
        skip = replace(self._options, bad_rows="skip")
        offer = Offer("Skip lines that are not valid JSON", skip, shorten_preview([text]))
        raise UnreadableError(error.message, error.hint, [offer]) from error

    def _open(self) -> TextIO:
        encoding = self._encoding
        return self._path.open(encoding=encoding.codec, errors=encoding.errors, newline="\n")

    def _document(self) -> Iterator[tuple[int, Any]]:
        with self._open() as file:
            self._text = text = file.read()
        self.place = self._offset
        start = skip_space(text, 0)
        if start == len(text):
            raise DataError("The file contains only blank lines.", "Choose a file with rows.")
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
                message = f"After row {count:,}, a comma or ] is expected, but {found} at {self._offset(at)}."
                hint = TRUNCATED_HINT if at == len(text) else "Correct it."
                if self._is_truncated(DataError(message, hint), text, count + 1):
                    return
                raise DataError(message, hint)
        after = skip_space(text, at + 1)
        if after != len(text):
            raise DataError(f"More text follows the list, at {self._offset(after)}.", "Put everything into one list.")

    def _is_truncated(self, error: DataError, text: str, row: int) -> bool:
        """Return whether the list ends too early and the user has chosen to keep the rows before.

        Raises UnreadableError that offers to keep them if the user has not chosen yet.
        """
        if error.hint != TRUNCATED_HINT or row == 1:
            return False
        if self._options.bad_rows == "skip":
            self._skipped.append(f"row {row:,}, where the file ends")
            return True
        offer = Offer(f"Keep the {rows_in_words(row - 1)} before it", replace(self._options, bad_rows="skip"))
        raise UnreadableError(error.message, error.hint, [offer]) from error

    def _decode(self, text: str, at: int, mark: int, what: str) -> tuple[Any, int]:
        try:
            return JSON_DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            where = self.place(mark) if text is not self._text else self._offset(error.pos)
            if text is not self._text:
                where += f", character {error.pos + 1:,}"
            raise DataError(
                f"{what} is not valid JSON, at {where}: {describe_decode_error(error)}", suggest_json_fix(error, text)
            ) from error
        except RepeatedKeyError as error:
            raise DataError(f"{what} ({self.place(mark)}): {error.message}", error.hint) from error
        except RecursionError as error:
            raise DataError(f"{what} ({self.place(mark)}) is nested too deeply.", "Flatten it.") from error

    def _offset(self, at: int) -> str:
        line = self._text.count("\n", 0, at) + 1
        return f"line {line:,}, character {at - self._text.rfind(chr(10), 0, at):,}"


def unwrap_rows(value: dict[str, Any], options: ReadOptions, notice: Callable[[str], None]) -> list[Any]:
    """Return the rows inside a file's only object; `notice` takes what was decided.

    Raises DataError, or UnreadableError with offers when there are several lists of rows.
    """
    if not value or any(is_message_list(value.get(key)) for key in CHAT_KEYS):
        return [value] if value else []
    lists: dict[str, list[Any]] = {key: found for key, found in value.items() if isinstance(found, list)}
    if options.rows_from is not None:
        if options.rows_from not in lists:
            names = ", ".join(f"'{key[:40]}'" for key in list(lists)[:MAX_LISTED]) or "none"
            raise DataError(f"There is no list '{options.rows_from}' in the file.", f"Its lists are: {names}.")
        notice(f"Rows were read from the list '{options.rows_from}', as chosen.")
        return lists[options.rows_from]
    tables = [key for key, found in lists.items() if found and all_objects(found)]
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
    if len(lists) == len(value):
        return _columns_to_rows(value, notice)
    if len(value) > 1 and all(isinstance(found, dict) for found in value.values()):
        message = f"{EXPECTED_TOP_LEVEL}; found one object that contains {len(value):,} objects."
        raise DataError(message, "If it was created with pandas, use to_json(..., orient='records').")
    return [value]


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
