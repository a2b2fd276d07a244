"""Questions and answers inside a row: lists of them become rows, and an answer in a list or an object becomes text.

SQuAD writes paragraphs with lists of questions, whose answers are lists of objects; annotation tools write lists of
labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from toolkit.data.conversations import is_conversation_name
from toolkit.data.examples import column_names as names
from toolkit.data.table import rows_in_words

MAX_DEPTH = 3
"""Lists inside lists that are searched for questions."""
_TEXT_KEYS = ("text", "value", "answer", "spans", "number")
_ABOUT_TEXT = frozenset(
    (*_TEXT_KEYS, "answer_start", "answer_end", "start", "end", "offset", "id", "answer_id", "date", "unanswerable")
)
"""Keys of an answer's object besides its text. An object with others is the answer itself: a model is to write JSON."""
_OUTPUT_WORDS = frozenset(("output", "outputs", "result", "results", "target", "ausgabe", "sortie", "salida", "saída"))
"""Last words of names under which a list is what a model is to write; other lists of answers are alternatives."""
UNCHANGED = object()
"""Returned for a value that is no answer in another form."""


def find_question_lists(row: Mapping[str, Any], depth: int = MAX_DEPTH) -> tuple[str, ...]:
    """Return the keys that lead from a row to a list of objects with a question and an answer; () if none do."""
    if depth == 0 or _is_pair(row):
        return ()
    for key, value in row.items():
        first = value[0] if isinstance(value, list) and value else None
        if not isinstance(first, dict) or is_conversation_name(key):
            continue
        if _is_pair(first):
            return (key,)
        if deeper := find_question_lists(first, depth - 1):
            return (key, *deeper)
    return ()


def _is_pair(row: Mapping[str, Any]) -> bool:
    found = {names.normalize_column_name(key) for key in row}
    return not found.isdisjoint(names.REQUESTS) and not found.isdisjoint(names.ANSWERS)


class QuestionRows:
    """Makes a row of each question inside a row, if the first row of the file has a list of them."""

    def __init__(self) -> None:
        self._path: tuple[str, ...] | None = None

    def split(self, row: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return a row for each question: what stands around the list, then what is in it; the row if there is none."""
        if self._path is None:
            self._path = find_question_lists(row)
        return _split_row(row, self._path) if self._path else (row,)

    def notices(self) -> list[str]:
        """Return what was done, in a sentence."""
        lists = " and ".join(f"'{key[:40]}'" for key in self._path or ())
        return [f"Each question in the lists {lists} is a row, with the texts around it."] if lists else []


def _split_row(row: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    if not path:
        yield dict(row)
        return
    inner = row.get(path[0])
    around = {key: value for key, value in row.items() if key != path[0]}
    for each in inner if isinstance(inner, list) else ():
        if isinstance(each, dict):
            for part in _split_row(each, path[1:]):
                named = {f"{path[0]}.{key}" if key in around else key: value for key, value in part.items()}
                yield {**around, **named}


class NestedAnswers:
    """Reads the texts of answers and labels that are lists or objects, and counts them by column."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._several: Counter[str] = Counter()
        self._structured: dict[str, bool] = {}

    @property
    def columns(self) -> frozenset[str]:
        """The columns with such answers."""
        return frozenset(self._rows)

    def read(self, column: str, value: Any) -> Any:
        """Return the text, None for an empty list, or UNCHANGED for a value that is something else."""
        if value and self._structured.setdefault(column, _is_structured_output(column, value)):
            return UNCHANGED
        text, is_several = read_nested_answer(column, value)
        if text is not UNCHANGED:
            self._rows[column] += 1
            self._several[column] += is_several
        return text

    def notices(self) -> list[str]:
        """Return a sentence about each column."""
        found = []
        for column, count in self._rows.items():
            several = self._several[column]
            more = f" In {rows_in_words(several)}, only the first of several is used." if several else ""
            found.append(f"'{column[:40]}' has lists or objects in {rows_in_words(count)}: their texts are used.{more}")
        return found


def read_nested_answer(column: str, value: Any) -> tuple[Any, bool]:
    """Return (text, whether there were several) of an answer or a label in a list or an object.

    The text is None for an empty list, and UNCHANGED for a value that is something else, as one with numbers is.
    """
    role = _answer_role(column)
    if role == "answer":
        return _first_answer(value)
    if role == "label" and isinstance(value, list):
        found = [each.get("name") if isinstance(each, dict) else each for each in value]
        texts = [each for each in found if type(each) is str]
        if len(texts) == len(found):
            return ", ".join(texts) or None, False
    if (
        role == "request"
        and isinstance(value, dict)
        and len(value) == 1
        and type(text := next(iter(value.values()))) is str
    ):
        return text, False
    return UNCHANGED, False


def _is_structured_output(column: str, value: Any) -> bool:
    """Return whether a column's first value is a list that a model is to write, not one of alternative answers."""
    is_lines = isinstance(value, list) and all(type(each) is str and each.endswith("\n") for each in value[:-1])
    word = names.normalize_column_name(column).rpartition(" ")[2]
    return word in _OUTPUT_WORDS and isinstance(value, list) and len(value) > 1 and not is_lines


@lru_cache(maxsize=4096)
def _answer_role(column: str) -> str:
    name = names.normalize_column_name(column)
    # a single letter is too weak a name for what replaces a value
    if len(name) > 1 and names.match_name(name, names.ANSWERS) and not names.is_bad_answer_name(name):
        return "answer"
    if name in names.REQUESTS | names.INPUTS:
        return "request"
    return "label" if name in names.LABELS or name == "accept" else ""


def _first_answer(value: Any) -> tuple[Any, bool]:
    if isinstance(value, dict):
        if not _is_text_object(value):
            return UNCHANGED, False
        found = next((value[key] for key in _TEXT_KEYS if value.get(key)), UNCHANGED)
        if found is UNCHANGED:
            is_empty = any(key in value for key in _TEXT_KEYS) and not any(value.get(key) for key in value)
            return (None if is_empty else UNCHANGED), False
        return (found, False) if type(found) is str else _first_answer(found)
    if not isinstance(value, list):
        return UNCHANGED, False
    if not value:
        return None, False
    if all(type(each) is str for each in value):
        if len(value) > 1 and all(each.endswith("\n") for each in value[:-1]):
            return "".join(value), False  # the lines of a text
        return value[0], len(set(value)) > 1
    first = value[0]
    texts = [each.get("text", each.get("value")) for each in value if isinstance(each, dict) and _is_text_object(each)]
    if len(texts) == len(value) and all(isinstance(text, str) for text in texts):
        return first.get("text", first.get("value")), len(value) > 1
    return UNCHANGED, False


def _is_text_object(value: Mapping[str, Any]) -> bool:
    """Return whether an object is an answer's text with its place, or with other spellings of it."""
    return value.keys() <= _ABOUT_TEXT or "aliases" in value
