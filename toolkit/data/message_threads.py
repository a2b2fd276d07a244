"""Rows that are single messages of a thread: which columns say so, and the conversations that the rows make."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.chat_messages import ROLES
from toolkit.data.conversations import is_blank_cell

_ROLE_NAMES = ("role", "from", "speaker", "sender", "author", "author role", "message role", "turn role")
_TEXT_NAMES = ("text", "content", "message", "value", "body", "utterance")
_THREAD_NAMES = ("conversation id", "conversation", "thread id", "thread", "session id", "session", "dialog id",
                 "dialogue id", "chat id", "conv id", "message tree id", "topic id")  # fmt: skip
_MESSAGE_NAMES = ("message id", "id", "msg id", "uuid", "tweet id")
_PARENT_NAMES = ("parent id", "parent", "parent message id", "reply to", "in reply to", "reply to id",
                 "in response to tweet id", "in reply to status id", "reply to message id")  # fmt: skip
_PERSON_NAMES = (*_ROLE_NAMES, "from name", "user name", "username", "author name", "user", "name", "nick", "author id")
_NAME_KEYS = ("nickname", "global_name", "name", "username", "login", "id")
MAX_PERSONS, MIN_MESSAGES_PER_PERSON = 50, 2.0
"""A column names the people who wrote messages if it has at most this many, each with this many rows on average."""
MIN_SHARE_OF_ONE = 0.2
"""Or if one of them, such as a company that many customers write to, wrote this share of the messages."""
TURNS_BEFORE = 6
"""Turns in front of an answer, where nothing says at which message a conversation begins."""


@dataclass(frozen=True)
class ThreadColumns:
    """The columns of single messages. thread: of the conversation; message, parent: of a message and the one before.

    Without thread, and without message and parent, the rows follow each other as in the file. persons: those whom the
    column `role` names, most messages first; without any it has roles. answered_by: whose messages are the answers.
    """

    role: str
    text: str
    thread: str | None
    message: str | None
    parent: str | None
    persons: tuple[str, ...] = ()
    answered_by: str | None = None

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
    persons: tuple[str, ...] = ()
    if role is None:
        role, persons = _find_persons(names, rows)
    text = next((names[name] for name in _TEXT_NAMES if name in names and names[name] != role), None)
    thread, message, parent = (
        next((names[name] for name in wanted if name in names and names[name] not in (role, text)), None)
        for wanted in (_THREAD_NAMES, _MESSAGE_NAMES, _PARENT_NAMES)
    )
    linked = message is not None and parent is not None
    if role is None or text is None:
        return None
    return ThreadColumns(role, text, thread, *((message, parent) if linked else (None, None)), persons)


def _find_persons(
    names: Mapping[str, str], rows: Sequence[Mapping[str, str | None]]
) -> tuple[str | None, tuple[str, ...]]:
    """Return the column that names who wrote each message, with these people; (None, ()) if none does."""
    for name in _PERSON_NAMES:
        found = Counter(_person(row.get(names[name])) for row in rows) if name in names else Counter()
        found.pop("", None)
        total = sum(found.values())
        is_small = len(found) <= MAX_PERSONS and total >= MIN_MESSAGES_PER_PERSON * len(found)
        is_led = max(found.values(), default=0) >= MIN_SHARE_OF_ONE * total
        if len(found) > 1 and total > len(rows) / 2 and (is_small or is_led):
            return names[name], tuple(person for person, _ in found.most_common(MAX_PERSONS))
    return None, ()


def _person(cell: str | None) -> str:
    """Return the name in a cell, or inside an object as chat programs export their users."""
    text = (cell or "").strip()
    if not text.startswith("{"):
        return text[:100]
    try:
        user = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return str(next((user[key] for key in _NAME_KEYS if user.get(key)), ""))[:100]


def _are_roles(column: str, rows: Sequence[Mapping[str, str | None]]) -> bool:
    spoken = {ROLES.get((row.get(column) or "").strip().casefold()) for row in rows}
    return {"user", "assistant"} <= spoken and None not in spoken


def join_threads(columns: ThreadColumns, rows: Sequence[Mapping[str, str | None]]) -> list[str]:
    """Return the cells of the conversations, in the order of their first message.

    Where several messages answer the same one, each path is a conversation; an answer is trained in the first of them.
    Where nothing links the messages, each system message begins a conversation.
    """
    if columns.are_in_file_order:
        return _join_exchanges(columns, rows) if columns.persons else _join_in_order(columns, rows)
    if columns.message is not None and columns.parent is not None:
        return _join_paths(columns, rows)
    threads: dict[str, list[dict[str, Any]]] = {}
    for at, row in enumerate(rows):
        # a row without a conversation stands alone
        threads.setdefault(row.get(str(columns.thread)) or f"\0{at}", []).append(_message(columns, row))
    return [*filter(None, (_cell(columns, messages) for messages in threads.values()))]


def _cell(columns: ThreadColumns, messages: Sequence[dict[str, Any]]) -> str:
    """Return the cell of a conversation; of people, "" if none of them asks or none answers."""
    if not columns.persons:
        return json.dumps(messages, ensure_ascii=False)
    turns = _merge_turns(messages)
    return json.dumps(turns, ensure_ascii=False) if len(turns) > 1 else ""


def _merge_turns(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages from the first question on, with consecutive ones of the same role as one."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if not message["content"] or (message["role"] == "assistant" and not turns):
            continue
        if turns and turns[-1]["role"] == message["role"] and turns[-1].get("weight") == message.get("weight"):
            turns[-1] = {**turns[-1], "content": f"{turns[-1]['content']}\n{message['content']}"}
        else:
            turns.append(message)
    return turns


def _join_exchanges(columns: ThreadColumns, rows: Sequence[Mapping[str, str | None]]) -> list[str]:
    """Return a conversation for each answer, with the turns before it."""
    turns = _merge_turns([_message(columns, row) for row in rows])
    cells = []
    for at in range(1, len(turns), 2):  # after merging, every second turn is an answer
        before = [{**turn, "weight": 0} for turn in turns[max(0, at - TURNS_BEFORE + 1) : at]]
        cells.append(json.dumps([*before, turns[at]], ensure_ascii=False))
    return cells


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
        cells.append(_cell(columns, messages))
    return [*filter(None, cells)]


def _message(columns: ThreadColumns, row: Mapping[str, str | None]) -> dict[str, Any]:
    text = row.get(columns.text)
    content = "" if text is None or is_blank_cell(text) else _plain_text(text)
    if not columns.persons:
        return {"role": (row.get(columns.role) or "").strip(), "content": content}
    said_by = _person(row.get(columns.role))
    return {"role": "assistant" if said_by == columns.answered_by else "user", "content": content}


def _plain_text(cell: str) -> str:
    """Return the text of a message; Telegram writes one with links as a list of its parts."""
    if not cell.startswith("["):
        return cell
    try:
        parts = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    found = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    return "".join(texts) if len(texts) == len(found) else cell
