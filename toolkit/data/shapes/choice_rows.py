"""Multiple-choice questions: the choices become lettered lines, and a number of the right one becomes its letter.

ARC, OpenBookQA, MMLU, RACE and HellaSwag keep the choices of a row in a list or an object, others in a column for each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from toolkit.data.conversations import is_blank_cell
from toolkit.data.examples import column_names as names
from toolkit.data.python_literals import read_python_list
from toolkit.data.shapes.message_cells import load_cell
from toolkit.data.table import TableRow

MIN_SHARE = 0.9
"""Share of the cells that fit, at least."""
_KEYS = names.ANSWERS | names.LABELS | names.CHOICE_KEYS
_TEXT_KEYS = ("text", "content", "option", "choice", "answer", "value", "para", "body")
_LABEL_KEYS = ("label", "key", "letter", "id", "option_id")
_TEXT_LISTS = ("text", "texts", "choices", "options")
_LABEL_LISTS = ("label", "labels", "key", "keys")
_STEMS = ("stem", "question", "text", "question_stem")
_LETTERED = re.compile(r"\s*\(?([A-Za-z])[).:]\s*(.+)", re.DOTALL)
"""A choice with its letter: "A) a lamp"."""
_NUMBER = re.compile(r"-?\d{1,2}(\.0)?")


@dataclass(frozen=True)
class LetteredColumn:
    """A column whose cells are written anew. columns: what is read for it; read: its new cell for a row."""

    column: str
    columns: tuple[str, ...]
    read: Callable[[TableRow], str | None]
    notice: str


@dataclass(frozen=True)
class _Choices:
    """The choices of a row. labels: what the file calls them, "" if nothing; stem: the question in front of them."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    stem: str = ""

    @property
    def lines(self) -> str:
        """The choices as people read them, each behind its letter."""
        lines = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, self.texts, strict=False)]
        return "\n".join([*([self.stem, ""] if self.stem else []), *lines])


ReadChoices = Callable[[TableRow], _Choices | None]


def find_choices(columns: Sequence[str], rows: Sequence[TableRow]) -> list[LetteredColumn]:
    """Return the columns to write anew, the answer first, since it is read with the choices; [] for other tables.

    rows: a sample. A table is one of multiple choice if a column names one of its choices in each row.
    """
    named = {column: names.normalize_column_name(column) for column in columns}
    for column, name in named.items():
        if names.match_name(name, names.CHOICES) or name == "question":
            filled = [row for row in rows if not is_blank_cell(row.get(column))]
            read = _reader(column)
            fit = sum(read(row) is not None for row in filled)
            answers = _find_answers(read, (column,), named, filled) if fit and fit >= MIN_SHARE * len(filled) else None
            if answers is not None:
                return [*answers, _write_lines(column)]
    return _find_columns_of_choices(named, rows)


def _reader(column: str) -> ReadChoices:
    return lambda row: _read_choices(row.get(column))


def _write_lines(column: str) -> LetteredColumn:
    def read(row: TableRow) -> str | None:
        choices = _read_choices(row.get(column))
        return row.get(column) if choices is None else choices.lines

    return LetteredColumn(column, (column,), read, f"The choices in '{column}' are written as lettered lines.")


def _find_columns_of_choices(named: Mapping[str, str], rows: Sequence[TableRow]) -> list[LetteredColumn]:
    """Return the answer as letters if each choice has a column of its own and the answer is a number."""
    found = {letter: column for column, name in named.items() if (letter := names.read_choice_letter(name))}
    letters = sorted(found)
    wanted = names.REQUESTS | (frozenset() if "a" in found else names.TEXTS | names.CONTEXTS)
    asked = any(names.match_name(name, wanted) for name in named.values())
    if not asked or len(letters) < 2 or letters[0] not in ("a", "0", "1"):
        return []
    columns = tuple(found[letter] for letter in letters)

    def read(row: TableRow) -> _Choices | None:
        return _Choices(("",) * len(columns), tuple((row.get(column) or "").strip() for column in columns))

    answers = _find_answers(read, columns, named, rows) or []
    # in the prompt, each of these columns stands behind the number in its name
    return [] if letters[0] in "01" and any(f"from {letters[0]}," in one.notice for one in answers) else answers


