"""Rows inside rows: lists of questions become rows, and a row in an object of the file's rows is taken out of it.

SQuAD writes paragraphs with lists of questions; servers and annotation tools keep a row next to its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from toolkit.data.conversations import is_conversation_name
from toolkit.data.examples import column_names as names

MAX_DEPTH = 3
"""Lists inside lists that are searched for questions."""
_TEXT_KEYS = ("input_text", "text", "question", "answer", "value")
_WRAPPERS = frozenset(
    (
        "row",
        "fields",
        "attributes",
        "_source",
        "item",
        "data",
        "document",
        "doc",
        "node",
        "record",
        "properties",
        "translation",
    )
)
"""Keys under which servers and tools keep a row, next to its id and other things about it."""


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


def find_wrapper(row: Mapping[str, Any]) -> str | None:
    """Return the key of the object that holds the columns of a row, if they are not next to it."""
    found = [key for key, value in row.items() if key in _WRAPPERS and isinstance(value, dict) and _has_role(value)]
    others = {key: value for key, value in row.items() if type(value) is str}
    return found[0] if len(found) == 1 and not _has_role(others) else None


def _has_role(row: Mapping[str, Any]) -> bool:
    """Return whether a key is named as what is asked or answered, or two as languages."""
    known = names.REQUESTS | names.ANSWERS | names.TEXTS | names.INPUTS
    found = [names.normalize_column_name(key) for key in row if key not in _WRAPPERS]
    return any(name in known for name in found) or sum(name in names.LANGUAGES for name in found) > 1


class QuestionRows:
    """Makes a row of each question inside a row, if the first row of the file has a list of them.

    unwrap: whether a row inside an object of the file's rows is taken out of it.
    """

    def __init__(self, *, unwrap: bool) -> None:
        self._path: tuple[str, ...] | None = None
        self._unwrap = unwrap
        self._wrapper: str | None = None
        self._has_patterns = False
        self._parallel: tuple[str, str] | None = None

    def split(self, row: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return a row for each question: what stands around the list, then what is in it; the row if there is none."""
        if self._path is None:
            self._wrapper = find_wrapper(row) if self._unwrap else None
        if self._wrapper is not None and isinstance(row.get(self._wrapper), dict):
            (row,) = _split_row({**row, self._wrapper: [row[self._wrapper]]}, (self._wrapper,))
        if self._path is None:
            self._path = find_question_lists(row)
            self._has_patterns = _has_patterns(row)
            self._parallel = _find_parallel(row)
        if self._parallel is not None:
            return _split_parallel(row, *self._parallel)
        if self._has_patterns and _has_patterns(row):
            return _split_patterns(row)
        return _split_row(row, self._path) if self._path else (row,)

    def notices(self) -> list[str]:
        """Return what was done, in sentences."""
        found = [f"The columns are those of the object '{self._wrapper}' in each row."] if self._wrapper else []
        if self._has_patterns:
            found.append("Each of the 'patterns' is a row, with one of the 'responses', each in its turn.")
        if self._parallel is not None:
            asked, said = self._parallel
            found.append(f"Each of the '{asked[:40]}' is a row, with the one of the '{said[:40]}' at the same place.")
        lists = " and ".join(f"'{key[:40]}'" for key in self._path or ())
        return [*found, *([f"Each question in the lists {lists} is a row, with the texts around it."] if lists else [])]


def _find_parallel(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the keys of a list of questions and of one with an answer to each (CoQA, QuAC); None for no such lists."""
    lists = {key: value for key, value in row.items() if isinstance(value, list) and value}
    asked = [key for key in lists if names.normalize_column_name(key) in names.REQUESTS]
    said = [key for key in lists if names.normalize_column_name(key) in names.ANSWERS and key not in asked]
    if len(asked) != 1 or len(said) != 1 or len(lists[asked[0]]) != len(lists[said[0]]):
        return None
    texts = [_text_in(each) for key in (*asked, *said) for each in lists[key]]
    return (asked[0], said[0]) if all(texts) else None


def _split_parallel(row: Mapping[str, Any], asked: str, said: str) -> Iterator[dict[str, Any]]:
    questions, answers = row.get(asked), row.get(said)
    if not isinstance(questions, list) or not isinstance(answers, list):
        yield dict(row)
        return
    for at, question in enumerate(questions):
        answer = answers[at] if at < len(answers) else None
        yield {**row, asked: _text_in(question), said: _text_in(answer)}


def _text_in(value: Any) -> str | None:
    """Return a text, or the one in an object of CoQA."""
    found = next((value[key] for key in _TEXT_KEYS if key in value), None) if isinstance(value, dict) else value
    return found if type(found) is str else None


def _has_patterns(row: Mapping[str, Any]) -> bool:
    """Return whether a row is an intent of a chatbot: several ways to ask, and several answers."""
    lists = [row.get(key) for key in ("patterns", "responses")]
    return all(isinstance(one, list) and one and all(type(text) is str for text in one) for one in lists)


def _split_patterns(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for at, pattern in enumerate(row["patterns"]):
        yield {**row, "patterns": pattern, "responses": row["responses"][at % len(row["responses"])]}


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
