"""The strict JSON reader: a list of objects, one object per line, or one of the usual objects around a list.

Numbers keep their text (3.10 stays 3.10, a 23-digit id keeps its digits), true and false become these words, null and
an absent key are missing cells, a nested value becomes JSON text. NaN, repeated keys and invalid JSON are refused with
their place. A list is held in memory as a whole, lines are streamed.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from toolkit.data.python_literals import read_python_object
from toolkit.data.read_options import MAX_LISTED, Offer, ReadOptions, UnreadableError, shorten_preview
from toolkit.data.readers.encoding import DetectedEncoding, detect_encoding
from toolkit.data.readers.json_layouts import (
    EXPECTED_TOP_LEVEL,
    flatten_offer,
    flatten_row,
    openai_notices,
    unwrap_rows,
)
from toolkit.data.readers.json_text import (
    JSON_DECODER,
    TOLERANT_DECODER,
    TRUNCATED_HINT,
    Leniency,
    NonFiniteNumber,
    RepeatedKeyError,
    blank_out_extras,
    describe_decode_error,
    describe_json_type,
    has_open_string,
    is_comment_line,
    is_message_list,
    json_text,
    skip_space,
    suggest_json_fix,
)
from toolkit.data.readers.table_writer import ReadOutcome, SourceFile, TableWriter
from toolkit.data.shapes.nested_rows import UNCHANGED, NestedAnswers
from toolkit.data.shapes.question_rows import QuestionRows
from toolkit.data.table import rows_in_words
from toolkit.errors import DataError

MAX_JOINED_LINES = 500
"""Lines that are joined to one row because a line break stands inside a string."""


def read_json(source: SourceFile) -> ReadOutcome:
    """Read the rows of a JSON or JSONL file.

    Raises DataError that names the place, or UnreadableError with the options that would make the file readable.
    """
    source.report_progress(0.0, "detecting the encoding")
    encoding = detect_encoding(source.path, source.options)
    reader = JsonReader(source.path, encoding, source.options)
    writer = source.new_writer(lambda mark: reader.place(mark))
    reader.read(writer)
    plain = [column for column in writer.columns if column not in reader.nested_columns]
    return ReadOutcome(writer, [*encoding.notices, *reader.notices, *openai_notices(plain)], offers=reader.offers)


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
        self._questions = QuestionRows(unwrap=not options.flatten)
        self._chats: set[str] = set()
        self._skipped: list[str] = []
        self._leniency = Leniency()
        self._columns: dict[str, str] = {}  # key in the file -> name of the column
        self._answers = NestedAnswers(self._columns)
        self.place: Callable[[int], str] = lambda line: f"line {line:,}"

    @property
    def nested_columns(self) -> frozenset[str]:
        """The columns with lists and objects."""
        return frozenset(self._columns[key] for key in self._nested)

    def read(self, writer: TableWriter) -> None:
        """Write every row. Raises DataError that names the row and its place."""
        rows = self._lines(writer) if self._has_object_per_line() else self._document()
        for mark, value in rows:
            value = self._decode_again(value)
            row = {"messages": value} if is_message_list(value) else value
            if not isinstance(row, dict):
                where = f"row {writer.rows + 1:,} ({self.place(mark)})"
                message = f"{EXPECTED_TOP_LEVEL}; {where} is {describe_json_type(value)}."
                raise DataError(message, 'Write every row as an object, e.g. {"question": "...", "answer": "..."}.')
            for part in self._questions.split(row):
                self._add(writer, self._answers.put_best_first(part), mark)
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
        if isinstance(value, NonFiniteNumber) and self._options.repair_text:
            return str(value)
        if isinstance(value, dict | list) and (text := self._answers.read(key, value)) is not UNCHANGED:
            return None if text is None else str(text)
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
        self.notices += [*self._questions.notices(), *self._answers.notices()]
        if self._skipped:
            count = len(self._skipped)
            shown = ", ".join(self._skipped[:MAX_LISTED]) + (", …" if count > MAX_LISTED else "")
            were = "that is not valid JSON was" if count == 1 else "that are not valid JSON were"
            self.notices.append(f"{rows_in_words(count)} {were} skipped, as chosen: {shown}.")
        if self._options.flatten:
            self.notices.append("Nested objects were flattened into columns, as chosen.")
        self.notices += self._leniency.notices()

    def _decode_again(self, value: Any) -> Any:
        """Return a row that was written as JSON inside a string; another value is returned unchanged."""
        if type(value) is not str or not value.lstrip().startswith(("{", "[")):
            return value
        try:
            inner = TOLERANT_DECODER.decode(value)
        except (ValueError, RecursionError):
            return value
        if not isinstance(inner, dict | list):
            return value
        self._leniency.encoded += 1
        return inner

    def _has_object_per_line(self) -> bool:
        """Return whether the first line with content is a complete row and another line follows."""
        with self._open() as file:
            lines = (line for line in file if line.strip() and not is_comment_line(line))
            first = blank_out_extras(next(lines, ""))[0].strip(" \t\r\n\ufeff").removesuffix(",")
            if not first.startswith(("{", "[", '"')):
                return False
            try:
                value = json.loads(read_python_object(first) or first, parse_int=str, strict=False)
            except (ValueError, RecursionError):
                return False
            is_row = isinstance(value, dict) or is_message_list(value)
            is_encoded = isinstance(value, str) and value.lstrip().startswith(("{", "["))
            return (is_row or is_encoded) and next(lines, None) is not None

    def _lines(self, writer: TableWriter) -> Iterator[tuple[int, Any]]:
        size = self._path.stat().st_size
        with self._open() as file:
            writer.share_read = lambda: file.buffer.tell() / size
            count = 0
            lines, waiting = enumerate(file, start=1), deque[tuple[int, str]]()

            def take() -> tuple[int, str] | None:
                return waiting.popleft() if waiting else next(lines, None)

            while (numbered := take()) is not None:
                line, text = numbered
                if not text.strip() or is_comment_line(text):
                    self._leniency.note_extras(["comments"] if text.strip() else [])
                    continue
                count += 1
                self._leniency.marks += line > 1 and text.startswith("\ufeff")
                try:
                    value, end = self._decode(text, skip_space(text, 0), line, f"Row {count:,}")
                except RepeatedKeyError as error:
                    self._skip_or_offer(error, line, count, text)
                    continue
                except DataError as error:
                    repaired = self._repair_line(text, take, waiting.extendleft)
                    if repaired is None:
                        self._skip_or_offer(error, line, count, text)
                        continue
                    text, value, end = repaired
                rest = text[skip_space(text, end) :]
                if rest.startswith(",") and not rest[1:].strip():
                    self._leniency.note_extras(["trailing commas"])
                elif rest:
                    message = f"Line {line:,} continues after its object, at character {end + 1:,}."
                    raise DataError(message, "Put each object on its own line.")
                yield line, value
            writer.share_read = lambda: 1.0

    def _repair_line(
        self,
        text: str,
        take: Callable[[], tuple[int, str] | None],
        give_back: Callable[[Iterable[tuple[int, str]]], None],
    ) -> tuple[str, Any, int] | None:
        """Decode a line without comments and trailing commas, or with the next lines if it ends inside a string.

        Return the decoded text, its value and where it ends; None if it can't be decoded.
        """
        cleaned, extras = blank_out_extras(text)
        taken: list[tuple[int, str]] = []
        while has_open_string(cleaned) and len(taken) < MAX_JOINED_LINES and (numbered := take()) is not None:
            taken.append(numbered)
            cleaned += numbered[1]
        try:
            value, end = TOLERANT_DECODER.raw_decode(cleaned, skip_space(cleaned, 0))
        except (ValueError, RecursionError, RepeatedKeyError):
            give_back(reversed(taken))
            written = read_python_object(text)
            self._leniency.python += written is not None
            return (written, *TOLERANT_DECODER.raw_decode(written)) if written else None
        self._leniency.note_extras(extras)
        self._leniency.control += bool(taken)
        return cleaned, value, end

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
        if skip_space(text, 0) == len(text):
            raise DataError("The file contains only blank lines.", "Choose a file with rows.")
        if text[skip_space(text, 0)] in "/#":
            self._clean()
        start = skip_space(self._text, 0)
        if self._text[start : start + 1] == "[":
            yield from self._list(start)
            return
        value, end = self._decode_document(start, "The file")
        value = self._decode_again(value)
        if isinstance(value, list) and self._leniency.encoded:
            yield from ((start, row) for row in value)
            return
        if not isinstance(value, dict):
            message = f"{EXPECTED_TOP_LEVEL}; found {describe_json_type(value)}."
            raise DataError(message, "Choose a file with rows.")
        if skip_space(self._text, end) == len(text):
            yield from ((start, row) for row in unwrap_rows(value, self._options, self.notices.append))
            return
        yield start, value
        while (start := skip_space(self._text, end)) < len(text):
            value, end = self._decode_document(start, "An object")
            yield start, value

    def _decode_document(self, at: int, what: str) -> tuple[Any, int]:
        """Decode the value at a position of the document; when it fails, again without comments and trailing commas."""
        try:
            return self._decode(self._text, at, at, what)
        except RepeatedKeyError:
            raise
        except DataError:
            if not self._clean():
                raise
        at = skip_space(self._text, at)
        return self._decode(self._text, at, at, what)

    def _clean(self) -> bool:
        """Blank out comments and trailing commas in the document; return whether it had any."""
        self._text, extras = blank_out_extras(self._text)
        self._leniency.note_extras(extras)
        return bool(extras)

    def _list(self, start: int) -> Iterator[tuple[int, Any]]:
        at = skip_space(self._text, start + 1)
        count = 0
        while self._text[at : at + 1] != "]":
            count += 1
            try:
                value, end = self._decode_document(at, f"Row {count:,}")
            except DataError as error:
                if self._is_truncated(error, self._text, count):
                    return
                raise
            yield at, value
            text, at = self._text, skip_space(self._text, end)
            if text[at : at + 1] not in (",", "]") and self._clean():  # a comment between two rows
                text, at = self._text, skip_space(self._text, end)
            if text[at : at + 1] == ",":
                at = skip_space(text, at + 1)
                if text[at : at + 1] == "]":
                    self._leniency.note_extras(["trailing commas"])
            elif text[at : at + 1] != "]":
                found = "the file ends" if at == len(text) else f"there is {text[at]!r}"
                message = f"After row {count:,}, a comma or ] is expected, but {found} at {self._offset(at)}."
                hint = TRUNCATED_HINT if at == len(text) else "Correct it."
                if self._is_truncated(DataError(message, hint), text, count + 1):
                    return
                raise DataError(message, hint)
        after = skip_space(self._text, at + 1)
        if after != len(self._text) and self._clean():
            after = skip_space(self._text, at + 1)
        if after != len(self._text):
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
            if error.msg.startswith("Invalid control character"):
                with suppress(ValueError, RecursionError, RepeatedKeyError):  # the error below names the place
                    decoded = TOLERANT_DECODER.raw_decode(text, at)
                    self._leniency.control += 1
                    return decoded
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
