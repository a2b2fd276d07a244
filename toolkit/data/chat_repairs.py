"""Repairs of conversations that a chat template rejects: merge turns of one role, move system texts into user turns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from toolkit.data.chat_messages import TOOLS_ROLE, Message
from toolkit.data.conversations import parse_conversation

ChatRepair = Literal["merge_turns", "move_system", "move_system_merge"]
Turns = tuple[Message, ...]


def merge_turns(turns: Sequence[Message]) -> Turns:
    """Return the conversation with consecutive messages of one role as one message, their texts apart by a blank line.

    Tool results and messages with tool calls stay apart, and so do answers of which one is trained and one is not.
    """
    merged: list[Message] = []
    for turn in turns:
        last = merged[-1] if merged else None
        if last is None or not _can_merge(last, turn):
            merged.append(turn)
            continue
        content, reasoning = (_join_texts(old, new) for old, new in zip(_texts(last), _texts(turn), strict=True))
        merged[-1] = replace(last, content=content, reasoning=reasoning, tool_calls=turn.tool_calls)
    return tuple(merged)


def move_system(turns: Sequence[Message]) -> Turns:
    """Return the conversation with each system text at the start of the user message that follows it."""
    moved: list[Message] = []
    waiting = ""
    for turn in turns:
        if turn.role == "system":
            waiting = _join_texts(waiting, turn.content)
        elif turn.role == "user" and waiting:
            moved.append(replace(turn, content=_join_texts(waiting, turn.content)))
            waiting = ""
        elif turn.role == "assistant" and waiting:
            moved += [Message("user", waiting), turn]
            waiting = ""
        else:
            moved.append(turn)
    return tuple(moved)


def _move_system_and_merge(turns: Sequence[Message]) -> Turns:
    return merge_turns(move_system(turns))


CHAT_REPAIRS: dict[ChatRepair, tuple[str, Callable[[Sequence[Message]], Turns]]] = {
    "merge_turns": ("Merge consecutive turns", merge_turns),
    "move_system": ("Move the system text into the first user turn", move_system),
    "move_system_merge": (
        "Move the system text into the first user turn, and merge consecutive turns",
        _move_system_and_merge,
    ),
}
"""Repair -> (label of its button, what it does); the simplest first."""


def repair_cell(cell: str, repair: ChatRepair) -> str:
    """Return the cell of a conversation after a repair. Raises DataError for a cell that is no conversation."""
    return write_conversation(CHAT_REPAIRS[repair][1](parse_conversation(cell)))


def write_conversation(turns: Sequence[Message]) -> str:
    """Return the cell from which `parse_conversation` reads these messages."""
    messages = [_write_message(turn) for turn in turns if turn.role != TOOLS_ROLE]
    tools = [json.loads(turn.content) for turn in turns if turn.role == TOOLS_ROLE]
    return json.dumps({"messages": messages, "tools": tools[0]} if tools else messages, ensure_ascii=False)


def _write_message(turn: Message) -> dict[str, Any]:
    optional = {
        "reasoning_content": turn.reasoning,
        "tool_calls": json.loads(turn.tool_calls) if turn.tool_calls else "",
        "name": turn.name,
        "tool_call_id": turn.tool_call_id,
    }
    message = {"role": turn.role, "content": turn.content} | {key: value for key, value in optional.items() if value}
    return {**message, "weight": 0} if turn.role == "assistant" and not turn.learned else message


def _can_merge(last: Message, turn: Message) -> bool:
    is_plain = turn.role == last.role and turn.role not in ("tool", TOOLS_ROLE) and not last.tool_calls
    return is_plain and last.learned == turn.learned


def _texts(turn: Message) -> tuple[str, str]:
    return turn.content, turn.reasoning


def _join_texts(old: str, new: str) -> str:
    return f"{old}\n\n{new}" if old and new else old or new
