"""Join the parts of a conversation that a file keeps in several columns into one cell.

System texts, lists of tools and earlier turns next to a conversation, TRL's lists of prompt and completion, OpenAI's
and ShareGPT's preferences, Gemini's system instruction, and Alpaca's history and system become one column. Without any,
multiple-choice questions are lettered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from toolkit.data.chat_messages import ROLE_KEYS, written_role
from toolkit.data.conversations import CHAT_KEYS, TOOL_KEYS, ChatColumns, is_blank_cell, is_chat, is_conversation_name
from toolkit.data.examples.column_names import VERDICTS, normalize_column_name
from toolkit.data.examples.column_suggestion import suggest_columns
from toolkit.data.examples.prompt_columns import FALSE_VALUES
from toolkit.data.examples.templates import make_renderer
from toolkit.data.shapes.choice_rows import find_choices
from toolkit.data.shapes.compared_answers import find_compared_answers
from toolkit.data.shapes.message_cells import (
    ends_with_answer,
    find_chosen_message,
    find_listed_messages,
    load_cell,
    make_said,
    read_cell_messages,
    read_history_turns,
    read_system_text,
    starts_conversation,
)
from toolkit.data.shapes.other_conversations import OtherConversations, find_other_conversations
from toolkit.data.table import TableRow
from toolkit.data.threads.numbered_turns import find_numbered_turns
from toolkit.data.threads.speakers import find_dialogue_column, read_dialogue
from toolkit.data.threads.ticket_threads import find_ticket_threads

SYSTEM_NAMES = frozenset(
    (
        *("system", "system prompt", "system message", "system instruction", "system content", "systemprompt"),
        *("sys prompt", "meta instruction"),
    )
)
HISTORY_NAMES = frozenset(("history", "chat history", "conversation history", "dialog history", "dialogue history"))
_TOOL_NAMES = frozenset((*TOOL_KEYS, "available tools", "tool list"))
_ANSWER_NAMES = (
    *("completion", "chosen", "response", "answer", "output", "outputs", "ideal", "expected output", "expected"),
    *("expected response", "reference answer", "reference output", "reference", "target"),
)
"""Columns whose answer belongs to the messages of another column, the likeliest first."""
_REJECTED_NAMES = frozenset(("rejected", "non preferred output"))
JOINED_COLUMN = "messages"
"""The name of the column that holds the joined conversations, unless one of the parts becomes it."""


@dataclass(frozen=True)
class ConversationJoin:
    """How the rows of a table become conversations, or the cells of a column another text.

    target: the column for them, new or one of `columns`; columns: the parts; join: makes the cell of a row, None for a
    row without a conversation; notice: what is done, in a sentence.
    """

    target: str
    columns: tuple[str, ...]
    join: Callable[[TableRow], str | None]
    notice: str


class JoinedColumn:
    """Writes the column of a ConversationJoin, part by part. missing: number of its missing cells so far."""

    def __init__(self, join: ConversationJoin, chats: ChatColumns) -> None:
        self.join = join
        self.chats = chats
        self.missing = 0
        self._rows = 0

    def add_to(self, part: pa.Table) -> pa.Table:
        """Return the next part of the table with the joined conversations."""
        present = [name for name in self.join.columns if name in part.column_names]
        cells = zip(*(part.column(name).to_pylist() for name in present), strict=True)
        joined = [self.join.join(dict(zip(present, row, strict=True))) for row in cells]
        checked = self.chats.check_cells(self.join.target, joined, self._rows + 1)
        self._rows += part.num_rows
        array = pa.array(checked, pa.string())
        self.missing += array.null_count
        if self.join.target in part.column_names:
            return part.set_column(part.column_names.index(self.join.target), self.join.target, array)
        return part.append_column(self.join.target, array)


def find_joins(
    columns: Sequence[str], filled: Sequence[str], rows: Sequence[TableRow], answered_by: str | None = None
) -> list[ConversationJoin]:
    """Return how to make conversations of the rows, or else how to write multiple-choice questions; [] for neither.

    Parameters as those of `find_join`.
    """
    if join := find_join(columns, filled, rows, answered_by):
        return [join]
    return [ConversationJoin(one.column, one.columns, one.read, one.notice) for one in find_choices(filled, rows)]


def find_join(
    columns: Sequence[str], filled: Sequence[str], rows: Sequence[TableRow], answered_by: str | None = None
) -> ConversationJoin | None:
    """Return how to join the rows, or None if each conversation is in one column already, or there is none.

    filled: the columns that have a cell which is not blank. rows: a sample. answered_by: as in the data settings.
    """
    names = {normalize_column_name(column): column for column in reversed(filled)}
    chats = {name: column for name, column in names.items() if _is_chat_column(column, rows)}
    is_palm = any('"author"' in (row.get(column) or "") for column in chats.values() for row in rows)
    side = _SideColumns(
        system=_first(names, SYSTEM_NAMES) or (names.get("context") if is_palm else None),
        tools=_first(names, _TOOL_NAMES),
        history=_first(names, HISTORY_NAMES) or (names.get("examples") if is_palm else None),
    )
    compared = find_compared_answers([column for column in filled if column not in side.names], rows)
    return (
        (_join_found(compared, columns, side) if compared else None)
        or _join_preference(names, side, rows)
        or _join_prompt_and_answer(columns, names, chats, side, rows)
        or _join_side_columns(chats, side, None if "chosen" in chats else _false_column(columns, names, rows))
        or (None if chats or answered_by is None else _join_speakers(columns, filled, rows, answered_by))
        or (None if chats else _join_other(columns, filled, side, rows))
        or _join_pair(columns, names, chats, side, rows)
    )


@dataclass(frozen=True)
class _SideColumns:
    """Columns next to a conversation or a pair; None for one that is not there."""

    system: str | None
    tools: str | None
    history: str | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.system, self.tools, self.history) if name is not None)

    @property
    def words(self) -> str:
        said = {"system text": self.system, "tools": self.tools, "earlier turns": self.history}
        parts = [f"the {words} in '{name}'" for words, name in said.items() if name is not None]
        return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + "".join(parts[-1:])


def _first(names: Mapping[str, str], wanted: frozenset[str]) -> str | None:
    return next((column for name, column in names.items() if name in wanted), None)


def _is_chat_column(column: str, rows: Sequence[TableRow]) -> bool:
    cells = [cell for row in rows if not is_blank_cell(cell := row.get(column))]
    named = is_conversation_name(column)
    return bool(cells) and all(is_chat(find_listed_messages(load_cell(cell)), is_named=named) for cell in cells)


def _join_preference(names: Mapping[str, str], side: _SideColumns, rows: Sequence[TableRow]) -> ConversationJoin | None:
    """OpenAI's preferences: the messages are in an object `input`, the answer is in `preferred_output`."""
    given, answer = names.get("input"), names.get("preferred output")
    if given is None or answer is None or not _is_chat_column(answer, rows):
        return None

    def join(row: TableRow) -> str | None:
        loaded = load_cell(row.get(given))
        tools = next((loaded[key] for key in TOOL_KEYS if loaded.get(key)), None) if isinstance(loaded, dict) else None
        return _joined(
            _side_messages(row, side), find_listed_messages(loaded), read_cell_messages(row.get(answer)), tools
        )

    others = ", ".join(f"'{names[name]}'" for name in _REJECTED_NAMES if name in names)
    notice = f"Each conversation is '{given}' with the answer in '{answer}'." + (
        f" The answers in {others} are not used." if others else ""
    )
    return ConversationJoin(JOINED_COLUMN, (given, answer, *side.names), join, notice)


