"""Conversations in cells: lists of role and content as in OpenAI's fine-tuning files, or of from and value (ShareGPT).

A cell becomes messages. Those of the assistant are trained unless their weight is 0. Conversations with tool calls or
images can't be trained on and are refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit.data.python_literals import read_python_messages
from toolkit.data.read_options import Offer, ReadOptions, shorten_preview
from toolkit.errors import DataError

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip
TOOL_COLUMNS = ("tools", "functions")
"""Columns next to a conversation in which OpenAI's format lists the available tools."""
_TOOL_ROLES = ("tool", "function", "observation", "function_call")
_NO_TOOLS = "Training on tool calls is not supported: skip these rows, or write the call into the answer as text."
_NOT_A_LIST = ("it is not a list of messages.", "Write it as a list of objects with role and content.")


MessageDict = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}: a message as chat templates and the engine take it."""


@dataclass(frozen=True)
class Message:
    """One message. role: "system", "user" or "assistant"; learned: whether the model is trained to write it."""

    role: str
    content: str
    learned: bool = False


def parse_conversation(cell: str) -> tuple[Message, ...]:
    """Return the messages of a cell up to the last trained one.

    Raises DataError whose message continues a sentence such as "Row 3, column 'messages':".
    """
    try:
        messages = json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise DataError(*_NOT_A_LIST) from error
    if not isinstance(messages, list):
        raise DataError(*_NOT_A_LIST)
    parsed = [_parse_message(number, message) for number, message in enumerate(messages, start=1)]
    last = max((at for at, message in enumerate(parsed) if message.learned), default=None)
    if last is None:
        hint = 'Add a message with the role "assistant" whose weight is not 0.'
        raise DataError("it has no assistant message to train on.", hint)
    return tuple(parsed[: last + 1])


def looks_like_chat(cell: str) -> bool:
    """Return whether a cell is a list of messages, valid or not."""
    if not cell.lstrip().startswith("[") or not ('"role"' in cell or '"from"' in cell):
        return False
    try:
        messages = json.loads(cell)
    except (ValueError, RecursionError):
        return False
    return bool(messages) and all(
        isinstance(message, dict) and ("role" in message or "from" in message) for message in messages
    )


def format_conversation(messages: Sequence[Message]) -> str:
    """Return the messages as readable text with their roles; a single user message is shown without its role."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def train_last_message_only(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the conversation with no message but the last one trained."""
    return (*(replace(message, learned=False) for message in messages[:-1]), *messages[-1:])


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
        self._good: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()

    def check_cells(self, column: str, cells: Sequence[str | None], first: int) -> Sequence[str | None]:
        """Check the next cells of a column and return those to write; `first` is the 1-based row of the first one."""
        if column in self._plain_columns:
            return cells
        if column not in self.faults:
            filled = [cell for cell in cells if cell and cell.strip() != "[]"]
            if not filled:
                return cells
            chats = sum(map(looks_like_chat, filled))
            written = sum(read_python_messages(cell) is not None for cell in filled if not looks_like_chat(cell))
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
            parse_conversation(cell)
        except DataError as error:
            self._bad[column] += 1
            if self._skip:
                return None
            self.faults[column] = self.faults[column] or f"Row {row:,}, column '{column}': {error}"
        else:
            self._good[column] += 1
        return cell

    def notices(self) -> list[str]:
        """Return a sentence about each column of conversations."""
        notices = [f"Column '{name}' contains {_conversations(self._good[name])}." for name in self.faults]
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


def _parse_message(number: int, message: Any) -> Message:
    if not isinstance(message, dict):
        raise DataError(f"message {number} is not an object.", "Write each message as an object with role and content.")
    written_role = str(message.get("role", message.get("from", "")))
    role = ROLES.get(written_role.lower())
    if written_role.lower() in _TOOL_ROLES or message.get("tool_calls") or message.get("function_call"):
        raise DataError(f"message {number} is a tool call or its result.", _NO_TOOLS)
    if role is None:
        hint = "The roles are system, user and assistant (human and gpt in ShareGPT files)."
        raise DataError(f"message {number} has the unknown role '{written_role[:40]}'.", hint)
    content = _content(number, message.get("content", message.get("value")))
    return Message(role, content, role == "assistant" and _weight(number, message) == 1)


def _content(number: int, content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        other = next((part.get("type") for part in content if part.get("type") != "text"), None)
        if other is None and all(isinstance(part.get("text"), str) for part in content):
            return "".join(part["text"] for part in content)
        message = f"message {number} contains a part of type '{str(other)[:40]}'."
        raise DataError(message, "Only text can be trained on.")
    raise DataError(f"message {number} has no text.", "Add its content, or skip the row.")


def _weight(number: int, message: Mapping[str, Any]) -> int:
    weight = message.get("weight", 1)
    if weight in (0, 1) and not isinstance(weight, bool):
        return int(weight)
    raise DataError(f"message {number} has the weight {str(weight)[:20]}.", "Use 0 (not trained) or 1 (trained).")
