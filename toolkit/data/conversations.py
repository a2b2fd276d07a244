"""Conversations in a cell: lists of role and content, as OpenAI's fine-tuning files and ShareGPT write them.

A cell becomes turns, of which the assistant's are learned unless their weight is 0. What can't be trained on (tools,
pictures) is refused in words. Knows no file, no tokenizer and no chat template.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit.data.read_options import Offer, ReadOptions, shorten_preview
from toolkit.errors import DataError

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip
TOOL_COLUMNS = ("tools", "functions")
"""Columns beside a conversation in which OpenAI's format lists the tools it may call."""
_TOOL_ROLES = ("tool", "function", "observation", "function_call")
_NO_TOOLS = "Tool calls are not trained here: leave these rows out, or write the call into the answer as text."


MessageDict = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}: a message as chat templates and the engine take it."""


@dataclass(frozen=True)
class Message:
    """One message. role: "system", "user" or "assistant"; learned: whether the model is to write it."""

    role: str
    content: str
    learned: bool = False


def parse_conversation(cell: str) -> tuple[Message, ...]:
    """The turns of a cell, up to the last one that is learned. Raises DataError in words for a person."""
    try:
        messages = json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise DataError("it is not a list of messages.", "Write a list of role and content.") from error
    if not isinstance(messages, list):
        raise DataError("it is not a list of messages.", "Write a list of role and content.")
    turns = [_parse_message(number, message) for number, message in enumerate(messages, start=1)]
    last = max((at for at, turn in enumerate(turns) if turn.learned), default=None)
    if last is None:
        hint = 'Give it a message with the role "assistant" whose weight is not 0.'
        raise DataError("no answer of the assistant is to be learned.", hint)
    return tuple(turns[: last + 1])


def looks_like_chat(cell: str) -> bool:
    """Whether a cell holds a list of messages, whatever is in them."""
    if not cell.lstrip().startswith("[") or not ('"role"' in cell or '"from"' in cell):
        return False
    try:
        messages = json.loads(cell)
    except (ValueError, RecursionError):
        return False
    whole = [message for message in messages if isinstance(message, dict) and ("role" in message or "from" in message)]
    return bool(messages) and len(whole) == len(messages)


def format_conversation(turns: Sequence[Message]) -> str:
    """The turns as a person reads them; a question alone stands without its role."""
    if len(turns) == 1 and turns[0].role == "user":
        return turns[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def train_last_message_only(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The same conversation in which the last turn alone counts as learned."""
    return (*(replace(turn, learned=False) for turn in turns[:-1]), *turns[-1:])


class ChatColumns:
    """Finds the columns of conversations while rows are written. faults: column -> the first fault, "" for none. With
    `skip`, a conversation that can't be trained on becomes a missing cell."""

    def __init__(self, *, skip: bool = False) -> None:
        self.faults: dict[str, str] = {}
        self._skip = skip
        self._other: set[str] = set()
        self._good: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()

    def look(self, column: str, cells: Sequence[str | None], first: int) -> Sequence[str | None]:
        """Look at more cells of a column, of which the first is in the 1-based row `first`; returns those to keep."""
        if column in self._other:
            return cells
        if column not in self.faults:
            some = next((cell for cell in cells if cell), None)
            if some is None:
                return cells
            if not looks_like_chat(some):
                self._other.add(column)
                return cells
            self.faults[column] = ""
        return [cell and self._checked(column, cell, row) for row, cell in enumerate(cells, start=first)]

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
        """What was found, in words."""
        said = [f"Column '{column}' holds {self._good[column]:,} conversations." for column in self.faults]
        if self._skip:
            left = {column: count for column, count in self._bad.items() if count}
            said += [f"{count:,} conversations in '{column}' can't be trained on and were left out, as chosen."
                     for column, count in left.items()]  # fmt: skip
        return said

    def offers(self, options: ReadOptions) -> list[Offer]:
        """To leave out what can't be trained on, where something can."""
        if self._skip or not any(self._bad[column] and self._good[column] for column in self.faults):
            return []
        label = f"Leave out the {sum(self._bad.values()):,} conversations that can't be trained on"
        return [Offer(label, replace(options, bad_rows="skip"), shorten_preview(filter(None, self.faults.values())))]


def _parse_message(number: int, message: Any) -> Message:
    if not isinstance(message, dict):
        raise DataError(f"message {number} is not an object.", "Write every message as role and content.")
    given = str(message.get("role", message.get("from", "")))
    role = ROLES.get(given.lower())
    if given.lower() in _TOOL_ROLES or message.get("tool_calls") or message.get("function_call"):
        raise DataError(f"message {number} calls a tool or answers for one.", _NO_TOOLS)
    if role is None:
        hint = "The roles are system, user and assistant (in ShareGPT's words human and gpt)."
        raise DataError(f"message {number} has the role '{given[:40]}'.", hint)
    content = _content(number, message.get("content", message.get("value")))
    return Message(role, content, role == "assistant" and _weight(number, message) == 1)


def _content(number: int, content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        other = next((part.get("type") for part in content if part.get("type") != "text"), None)
        if other is None and all(isinstance(part.get("text"), str) for part in content):
            return "".join(part["text"] for part in content)
        raise DataError(f"message {number} holds a part of type '{str(other)[:40]}'.", "Only text can be trained on.")
    raise DataError(f"message {number} has no text.", "Give it a content, or leave the row out.")


def _weight(number: int, message: Mapping[str, Any]) -> int:
    weight = message.get("weight", 1)
    if weight in (0, 1) and not isinstance(weight, bool):
        return int(weight)
    raise DataError(f"message {number} has the weight {str(weight)[:20]}.", "It is 0 (not learned) or 1.")
