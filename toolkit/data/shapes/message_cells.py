"""Cells that hold messages: a list, an object with one, a single message, a response of an API, or a text."""

from __future__ import annotations

import json
from typing import Any

from toolkit.data.chat_messages import ROLE_KEYS, expand_pairs, written_role
from toolkit.data.conversations import is_blank_cell, is_chat, list_messages


def read_system_text(cell: str | None) -> Any:
    """Return the content of a system message: a text, a message, a list with one, or parts as Gemini writes them."""
    if cell is None or is_blank_cell(cell):
        return None
    loaded = load_cell(cell)
    if isinstance(loaded, list) and len(loaded) == 1 and isinstance(loaded[0], dict) and "content" in loaded[0]:
        loaded = loaded[0]
    if isinstance(loaded, dict):
        content = next((loaded[key] for key in ("content", "parts", "text", "value") if loaded.get(key)), None)
        return content if content is not None else cell
    return loaded if isinstance(loaded, list) else cell.strip().removeprefix("SYSTEM:").strip()


def read_history_turns(cell: str | None) -> list[Any]:
    """Return the earlier turns of a conversation, or []."""
    loaded = load_cell(cell)
    if not isinstance(loaded, list):
        return []
    if all(isinstance(one, str) for one in loaded):
        roles = ("user", "assistant")
        return [{"role": roles[at % 2], "content": text} for at, text in enumerate(loaded)]
    if all(isinstance(one, dict) and isinstance(one.get("input"), dict) for one in loaded):
        said = [{key: part.get("content") for key, part in one.items() if isinstance(part, dict)} for one in loaded]
        return [{**turn, "weight": 0} for turn in expand_pairs(said)]  # PaLM's examples
    return expand_pairs(loaded)


def read_cell_messages(cell: str | None) -> list[Any] | None:
    """Return the messages of a cell: a list, a single message, or a text, which the assistant says."""
    if cell is None:
        return None
    loaded = find_chosen_message(load_cell(cell))
    if isinstance(loaded, dict) and any(key in loaded for key in ROLE_KEYS):
        return [loaded]
    listed = find_listed_messages(loaded)
    return listed if listed is not None else make_said("assistant", cell)


def make_said(role: str, text: str | None) -> list[Any]:
    """Return a text as the only message of a list, or []."""
    return [] if text is None else [{"role": role, "content": text}]


def find_chosen_message(loaded: Any) -> Any:
    """Return the message of a response: OpenAI's API has it in a list of choices, LangChain in lists of lists."""
    found = loaded
    if isinstance(loaded, dict):
        found = next((loaded[key] for key in ("choices", "generations") if loaded.get(key)), loaded)
        while isinstance(found, list) and found:
            found = found[0]
    message = found.get("message") if isinstance(found, dict) else None
    return expand_pairs([message])[0] if isinstance(message, dict) else loaded


def find_listed_messages(loaded: Any) -> list[Any] | None:
    """Return the list of messages of a loaded cell; None if it has none."""
    if isinstance(loaded, dict):
        loaded = list_messages(loaded)
    if isinstance(loaded, list) and len(loaded) == 1 and isinstance(loaded[0], list):
        return expand_pairs(loaded[0]) if is_chat(loaded[0]) else loaded
    return loaded if isinstance(loaded, list) else None


def starts_conversation(cell: str | None) -> bool:
    """Return whether a list of messages has one that is not the assistant's."""
    for one in find_listed_messages(load_cell(cell)) or []:
        if isinstance(one, dict) and written_role(one) in ("user", "system"):
            return True
    return False


def ends_with_answer(cell: str | None) -> bool:
    """Return whether the last one of a list of messages is the assistant's."""
    messages = find_listed_messages(load_cell(cell)) or [None]
    return isinstance(messages[-1], dict) and written_role(messages[-1]) == "assistant"


def load_cell(cell: str | None) -> Any:
    """Return the JSON value of a cell that is a list or an object, else None."""
    if cell is None or cell.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return None