def _find_answers(
    read: ReadChoices, used: tuple[str, ...], named: Mapping[str, str], rows: Sequence[TableRow]
) -> list[LetteredColumn] | None:
    """Return the column of answers to write as letters, [] if none needs it, None if no column names the choices."""
    changed: list[LetteredColumn] = []
    for column, name in named.items():
        if column in used or not names.match_name(name, _KEYS) or names.is_bad_answer_name(name):
            continue
        pairs = [(cell.strip(), read(row)) for row in rows if (cell := row.get(column)) and cell.strip()]
        known = [(cell, choices) for cell, choices in pairs if choices is not None]
        first = _first_number(known)
        letters = [_letter_of(cell, choices, first) for cell, choices in known]
        if not known or sum(letter is not None for letter in letters) < MIN_SHARE * len(known):
            continue
        if letters == [cell for cell, _ in known]:
            return []
        changed = changed or [_write_letters(column, used, read, first)]
    return changed or None


def _first_number(answers: Sequence[tuple[str, _Choices]]) -> int | None:
    """Return the number of the first choice: 0 or 1; None if the answers do not say."""
    numbers = [(int(float(cell)), len(choices.texts)) for cell, choices in answers if _NUMBER.fullmatch(cell)]
    if any(number == 0 for number, _ in numbers):
        return 0
    return 1 if any(number == count for number, count in numbers) else None


def _letter_of(cell: str, choices: _Choices, first: int | None) -> str | None:
    """Return the letter of the choice that a cell names, the cell if it is a choice's text, None if it names none."""
    labels = [label.casefold() for label in choices.labels]
    if cell.casefold() in labels:
        return ascii_uppercase[labels.index(cell.casefold())]
    if len(cell) == 1 and cell.upper() in ascii_uppercase[: len(choices.texts)]:
        return cell.upper()
    if _NUMBER.fullmatch(cell):
        at = int(float(cell)) - first if first is not None else -1
        return ascii_uppercase[at] if 0 <= at < len(choices.texts) else None
    return cell if cell in choices.texts else None


def _write_letters(column: str, used: tuple[str, ...], read: ReadChoices, first: int | None) -> LetteredColumn:
    def letter(row: TableRow) -> str | None:
        cell, choices = row.get(column), read(row)
        if cell is None or choices is None or not cell.strip():
            return cell
        found = _letter_of(cell.strip(), choices, first)
        return cell if found is None and not _NUMBER.fullmatch(cell.strip()) else found

    counted = f", which count from {first}," if first is not None else ""
    notice = f"The answers in '{column}'{counted} are written as the letters of the choices."
    return LetteredColumn(column, (column, *used), letter, notice)


def _read_choices(cell: str | None) -> _Choices | None:
    """Return the choices of a cell; None for a cell that is something else."""
    if cell is None or not cell.lstrip().startswith(("[", "{", "array(")):
        return None
    loaded = load_cell(cell)
    return _parse_choices(read_python_list(cell) if loaded is None else loaded)


def _parse_choices(value: Any) -> _Choices | None:
    if isinstance(value, dict):
        stem = next((value[key] for key in _STEMS if isinstance(value.get(key), str)), "")
        if stem:
            inner = _parse_choices(value.get("choices", value.get("options")))
            return None if inner is None else _Choices(inner.labels, inner.texts, stem)
        texts = next((value[key] for key in _TEXT_LISTS if isinstance(value.get(key), list)), None)
        if texts is None:
            return _checked([str(key) for key in value], [*value.values()]) if _are_letters(value) else None
        listed = next((value[key] for key in _LABEL_LISTS if isinstance(value.get(key), list)), [""] * len(texts))
        return _checked([str(label) for label in listed], texts)
    if not isinstance(value, list):
        return None
    if all(isinstance(one, dict) for one in value):
        labels = [str(next((one[key] for key in _LABEL_KEYS if key in one), "")) for one in value]
        return _checked(labels, [next((one[key] for key in _TEXT_KEYS if key in one), None) for one in value])
    lettered = [match.groups() for one in value if isinstance(one, str) and (match := _LETTERED.fullmatch(one))]
    if len(lettered) == len(value) and [label.upper() for label, _ in lettered] == [*ascii_uppercase[: len(value)]]:
        return _checked([label for label, _ in lettered], [text for _, text in lettered])
    return _checked([""] * len(value), value)


def _are_letters(value: Mapping[Any, Any]) -> bool:
    return [str(key).upper() for key in value] == [*ascii_uppercase[: len(value)]]


def _checked(labels: Sequence[str], texts: Sequence[Any]) -> _Choices | None:
    """Return the choices if each is a short value; numbers are choices as well."""
    if not 2 <= len(texts) <= len(ascii_uppercase) or len(labels) != len(texts):
        return None
    if any(isinstance(text, dict | list) or text is None for text in texts):
        return None
    return _Choices(tuple(labels), tuple(str(text).strip() for text in texts))
