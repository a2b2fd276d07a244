"""Conversations that branch: ChatGPT's export and the trees of OpenAssistant. The branch that was kept is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolkit.data.chat_messages import ROLES

MAX_TURNS = 10_000


def load_object(cell: str | None) -> dict[str, Any]:
    """Return the JSON object in a cell, or an empty one."""
    if cell is None or cell.lstrip()[:1] != "{":
        return {}
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_chatgpt_mapping(mapping: Mapping[str, Any]) -> bool:
    """Return whether an object has the nodes of a conversation that was exported from ChatGPT."""
    nodes = list(mapping.values())
    return bool(nodes) and all(isinstance(node, dict) and {"message", "parent"} <= node.keys() for node in nodes)


def read_chatgpt_mapping(mapping: Mapping[str, Any], current: str | None) -> list[dict[str, Any]] | None:
    """Return the messages from the root to the current node; without one, to the last node that none follows.

    None if there are no messages.
    """
    parents = {str(node.get("parent")) for node in mapping.values()}
    leaves = [key for key in mapping if key not in parents]
    at = current if current is not None and current in mapping else next(iter(reversed(leaves)), "")
    turns: list[dict[str, Any]] = []
    seen: set[str] = set()
    while at in mapping and at not in seen:  # a damaged file may lead in a circle
        seen.add(at)
        if turn := _chatgpt_turn(mapping[at].get("message")):
            turns.append(turn)
        at = str(mapping[at].get("parent"))
    return turns[::-1] or None


def _chatgpt_turn(message: Any) -> dict[str, Any] | None:
    """Return a message of the user, the assistant or the system; None for calls of tools and hidden messages."""
    if not isinstance(message, dict) or message.get("recipient", "all") != "all":
        return None
    author, content = message.get("author"), message.get("content")
    role = author.get("role") if isinstance(author, dict) else None
    parts = content.get("parts") if isinstance(content, dict) else None
    text = "".join(part for part in parts if isinstance(part, str)).strip() if isinstance(parts, list) else ""
    return {"role": role, "content": text} if text and role in ("user", "assistant", "system") else None


def is_reply_tree(tree: Mapping[str, Any]) -> bool:
    """Return whether an object is a message with the replies to it."""
    return isinstance(tree.get("replies"), list) and isinstance(tree.get("text"), str) and "role" in tree


def read_reply_tree(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages along the replies with the best rank."""
    turns: list[dict[str, Any]] = []
    at: Mapping[str, Any] | None = tree
    while at is not None and len(turns) < MAX_TURNS and isinstance(at.get("text"), str):
        turns.append({"role": ROLES.get(str(at.get("role")).casefold(), str(at.get("role"))), "content": at["text"]})
        replies = [reply for reply in at.get("replies") or [] if isinstance(reply, dict)]
        at = min(replies, key=_rank, default=None)
    return turns


def _rank(reply: Mapping[str, Any]) -> float:
    try:
        return float(reply["rank"])
    except (KeyError, TypeError, ValueError):
        return float("inf")
