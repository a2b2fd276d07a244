"""Rows that are single messages of a thread: which columns say so, and the conversations that the rows make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.chat_messages import ROLES
from toolkit.data.conversations import is_blank_cell

_ROLE_NAMES = ("role", "from", "speaker", "sender", "author", "author role", "message role", "turn role")
_TEXT_NAMES = ("text", "content", "message", "value", "body", "utterance")
_THREAD_NAMES = ("conversation id", "conversation", "thread id", "thread", "session id", "session", "dialog id",
                 "dialogue id", "chat id", "conv id", "message tree id", "topic id")  # fmt: skip
_MESSAGE_NAMES = ("message id", "id", "msg id", "uuid")
_PARENT_NAMES = ("parent id", "parent", "parent message id", "reply to", "in reply to", "reply to id")


@dataclass(frozen=True)
class ThreadColumns:
    """The columns of single messages. thread: of the conversation; message, parent: of a message and the one before.

    Without thread, and without message and parent, the rows follow each other as in the file.
    """

    role: str
    text: str
    thread: str | None
    message: str | None
    parent: str | None

    @property
    def are_in_file_order(self) -> bool:
        return self.thread is None and self.parent is None

    @property
    def needed(self) -> tuple[str, ...]:
        found = (self.role, self.text, self.thread, self.message, self.parent)
        return tuple(name for name in found if name is not None)


def find_thread_columns(names: Mapping[str, str], rows: Sequence[Mapping[str, str | None]]) -> ThreadColumns | None:
    """Return the columns of single messages, or None if rows are something else.

    names: normalized name -> column. rows: a sample.
    """
    role = next((names[name] for name in _ROLE_NAMES if name in names and _are_roles(names[name], rows)), None)
    text = next((names[name] for name in _TEXT_NAMES if name in names and names[name] != role), None)
    thread, message, parent = (
        next((names[name] for name in wanted if name in names and names[name] not in (role, text)), None)
        for wanted in (_THREAD_NAMES, _MESSAGE_NAMES, _PARENT_NAMES)
    )
    linked = message is not None and parent is not None
    if role is None or text is None:
        return None
    return ThreadColumns(role, text, thread, *((message, parent) if linked else (None, None)))


def _are_roles(column: str, rows: Sequence[Mapping[str, str | None]]) -> bool:
    spoken = {ROLES.get((row.get(column) or "").strip().casefold()) for row in rows}
    return {"user", "assistant"} <= spoken and None not in spoken


def join_threads(columns: ThreadColumns, rows: Sequence[Mapping[str, str | None]]) -> list[str]:
    """Return the cells of the conversations, in the order of their first message.

    Where several messages answer the same one, each path is a conversation; an answer is trained in the first of them.
    Where nothing links the messages, each system message begins a conversation.
    """
    if columns.are_in_file_order:
        return _join_in_order(columns, rows)
    if columns.message is not None and columns.parent is not None:
        return _join_paths(columns, rows)
    threads: dict[str, list[dict[str, Any]]] = {}
    for at, row in enumerate(rows):
        # a row without a conversation stands alone
        threads.setdefault(row.get(str(columns.thread)) or f"\0{at}", []).append(_message(columns, row))
    return [json.dumps(messages, ensure_ascii=False) for messages in threads.values()]


def _join_in_order(columns: ThreadColumns, rows: Sequence[Mapping[str, str | None]]) -> list[str]:
    conversations: list[list[dict[str, Any]]] = []
    for row in rows:
        begins = ROLES.get((row.get(columns.role) or "").strip().casefold()) == "system"
        if begins or not conversations:
            conversations.append([])
        conversations[-1].append(_message(columns, row))
    return [json.dumps(messages, ensure_ascii=False) for messages in conversations]


def _join_paths(columns: ThreadColumns, rows: Sequence[Mapping[str, str | None]]) -> list[str]:
    by_id = {row[str(columns.message)]: at for at, row in enumerate(rows) if row.get(str(columns.message))}
    parents = [by_id.get(row.get(str(columns.parent)) or None) for row in rows]
    answered = {parent for parent in parents if parent is not None}
    trained: set[int] = set()
    cells = []
    for leaf in (at for at in range(len(rows)) if at not in answered):
        path, seen = [leaf], {leaf}
        while (before := parents[path[-1]]) is not None and before not in seen:
            path.append(before)
            seen.add(before)
        messages = [
            {**_message(columns, rows[at]), **({"weight": 0} if at in trained else {})} for at in reversed(path)
        ]
        trained.update(path)
        cells.append(json.dumps(messages, ensure_ascii=False))
    return cells


def _message(columns: ThreadColumns, row: Mapping[str, str | None]) -> dict[str, Any]:
    text = row.get(columns.text)
    return {"role": (row.get(columns.role) or "").strip(), "content": "" if is_blank_cell(text) else text}