def _join_prompt_and_answer(
    columns: Sequence[str],
    names: Mapping[str, str],
    chats: Mapping[str, str],
    side: _SideColumns,
    rows: Sequence[TableRow],
) -> ConversationJoin | None:
    """TRL's prompt and completion (or chosen) as lists of messages; ShareGPT's conversation with a chosen answer."""
    answers = [name for name in _ANSWER_NAMES if name in names]
    given = next((name for name in ("prompt", *CHAT_KEYS, "input", "inputs", "request") if name in names), None)
    if not answers or given is None:
        return None
    prompt, answer = names[given], names[answers[0]]
    is_list = given in chats
    if given in CHAT_KEYS and any(ends_with_answer(row.get(prompt)) for row in rows):
        return None  # whole conversations: the other column is no part of them
    if answers[0] in chats:
        # a list that begins with the question already is the whole conversation
        whole = any(starts_conversation(row.get(answer)) for row in rows)
        if whole or (not is_list and given != "prompt"):
            return None
    elif not is_list or not _are_messages_or_texts(answer, rows):
        return None
    verdict = _false_column(columns, names, rows)

    def join(row: TableRow) -> str | None:
        if verdict is not None and (row.get(verdict) or "").strip().casefold() in FALSE_VALUES:
            return None
        before = read_cell_messages(row.get(prompt)) if is_list else make_said("user", row.get(prompt))
        return _joined(_side_messages(row, side), before, read_cell_messages(row.get(answer)), _side_tools(row, side))

    unused = [names[name] for name in _REJECTED_NAMES if name in names]
    notice = f"Each conversation is '{prompt}' with the answer in '{answer}'; only this answer is trained."
    notice += f" The answers in '{unused[0]}' are not used." if unused else ""
    notice += f" {_verdict_notice(verdict)}" if verdict else ""
    return ConversationJoin(JOINED_COLUMN, (prompt, answer, *side.names, *([verdict] if verdict else [])), join, notice)


