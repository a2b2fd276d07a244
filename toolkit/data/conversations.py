"""Conversations in cells: a list of messages as `chat_messages.py` reads them, or an object with one and its tools.

A cell becomes messages. Those of the assistant are trained unless they are marked as not trained. Conversations with
images or other parts that are no text can't be trained on and are refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolkit.data.chat_messages import (
    CALL_KEYS,
    CONTENT_KEYS,
    REASONING_KEYS,
    ROLE_KEYS,
    TOOLS_ROLE,
    Message,
    expand_pairs,
    find_unused_keys,
    parse_message,
    parse_tools,
    written_role,
)
from toolkit.data.python_literals import read_python_messages
from toolkit.data.read_options import MAX_LISTED, Offer, ReadOptions, shorten_preview
from toolkit.errors import DataError

CHAT_KEYS = ("messages", "conversations", "conversation", "contents")
"""Keys of an object that hold its conversation."""
CONVERSATION_NAMES = (
    *CHAT_KEYS,
    "chat",
    "dialogue",
    "dialogues",
    "dialog",
    "turns",
    "utterances",
    "history",
    "chat messages",
    "data",
)
"""Normalized names of columns that hold conversations."""
TOOL_KEYS = ("tools", "functions")
"""Keys and columns that list the tools available in a conversation."""
_BLANK_CELLS = frozenset(("", "[]", "{}", "null", "none", "nan", '""'))
_MARKS = ('"role"', '"from"', '"author"', '"sender"', '"speaker"', '"assistant"', '"human"', '"HumanMessage"')
_TEXT_KEYS = (*CONTENT_KEYS, *CALL_KEYS, *REASONING_KEYS)
_TICKET_KEYS = ("body", "message", "msg", "body_text", "bodyText", "plain_body")
"""Keys of a text in the threads of help desks."""
_NOT_A_LIST = ("it is not a list of messages.", "Write it as a list of objects with role and content.")

MessageDict = dict[str, Any]
"""A message as chat templates and the engine take it: {"role": ..., "content": text, ...}."""


def parse_conversation(cell: str) -> tuple[Message, ...]:
    """Return the messages of a cell up to the last trained one; an entry with its tools comes first if it has any.

    Raises DataError whose message continues a sentence such as "Row 3, column 'messages':".
    """
    return build_conversation(*load_conversation(cell))


def load_conversation(cell: str) -> tuple[list[Any], Any]:
    """Return (messages, tools) of a cell as they are written. Raises DataError as `parse_conversation`."""
    try:
        loaded = json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise DataError(*_NOT_A_LIST) from error
    tools = None
    if isinstance(loaded, dict):
        tools = next((loaded[key] for key in TOOL_KEYS if loaded.get(key)), None)
        loaded = list_messages(loaded)
    if not isinstance(loaded, list):
        raise DataError(*_NOT_A_LIST)
    return expand_pairs(loaded), tools


def list_messages(value: dict[str, Any]) -> list[Any] | None:
    """Return the messages of an object, with its system text in front (Anthropic's requests); None for none."""
    messages = next((value[key] for key in CHAT_KEYS if isinstance(value.get(key), list)), None)
    messages = _messages_of_lists(value) if messages is None else messages
    system = value.get("system")
    if not messages or not isinstance(system, str | list) or is_blank_cell(str(system)):
        return messages
    has_system = isinstance(messages[0], dict) and written_role(messages[0]) == "system"
    return messages if has_system else [{"role": "system", "content": system}, *messages]


def _messages_of_lists(value: Mapping[str, Any]) -> list[Any] | None:
    """Return the messages of an object with a list of roles and one of texts, as `datasets` keeps sequences."""
    role = next((key for key in ROLE_KEYS if isinstance(value.get(key), list)), None)
    text = next((key for key in CONTENT_KEYS if isinstance(value.get(key), list)), None)
    if role is None or text is None or len(value[role]) != len(value[text]):
        return None
    lists = {key: each for key, each in value.items() if isinstance(each, list) and len(each) == len(value[role])}
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def build_conversation(messages: Sequence[Any], tools: Any = None) -> tuple[Message, ...]:
    """Return the messages up to the last trained one. Raises DataError as `parse_conversation`."""
    parsed = [parse_message(number, message) for number, message in enumerate(messages, start=1)]
    last = max((at for at, message in enumerate(parsed) if message.learned), default=None)
    if last is None:
        hint = 'Add a message with the role "assistant" that is not marked as not trained.'
        raise DataError("it has no assistant message to train on.", hint)
    listed = parse_tools(tools)
    return (*([Message(TOOLS_ROLE, listed)] if listed else []), *parsed[: last + 1])


def is_conversation_name(column: str) -> bool:
    """Return whether a column is named as one of conversations."""
    return " ".join(column.strip().casefold().replace("_", " ").split()) in CONVERSATION_NAMES


def is_blank_cell(cell: str | None) -> bool:
    """Return whether a cell has no text, no message and no tool."""
    return cell is None or (len(cell) < 40 and cell.strip().casefold() in _BLANK_CELLS)


def looks_like_chat(cell: str, *, is_named: bool = False) -> bool:
    """Return whether a cell is a list of messages or an object with one, valid or not. is_named: as in `is_chat`."""
    if cell.lstrip()[:1] not in ("[", "{") or not (is_named or any(mark in cell for mark in _MARKS)):
        return False
    try:
        messages = json.loads(cell)
    except (ValueError, RecursionError):
        return False
    if isinstance(messages, dict):
        messages = list_messages(messages)
    return is_chat(messages, is_named=is_named)


def is_chat(messages: Any, *, is_named: bool = False) -> bool:
    """Return whether a value is a list of messages, valid or not.

    is_named: its column is named as one of conversations. Then also texts in turn and pairs of texts are messages.
    """
    if not isinstance(messages, list) or not messages:
        return False
    if not all(isinstance(one, dict) for one in messages):
        return is_named and are_texts_in_turn(messages)
    said = expand_pairs(messages)
    if not any(key in one for one in said for key in _TEXT_KEYS) and any(key in said[0] for key in _TICKET_KEYS):
        return False
    if len(said) > len(messages) and not (is_named or any(mark in messages[0] for mark in ("assistant", "Assistant"))):
        return False
    if all("role" in one or "from" in one for one in said):
        return True
    roles = {written_role(one) for one in said}
    return None not in roles and {"user", "assistant"} <= roles


def are_texts_in_turn(messages: Sequence[Any]) -> bool:
    """Return whether a list has texts that two speakers may have said in turn, not only words."""
    texts = [one for one in messages if isinstance(one, str) and one.strip()]
    return len(messages) > 1 and len(texts) == len(messages) and any(" " in text.strip() for text in texts)


def format_conversation(messages: Sequence[Message]) -> str:
    """Return the messages as readable text with their roles; a single user message is shown without its role."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return "\n\n".join(f"{message.role}: {format_message(message)}" for message in messages)


def format_message(message: Message) -> str:
    """Return a message's reasoning, text and tool calls as readable text; a plain message is its text alone."""
    reasoning = f"<think>\n{message.reasoning}\n</think>" if message.reasoning else ""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in json.loads(message.tool_calls or "[]")]
    if not reasoning and not calls:
        return message.content
    return "\n".join(part for part in (reasoning, message.content, *calls) if part)


