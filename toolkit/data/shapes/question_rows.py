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

    def split(self, row: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return a row for each question: what stands around the list, then what is in it; the row if there is none."""
        if self._path is None:
            self._wrapper = find_wrapper(row) if self._unwrap else None
        if self._wrapper is not None and isinstance(row.get(self._wrapper), dict):
            (row,) = _split_row({**row, self._wrapper: [row[self._wrapper]]}, (self._wrapper,))
        if self._path is None:
            self._path = find_question_lists(row)
            self._has_patterns = _has_patterns(row)
        if self._has_patterns and _has_patterns(row):
            return _split_patterns(row)
        return _split_row(row, self._path) if self._path else (row,)

    def notices(self) -> list[str]:
        """Return what was done, in sentences."""
        found = [f"The columns are those of the object '{self._wrapper}' in each row."] if self._wrapper else []
        if self._has_patterns:
            found.append("Each of the 'patterns' is a row, with one of the 'responses', each in its turn.")
        lists = " and ".join(f"'{key[:40]}'" for key in self._path or ())
        return [*found, *([f"Each question in the lists {lists} is a row, with the texts around it."] if lists else [])]


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