def _join_side_columns(chats: Mapping[str, str], side: _SideColumns, verdict: str | None) -> ConversationJoin | None:
    """A conversation with its system text, tools or earlier turns in other columns, or with KTO's label."""
    main = [column for name, column in chats.items() if name in CHAT_KEYS] or [
        column for column in chats.values() if column not in side.names
    ]
    if not main or not (side.names or verdict):
        return None
    column = main[0]

    def join(row: TableRow) -> str | None:
        if verdict is not None and (row.get(verdict) or "").strip().casefold() in FALSE_VALUES:
            return None
        loaded = load_cell(row.get(column))
        messages = find_listed_messages(loaded)
        if messages is None:
            return row.get(column)
        inner = next((loaded[key] for key in TOOL_KEYS if loaded.get(key)), None) if isinstance(loaded, dict) else None
        return _with_tools([*_side_messages(row, side, messages), *messages], _side_tools(row, side) or inner)

    told = [f"The conversations in '{column}' include {side.words}."] if side.names else []
    told += [_verdict_notice(verdict)] if verdict else []
    return ConversationJoin(column, (column, *side.names, *([verdict] if verdict else [])), join, " ".join(told))


def _verdict_notice(column: str) -> str:
    return f"Rows with a false '{column}' are skipped: their answers are marked as bad."


def _join_pair(
    columns: Sequence[str],
    names: Mapping[str, str],
    chats: Mapping[str, str],
    side: _SideColumns,
    rows: Sequence[TableRow],
) -> ConversationJoin | None:
    """Alpaca's instruction, input and output with a system text or a history: the pair is the last turn."""
    if chats.keys() - HISTORY_NAMES or not side.names:
        return None
    rest = [column for column in columns if column not in side.names]
    suggestion = suggest_columns(rest, rows)
    if suggestion.kind != "pair" or not suggestion.prompt:
        return None
    renderer = make_renderer(suggestion.prompt, suggestion.completion, columns)
    used = renderer.columns_needed

    def join(row: TableRow) -> str | None:
        texts = {column: row.get(column) or "" for column in used}
        prompt, answer = renderer.prompt_template.render(texts).strip("\n"), renderer.stub_template.render(texts)
        if not prompt or all(row.get(column) is None for column in renderer.stub_template.columns):
            return None
        turns = [{"role": "user", "content": prompt}, _answer_turn(answer)]
        return _with_tools([*_side_messages(row, side), *turns], _side_tools(row, side))

    target = _free_name(columns)
    notice = (
        f"'{target}' holds a conversation for each row: {side.words}, then {suggestion.prompt!r} and "
        f"{suggestion.completion!r}."
    )
    return ConversationJoin(target, (*used, *side.names), join, notice)


