"""Turns without roles: numbered columns, objects with numbered turns, and dialogues of a user and a system."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from toolkit.data.chat_messages import CONTENT_KEYS, ROLE_KEYS, ROLES
from toolkit.data.conversations import is_blank_cell, is_conversation_name
from toolkit.data.examples import column_names as names
from toolkit.data.shapes.message_cells import find_listed_messages, load_cell
from toolkit.data.shapes.other_conversations import OtherConversations
from toolkit.data.table import TableRow

Turns = list[dict[str, Any]]

_ASKS = names.SPEAKERS | names.REQUESTS | names.INPUTS | {name for name, role in ROLES.items() if role == "user"}
_SAYS = names.ANSWERING_SPEAKERS | names.ANSWERS | {name for name, role in ROLES.items() if role == "assistant"}
_FORMS = frozenset(("turn", "turns", "message", "msg", "round", "utterance", "text", "content"))
"""Words next to a number that do not say who speaks."""
_TURN_KEY = re.compile(r"(?:turn|round|t)?[ _-]?(\d{1,3})", re.IGNORECASE)
_MARKS = re.compile(r"^\s*<\|[^|<>]{1,30}\|>:?\s*|\s*<eo[a-z]>\s*$")
"""What MOSS writes around a text: "<|Human|>: ...<eoh>"."""
_CALL = re.compile(r"([A-Za-z_]\w*)\((.*)\)", re.DOTALL)
_PERSON_KEYS = (*ROLE_KEYS, "name", "user", "actor", "username", "person", "participant", "who")
_MOSS = "moss"
_TOOL_PARTS = ("inner thoughts", "commands", "tool responses")


def find_numbered_turns(columns: Sequence[str], rows: Sequence[TableRow]) -> OtherConversations | None:
    """Return how to read the conversations of a table, None if there are none. columns: those with cells."""
    good = [name for name in columns if names.normalize_column_name(name) not in names.REJECTED]
    for column in good:
        if found := _find_unnamed_turns(column, [cell for row in rows if not is_blank_cell(cell := row.get(column))]):
            return found
    if (numbered := _find_numbered_columns(good, rows)) is None:
        return None
    asked, said = numbered
    notice = f"The columns '{asked[0]}', '{said[0]}' and further ones are read as the turns of a conversation."
    return OtherConversations((*asked, *said), lambda row: _read_numbered_columns(asked, said, row), notice)


def _find_numbered_columns(columns: Sequence[str], rows: Sequence[TableRow]) -> tuple[list[str], list[str]] | None:
    """Return (columns of the user, columns of the assistant) by their numbers; None if no numbers pair them."""
    found: dict[str, dict[str, dict[int, str]]] = {"asks": {}, "says": {}}
    for column in columns:
        stem, number = _split_number(names.normalize_column_name(column))
        side = "asks" if stem in _ASKS else "says" if stem in _SAYS else ""
        if side and number is not None:
            found[side].setdefault(stem, {})[number] = column
    if len(found["asks"]) != 1 or len(found["says"]) != 1:
        return None
    (asked,), (said,) = found["asks"].values(), found["says"].values()
    if len(asked) < 2 or asked.keys() != said.keys():
        return None
    first = min(asked)
    if not all(any(" " in (row.get(side[first]) or "").strip() for row in rows) for side in (asked, said)):
        return None
    return [asked[number] for number in sorted(asked)], [said[number] for number in sorted(said)]


def _split_number(name: str) -> tuple[str, int | None]:
    """Return (who speaks, number of the turn) of a normalized name such as "user 1", "q1" or "turn 2 bot"."""
    numbers = re.findall(r"\d{1,3}", name)
    words = re.sub(r"\d+", " ", name).split()
    return " ".join(word for word in words if word not in _FORMS), int(numbers[0]) if len(numbers) == 1 else None


def _read_numbered_columns(asked: Sequence[str], said: Sequence[str], row: TableRow) -> Turns | None:
    """Return the messages of a row, without the turns that are missing."""
    turns = []
    for pair in zip(asked, said, strict=True):
        for role, column in zip(("user", "assistant"), pair, strict=True):
            cell = row.get(column)
            if cell is not None and not is_blank_cell(cell):
                turns.append({"role": role, "content": cell})
    return turns or None


def _find_unnamed_turns(column: str, cells: Sequence[str | None]) -> OtherConversations | None:
    loaded = [load_cell(cell) for cell in cells]
    if not loaded or not all(loaded):
        return None

    def found(read: Callable[[Any], Turns | None], notice: str) -> OtherConversations:
        return OtherConversations((column,), lambda row: read(load_cell(row.get(column))), notice)

    if all(_read_numbered_object(each) for each in loaded):
        return found(_read_numbered_object, f"The numbered turns in '{column}' are read as conversations.")
    listed = [find_listed_messages(each) or [] for each in loaded]
    if all(_is_user_and_system(messages) for messages in listed):
        notice = f"In the conversations of '{column}', the messages of the system are the answers."
        return found(_read_user_and_system, notice)
    if (is_conversation_name(column) or column.casefold() == "log") and all(map(_has_no_speaker, listed)):
        notice = f"The messages in '{column}' name no speaker: the user says the first one, the assistant the next."
        return found(_read_in_turn, notice)
    return None


def _read_numbered_object(loaded: Any) -> Turns | None:
    """Return the messages of {"turn_1": {"Human": ..., "MOSS": ...}, ...}; None for another value."""
    if not isinstance(loaded, Mapping) or not loaded:
        return None
    numbered = [(_TURN_KEY.fullmatch(str(key)), turn) for key, turn in loaded.items()]
    found = {int(match.group(1)): list(_read_turn(turn)) for match, turn in numbered if match}
    if len(found) < len(loaded) or not all(found.values()):
        return None
    return [message for _, messages in sorted(found.items()) for message in messages]


def _read_turn(turn: Any) -> Iterator[dict[str, Any]]:
    """Yield a question, the call of a tool with its result, and the answer; nothing for another value."""
    given = turn if isinstance(turn, Mapping) else {}
    texts = {names.normalize_column_name(key): _without_marks(value) for key, value in given.items()}
    asks = next((name for name in texts if name in _ASKS), None)
    says = next((name for name in texts if name in _SAYS or name == _MOSS), None)
    if asks is None or says is None:
        return
    others = {key: text for key, text in texts.items() if key not in (asks, says, *_TOOL_PARTS)}
    yield {"role": "user", "content": texts[asks], **others}
    thoughts, command, result = (texts.get(name, "") for name in _TOOL_PARTS)
    reasoning = {"reasoning_content": thoughts} if thoughts else {}
    if command:
        named = _CALL.fullmatch(command.strip())
        name, given_input = named.groups() if named else ("command", command)
        call = {"type": "function", "function": {"name": name, "arguments": {"input": given_input}}}
        yield {"role": "assistant", **reasoning, "tool_calls": [call]}
        yield {"role": "tool", "content": result}
        reasoning = {}
    yield {"role": "assistant", "content": texts[says], **reasoning}


def _without_marks(value: Any) -> str:
    """Return a text without MOSS's marks; "" for None in words, with which MOSS fills a part that is not used."""
    text = _MARKS.sub("", value) if isinstance(value, str) else ""
    return "" if text.strip() == "None" else text


