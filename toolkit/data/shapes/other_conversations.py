"""Columns with conversations that are no lists of messages: transcripts, and trees of messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.conversations import is_blank_cell
from toolkit.data.examples import column_names as names
from toolkit.data.shapes.message_trees import (
    is_chatgpt_mapping,
    is_reply_tree,
    load_object,
    read_chatgpt_mapping,
    read_reply_tree,
)
from toolkit.data.shapes.transcripts import read_transcript
from toolkit.data.table import TableRow

_RESULTS = names.ANSWERS | names.LABELS | names.DERIVED


@dataclass(frozen=True)
class OtherConversations:
    """columns: what is read; read: returns the messages of a row, None for a row without any; notice: a sentence."""

    columns: tuple[str, ...]
    read: Callable[[TableRow], list[dict[str, Any]] | None]
    notice: str


def find_other_conversations(columns: Sequence[str], rows: Sequence[TableRow]) -> OtherConversations | None:
    """Return how to read the conversations of a table, None if there are none. columns: those with cells."""
    normalized = {column: names.normalize_column_name(column) for column in columns}
    good = [column for column in columns if not names.is_preference_name(normalized[column], names.REJECTED)]
    for column in good:
        if found := _find_tree(column, columns, rows):
            return found
    transcripts = [column for column in good if _are_transcripts(column, rows)]
    results = [column for column in good if column not in transcripts and _is_result(normalized[column])]
    if not transcripts:
        return None
    column = transcripts[0]
    open_ended = all(not turns[-1]["content"] for turns in map(read_transcript, _filled(column, rows)) if turns)
    if results and not (open_ended and len(results) == 1):
        return None  # the text is what a summary or a label is made from
    other = [name for name in columns if name not in good]
    notice = f"The texts in '{column}' are transcripts: their turns are read as conversations."
    if other:
        notice += f" Those in '{other[0]}' are not used."
    if not results:
        return OtherConversations((column,), lambda row: _with_answer(row, column, None), notice)
    notice = f"The texts in '{column}' are transcripts: each conversation ends with the answer in '{results[0]}'."
    return OtherConversations((column, results[0]), lambda row: _with_answer(row, column, results[0]), notice)


def _is_result(name: str) -> bool:
    return bool(names.match_name(name, _RESULTS)) and not names.is_metadata_name(name)


def _filled(column: str, rows: Sequence[TableRow]) -> list[str]:
    return [str(cell) for row in rows if not is_blank_cell(cell := row.get(column))]


def _are_transcripts(column: str, rows: Sequence[TableRow]) -> bool:
    cells = _filled(column, rows)
    return bool(cells) and all(read_transcript(cell) is not None for cell in cells)


def _with_answer(row: TableRow, column: str, answer: str | None) -> list[dict[str, Any]] | None:
    turns = read_transcript(row.get(column) or "")
    if turns is None or answer is None:
        return turns
    said = (row.get(answer) or "").strip()
    masked = [{**turn, "weight": 0} for turn in turns[:-1]]
    return [*masked, {**turns[-1], "content": said}] if said else None


def _find_tree(column: str, columns: Sequence[str], rows: Sequence[TableRow]) -> OtherConversations | None:
    loaded = [load_object(cell) for cell in _filled(column, rows)]
    if not loaded or not all(loaded):
        return None
    if all(map(is_chatgpt_mapping, loaded)):
        current = next((name for name in columns if name == "current_node"), None)
        notice = f"The conversations in '{column}' are trees: of each, the branch that was shown last is used."

        def read(row: TableRow) -> list[dict[str, Any]] | None:
            mapping = load_object(row.get(column))
            return read_chatgpt_mapping(mapping, row.get(current or "")) if is_chatgpt_mapping(mapping) else None

        return OtherConversations((column, *([current] if current else [])), read, notice)
    if all(map(is_reply_tree, loaded)):
        notice = f"The messages in '{column}' are trees of replies: the best reply to each message is used."
        return OtherConversations((column,), lambda row: read_reply_tree(load_object(row.get(column))) or None, notice)
    return None