def _join_other(
    columns: Sequence[str], filled: Sequence[str], side: _SideColumns, rows: Sequence[TableRow]
) -> ConversationJoin | None:
    """Transcripts, trees of messages and tickets, with their system text and tools."""
    parts = [column for column in filled if column not in side.names]
    found = (
        find_other_conversations(parts, rows) or find_numbered_turns(parts, rows) or find_ticket_threads(parts, rows)
    )
    return None if found is None else _join_found(found, columns, side)


def _join_found(found: OtherConversations, columns: Sequence[str], side: _SideColumns) -> ConversationJoin:
    def join(row: TableRow) -> str | None:
        messages = found.read(row)
        if messages is None:
            return None
        return _with_tools([*_side_messages(row, side, messages), *messages], _side_tools(row, side))

    notice = found.notice + (f" They include {side.words}." if side.names else "")
    return ConversationJoin(_free_name(columns), (*found.columns, *side.names), join, notice)


def _join_speakers(
    columns: Sequence[str], filled: Sequence[str], rows: Sequence[TableRow], answered_by: str
) -> ConversationJoin | None:
    found = find_dialogue_column(filled, rows)
    if found is None:
        return None
    column = found[0]

    def join(row: TableRow) -> str | None:
        turns = read_dialogue(row.get(column), answered_by)
        return _with_tools(turns, None) if len(turns) > 1 else None

    notice = f"In the conversations of '{column}', the messages of '{answered_by}' are the answers, as chosen."
    return ConversationJoin(_free_name(columns), (column,), join, notice)


def _free_name(columns: Sequence[str]) -> str:
    name = JOINED_COLUMN
    while name in columns:
        name += "_"
    return name


def _answer_turn(answer: str) -> dict[str, Any]:
    """Return the message of an answer; a list of tool calls, as xLAM writes it, becomes the calls."""
    loaded = load_cell(answer)
    calls = loaded if isinstance(loaded, list) else []
    if calls and all(isinstance(call, dict) and {"name", "arguments"} <= call.keys() for call in calls):
        return {"role": "assistant", "tool_calls": calls}
    return {"role": "assistant", "content": answer}


def _joined(
    before: list[dict[str, Any]], asked: list[Any] | None, answer: list[Any] | None, tools: Any = None
) -> str | None:
    """Return a conversation of which only the answer is trained; None without an answer."""
    if not answer:
        return None
    masked = [{**one, "weight": 0} if isinstance(one, dict) else one for one in [*before, *(asked or [])]]
    return _with_tools([*masked, *answer], tools)


def _with_tools(messages: list[Any], tools: Any) -> str:
    value = {"messages": messages, "tools": tools} if tools else messages
    return json.dumps(value, ensure_ascii=False)


def _side_messages(row: TableRow, side: _SideColumns, following: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Return the system message and the earlier turns of a row. following: messages that may begin with a system."""
    system = read_system_text(row.get(side.system)) if side.system else None
    has_system = bool(following) and isinstance(following[0], dict) and written_role(following[0]) == "system"
    found = [{"role": "system", "content": system}] if system and not has_system else []
    return [*found, *read_history_turns(row.get(side.history) if side.history else None)]


def _side_tools(row: TableRow, side: _SideColumns) -> Any:
    cell = row.get(side.tools) if side.tools else None
    if cell is None or is_blank_cell(cell):
        return None
    loaded = load_cell(cell)
    return cell if loaded is None else loaded


def _are_messages_or_texts(column: str, rows: Sequence[TableRow]) -> bool:
    loaded = [find_chosen_message(load_cell(cell)) for row in rows if not is_blank_cell(cell := row.get(column))]
    are_messages = all(isinstance(one, dict) and any(key in one for key in ROLE_KEYS) for one in loaded)
    return bool(loaded) and (are_messages or all(one is None for one in loaded))


def _false_column(columns: Sequence[str], names: Mapping[str, str], rows: Sequence[TableRow]) -> str | None:
    """Return KTO's column that says which answers are bad."""
    for name in sorted(VERDICTS & names.keys()):
        cells = {(row.get(names[name]) or "").strip().casefold() for row in rows} - {""}
        if cells == {"true", "false"}:
            return names[name]
    return None