def _is_user_and_system(messages: Sequence[Any]) -> bool:
    """Return whether a list begins with the user and has the messages of a system as answers, as MultiWOZ does."""
    if not all(isinstance(one, dict) for one in messages):
        return False
    speakers = [_speaker(one) for one in messages]
    has_texts = all(any(isinstance(one.get(key), str) for key in CONTENT_KEYS) for one in messages)
    return has_texts and speakers[:1] == ["user"] and set(speakers) == {"user", "system"}


def _speaker(message: Mapping[str, Any]) -> str:
    written = next((message[key] for key in ROLE_KEYS if message.get(key) is not None), "")
    return {"0": "user", "1": "system"}.get(str(written), str(written).strip().casefold())


def _read_user_and_system(loaded: Any) -> Turns | None:
    roles = {"user": "user", "system": "assistant"}
    return [_said(roles.get(_speaker(one), ""), one) for one in find_listed_messages(loaded) or []] or None


def _said(role: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with its role and content; its other keys are kept, so that they are named as unused."""
    others = {key: value for key, value in message.items() if key not in (*ROLE_KEYS, *CONTENT_KEYS)}
    return {"role": role, "content": _text(message), **others}


def _text(message: Mapping[str, Any]) -> Any:
    return next((message[key] for key in CONTENT_KEYS if message.get(key) is not None), "")


def _has_no_speaker(messages: Sequence[Any]) -> bool:
    """Return whether a list has only texts with things about them, or the transcripts of a system and a user."""
    if len(messages) < 2 or not all(isinstance(one, dict) for one in messages):
        return False
    texts = [one.get("transcript", _text(one)) for one in messages]
    said = (*CONTENT_KEYS, "transcript", "system_transcript")
    others = [key for key in messages[0] if key not in said and isinstance(messages[0][key], str)]
    # a person is named in several messages, a number or a time in one
    may_be_named = any(len({str(one.get(key)) for one in messages}) < len(messages) for key in others)
    is_named = may_be_named or any(key in one for one in messages for key in _PERSON_KEYS)
    return not is_named and all(isinstance(text, str) and text.strip() for text in texts)


def _read_in_turn(loaded: Any) -> Turns | None:
    turns: Turns = []
    for one in find_listed_messages(loaded) or []:
        if "transcript" in one:
            others = {key: value for key, value in one.items() if key not in ("transcript", "system_transcript")}
            answered = one.get("system_transcript")
            turns += [{"role": "assistant", "content": answered}] if answered else []
            turns.append({"role": "user", "content": one["transcript"], **others})
        else:
            turns.append(_said(("user", "assistant")[len(turns) % 2], one))
    return turns or None
