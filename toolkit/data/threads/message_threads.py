"""The conversations that rows make which are single messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.data.chat_messages import ROLES
from toolkit.data.conversations import is_blank_cell
from toolkit.data.threads.thread_columns import ThreadColumns, read_person, spoken_role

TURNS_BEFORE = 6
"""Turns in front of an answer, where nothing says at which message a conversation begins."""
_SORTABLE = re.compile(r"\d{4}-\d\d-\d\d.*|\d+(\.\d+)?")


def join_threads(columns: ThreadColumns, rows: Sequence[Mapping[str, str | None]]) -> list[str]:
    """Return the cells of the conversations, in the order of their first message.

    Where several messages answer the same one, each path is a conversation; an answer is trained in the first of them.
    Where nothing links the messages, each system message begins a conversation.
    """
    rows = [row for row in rows if _is_sent(columns, row)]
    if columns.are_in_file_order:
        return _join_exchanges(columns, rows) if columns.persons else _join_in_order(columns, rows)
    if columns.message is not None and columns.parent is not None:
        return _join_paths(columns, rows)
    threads: dict[str, list[Mapping[str, str | None]]] = {}
    for at, row in enumerate(rows):
        # a row without a conversation stands alone
        threads.setdefault(row.get(str(columns.thread)) or f"\0{at}", []).append(row)
    cells = []
    for thread in threads.values():
        order = order_by_time([row.get(columns.order or "") for row in thread])
        cells.append(_cell(columns, [_message(columns, thread[at]) for at in order]))
    return [*filter(None, cells)]


def _is_sent(columns: ThreadColumns, row: Mapping[str, str | None]) -> bool:
    """Return whether a message is no private note."""
    shown, hidden = (str(row.get(name or "")).casefold() for name in (columns.public, columns.private))
    return shown not in ("false", "0", "no") and hidden not in ("true", "1", "yes")


def order_by_time(times: Sequence[object]) -> list[int]:
    """Return the positions of messages in the order of their numbers or ISO dates; as they are if one has neither."""
    texts = [str(time).strip() for time in times]
    if not all(map(_SORTABLE.fullmatch, texts)):
        return [*range(len(texts))]
    numeric = all(text.replace(".", "", 1).isdecimal() for text in texts)
    return sorted(range(len(texts)), key=lambda at: (float(texts[at]) if numeric else 0.0, texts[at]))


def _cell(columns: ThreadColumns, messages: Sequence[dict[str, Any]]) -> str:
    """Return the cell of a conversation; of people, "" if none of them asks or none answers."""
    if not columns.persons:
        return json.dumps(messages, ensure_ascii=False)
    turns = join_same_roles(messages)
    return json.dumps(turns, ensure_ascii=False) if len(turns) > 1 else ""


def join_same_roles(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
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
    turns = join_same_roles([_message(columns, row) for row in rows])
    cells = []
    for at in range(1, len(turns), 2):  # after merging, every second turn is an answer
        before = [{**turn, "weight": 0} for turn in turns[max(0, at - TURNS_BEFORE + 1) : at]]
        cells.append(json.dumps([*before, turns[at]], ensure_ascii=False))
    return cells


def _join_in_order(columns: ThreadColumns, rows: Sequence[Mapping[str, str | None]]) -> list[str]:
    conversations: list[list[dict[str, Any]]] = []
    for row in rows:
        begins = spoken_role(row.get(columns.role)) == "system"
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
        written = (row.get(columns.role) or "").strip()
        return {
            "role": written if written.casefold() in ROLES else spoken_role(written) or written,
            "content": content,
        }
    said_by = read_person(row.get(columns.role))
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