def train_only(messages: Sequence[Message], positions: Sequence[int]) -> tuple[Message, ...]:
    """Return the conversation with no message trained but those at these positions."""
    return tuple(replace(message, learned=at in positions) for at, message in enumerate(messages))


def train_last_message_only(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the conversation with no message but the last one trained."""
    return train_only(messages, [len(messages) - 1]) if messages else ()


MIN_CHAT_SHARE = 0.5
"""A column holds conversations if at least this share of its filled cells are lists of messages."""


class ChatColumns:
    """Finds the columns of conversations while rows are written.

    faults: column -> its first fault, or "" for none. skip: replace a conversation that can't be trained on by a
    missing cell.
    """

    def __init__(self, *, skip: bool = False) -> None:
        self.faults: dict[str, str] = {}
        self._skip = skip
        self._plain_columns: set[str] = set()
        self._python: dict[str, int] = {}
        self._lists: set[str] = set()
        self._good: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        self._unused: dict[str, Counter[str]] = {}

    def check_cells(self, column: str, cells: Sequence[str | None], first: int) -> Sequence[str | None]:
        """Check the next cells of a column and return those to write; `first` is the 1-based row of the first one."""
        if column in self._plain_columns:
            return cells
        if column not in self.faults:
            filled = [cell for cell in cells if cell and cell.strip() != "[]"]
            if not filled:
                return cells
            named = is_conversation_name(column)
            others = [cell for cell in filled if not looks_like_chat(cell, is_named=named)]
            chats = len(filled) - len(others)
            written = sum(read_python_messages(cell) is not None for cell in others)
            if chats + written < MIN_CHAT_SHARE * len(filled):
                self._plain_columns.add(column)
                return cells
            self.faults[column] = ""
            self._python.update({column: 0} if written else {})
        if column in self._python:
            cells = [cell and self._from_python(column, cell) for cell in cells]
        return [cell and self._checked(column, cell, row) for row, cell in enumerate(cells, start=first)]

    def _from_python(self, column: str, cell: str) -> str:
        converted = None if looks_like_chat(cell) else read_python_messages(cell)
        self._python[column] += converted is not None
        return cell if converted is None else converted

    def _checked(self, column: str, cell: str, row: int) -> str | None:
        try:
            messages, tools = load_conversation(cell)
            build_conversation(messages, tools)
        except DataError as error:
            self._bad[column] += 1
            if self._skip:
                return None
            self.faults[column] = self.faults[column] or f"Row {row:,}, column '{column}': {error}"
        else:
            self._good[column] += 1
            if re.match(r'\s*\[\s*"', cell):
                self._lists.add(column)
            unused = {key for message in messages for key in find_unused_keys(message)}
            if unused:
                self._unused.setdefault(column, Counter()).update(unused)
        return cell

    def notices(self) -> list[str]:
        """Return a sentence about each column of conversations."""
        notices = [f"Column '{name}' contains {_conversations(self._good[name])}." for name in self.faults]
        notices += [
            f"The texts of each list in '{name}' are said in turn: the user says the first one, the assistant the next."
            for name in sorted(self._lists)
        ]
        for name, keys in self._unused.items():
            shown = ", ".join(f"'{key[:40]}' ({count:,})" for key, count in keys.most_common(MAX_LISTED))
            notices.append(f"Not used for training: keys of messages in '{name}', with their number of rows: {shown}.")
        notices += [
            f"Column '{name}' has {_conversations(count)} written as Python text, which were converted to JSON."
            for name, count in self._python.items()
        ]
        if self._skip:
            for name, count in self._bad.items():
                were = "was" if count == 1 else "were"
                notices.append(
                    f"{_conversations(count)} in '{name}' can't be trained on and {were} skipped, as chosen."
                )
        return notices

    def offers(self, options: ReadOptions) -> list[Offer]:
        """Return the offer to skip conversations that can't be trained on, unless all of them would be skipped."""
        if self._skip or not any(self._bad[column] and self._good[column] for column in self.faults):
            return []
        label = f"Skip the {_conversations(sum(self._bad.values()))} that can't be trained on"
        return [Offer(label, replace(options, bad_rows="skip"), shorten_preview(filter(None, self.faults.values())))]


def _conversations(count: int) -> str:
    return f"{count:,} conversation" if count == 1 else f"{count:,} conversations"
