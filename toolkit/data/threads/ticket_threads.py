"""Tickets of help desks: the messages of a thread, of which the customer's ask and the staff's answer.

Zendesk, Intercom, Freshdesk, Help Scout, Gorgias, Front, Jira and LiveChat write them as a list inside the ticket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.chat_messages import ROLES
from toolkit.data.conversations import looks_like_chat
from toolkit.data.examples.column_names import ANSWERS, normalize_column_name
from toolkit.data.shapes.message_cells import load_cell
from toolkit.data.shapes.other_conversations import OtherConversations
from toolkit.data.table import TableRow
from toolkit.data.threads.html_texts import is_html, strip_html
from toolkit.data.threads.message_threads import join_same_roles, order_by_time
from toolkit.data.threads.thread_columns import DIRECTIONS, list_words

_TEXT_NAMES = ("plain body", "body text", "text", "message", "msg", "content", "body", "html body", "body html")
_HTML_NAMES = ("body", "html body", "body html")
_OPENING_NAMES = ("description text", "description", "source", "body", "question", "initial message")
"""Columns with the first message, where the thread holds only what follows it."""
_STAFF_MARKS = frozenset(
    list_words(
        "from agent|is agent|by agent|is staff|from bot|is bot|from me|outgoing|is outgoing|outbound|is outbound"
    )
)
_ASKING_MARKS = frozenset(
    ("incoming", "is incoming", "inbound", "is inbound", "from customer", "from visitor", "from user", "is customer")
)
_ROLE_NAMES = frozenset(
    ("role", "author role", "author type", "sender role", "sender type", "user type", "sender", "from", "speaker")
)
_PERSON_NAMES = frozenset(("author", "sender", "from", "created by", "user", "customer"))
_STAFF = frozenset(("admin", "teammate", "staff", "team member", "a"))
_ASKING = frozenset(("contact", "lead", "requester", "v"))
_ID_NAMES = frozenset(("author id", "user id", "sender id", "from id", "agent id"))
_ID_KEYS = ("id", "accountId", "login", "email", "name")
_ASKER_NAMES = frozenset(
    list_words("requester id|requester|customer id|customer|reporter|reporter id|contact id|visitor id|submitter id")
)
_TIME_NAMES = ("created at", "timestamp", "time", "date", "sent at", "ts")
MAX_DEPTH = 3
"""Objects inside objects that are searched for the list of messages."""

Said = Mapping[str, Any]
"""A message, with its keys in lower-case words."""
Side = Callable[[Said, TableRow], str | None]
"""Returns who wrote a message of a row: "user" or "assistant"; None if it does not say so."""


def find_ticket_threads(columns: Sequence[str], rows: Sequence[TableRow]) -> OtherConversations | None:
    """Return how to read the tickets of a table, None if it has none. columns: those with cells. rows: a sample."""
    names = {normalize_column_name(column): column for column in reversed(columns)}
    if any(name in ANSWERS for name in names):
        return None  # the thread stands next to a question and its answer
    openings = [names[name] for name in _OPENING_NAMES if name in names]
    askers = [column for name, column in names.items() if name in _ASKER_NAMES]
    people = [column for name, column in names.items() if name in ("users", "participants", "members")]
    for column in columns:
        cells = [row.get(column) or "" for row in rows]
        if not any(map(_said, cells)) or any(map(looks_like_chat, cells)):
            continue
        begins = [name for name in openings if name != column][:1]
        for words, side in _sides(askers, people, column, rows):
            thread = _Thread(column, begins[0] if begins else None, side)
            if any(thread.read(row) for row in rows):
                used = (column, *begins, *askers, *people)
                return OtherConversations(tuple(dict.fromkeys(used)), thread.read, thread.describe(words, rows))
    return None


@dataclass(frozen=True)
class _Thread:
    """Reads the conversation of a row. opening: the column with the first message; side: who wrote a message."""

    column: str
    opening: str | None
    side: Side

    def read(self, row: TableRow) -> list[dict[str, Any]] | None:
        """Return the turns of a row from the first question on; None without a question and an answer."""
        turns = [
            {"role": side, "content": text}
            for message in _said(row.get(self.column))
            if (side := self.side(message, row)) is not None and (text := _text(message))
        ]
        first = _opening_text(row.get(self.opening)) if self.opening else ""
        if first and not (turns and turns[0]["role"] == "user" and _is_same(first, turns[0]["content"])):
            turns.insert(0, {"role": "user", "content": first})
        merged = join_same_roles(turns)
        return merged if len(merged) > 1 else None

    def describe(self, words: str, rows: Sequence[TableRow]) -> str:
        """Return a sentence about what is done."""
        opening = f" Each begins with the text in '{self.opening}'." if self.opening else ""
        loaded = [load_cell(row.get(self.column)) for row in rows]
        has_private = any(_is_private(message) for each in loaded for message in _find_messages(each))
        private = " Private notes are left out." if has_private else ""
        has_html = any(_written_text(message)[1] for row in rows for message in _said(row.get(self.column)))
        html = " HTML becomes plain text." if has_html else ""
        return f"The messages in '{self.column}' are read as conversations: {words}.{opening}{private}{html}"


def _said(cell: str | None) -> list[Said]:
    """Return the messages of a cell that were sent, in the order of their time if they have one; [] for none."""
    found = [message for message in _find_messages(load_cell(cell)) if not _is_private(message)]
    found = [message for message in found if _text(message)]
    times = [next((one[name] for name in _TIME_NAMES if name in one), "") for one in found]
    return [found[at] for at in order_by_time(times)]


def _find_messages(loaded: Any, depth: int = MAX_DEPTH) -> list[dict[str, Any]]:
    """Return the objects of the first list with texts in a value; [] for none."""
    if isinstance(loaded, list) and loaded and all(isinstance(each, dict) for each in loaded):
        found = [{normalize_column_name(str(key)): value for key, value in each.items()} for each in loaded]
        return found if any(map(_text, found)) else []
    if isinstance(loaded, dict) and depth:
        return next(filter(None, (_find_messages(inner, depth - 1) for inner in loaded.values())), [])
    return []


def _text(message: Said) -> str:
    text, is_marked = _written_text(message)
    return (strip_html(text) if is_marked else text).strip()


def _written_text(message: Said) -> tuple[str, bool]:
    """Return the text of a message as it is written, and whether it is HTML."""
    name = next((name for name in _TEXT_NAMES if isinstance(message.get(name), str)), None)
    text = "" if name is None else message[name]
    return text, name in _HTML_NAMES and is_html(text)


def _opening_text(cell: str | None) -> str:
    loaded = load_cell(cell)
    if isinstance(loaded, dict):
        return _text({normalize_column_name(str(key)): value for key, value in loaded.items()})
    return strip_html(cell or "").strip() if loaded is None else ""


def _is_same(first: str, other: str) -> bool:
    one, two = " ".join(first.split()), " ".join(other.split())
    return one.startswith(two) or two.startswith(one)


def _is_private(message: Said) -> bool:
    kinds = [str(message.get(name, "")).casefold() for name in ("part type", "type", "visibility")]
    is_note = any(kind in ("note", "internal", "private", "lineitem") for kind in kinds)
    hidden = any(_flag(message.get(name)) for name in ("private", "is private", "internal", "is internal", "is note"))
    is_open = (_flag(message.get(name)) for name in ("public", "is public", "jsd public"))
    return is_note or hidden or False in is_open


def _flag(value: Any) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(str(value).casefold())


def _sides(
    askers: Sequence[str], people: Sequence[str], column: str, rows: Sequence[TableRow]
) -> Iterator[tuple[str, Side]]:
    """Yield the ways to tell who wrote a message that do so for every one of the sample, with their words."""
    messages = [(message, row) for row in rows for message in _said(row.get(column))]
    roles = {_role(message) for message, _ in messages}
    # Help Scout calls its own people users, next to customers
    staff = {"user"} if roles & {"customer", "end-user", "visitor"} else set()
    sides: tuple[tuple[str, Side], ...] = (
        ("each says whether it is the customer's or an answer", lambda message, row: _marked_side(message)),
        ("the roles of their authors say which are answers", lambda message, row: _side_of_role(_role(message), staff)),
        ("what others than the customer wrote are the answers", lambda message, row: _other_side(message, row, askers)),
        ("the list of people says who answers", lambda message, row: _listed_side(message, row, people, staff)),
    )
    for words, side in sides:
        if "assistant" in (found := {side(message, row) for message, row in messages}) and None not in found:
            yield words, side


def _marked_side(message: Said) -> str | None:
    for name in message.keys() & (_STAFF_MARKS | _ASKING_MARKS):
        if (flag := _flag(message[name])) is not None:
            return "assistant" if flag == (name in _STAFF_MARKS) else "user"
    return DIRECTIONS.get(str(message.get("direction")).casefold().partition("-")[0])


def _role(message: Said) -> str:
    for name, value in message.items():
        role = value if name in _ROLE_NAMES else None
        if name in _PERSON_NAMES and isinstance(value, dict):
            role = next((value[key] for key in ("role", "type", "t") if isinstance(value.get(key), str)), None)
        if isinstance(role, str):
            return role.strip().casefold().replace("_", "-")
    return ""


def _side_of_role(role: str, staff: set[str]) -> str | None:
    if role in staff or role in _STAFF:
        return "assistant"
    side = "user" if role in _ASKING else ROLES.get(role)
    return side if side in ("user", "assistant") else None


def _author(message: Said) -> str | None:
    for name, value in message.items():
        if name in _ID_NAMES and value is not None:
            return str(value)
        if name in _PERSON_NAMES and isinstance(value, dict):
            return next((str(value[key]) for key in _ID_KEYS if value.get(key)), None)
    return None


def _other_side(message: Said, row: TableRow, askers: Sequence[str]) -> str | None:
    asking = {_id_in(row.get(column)) for column in askers} - {""}
    author = _author(message)
    return None if author is None or not asking else "user" if author in asking else "assistant"


def _id_in(cell: str | None) -> str:
    loaded = load_cell(cell)
    if isinstance(loaded, dict):
        return next((str(loaded[key]) for key in _ID_KEYS if loaded.get(key)), "")
    return (cell or "").strip()


def _listed_side(message: Said, row: TableRow, people: Sequence[str], staff: set[str]) -> str | None:
    for column in people:
        listed = load_cell(row.get(column))
        for person in listed if isinstance(listed, list) else ():
            if isinstance(person, dict) and str(person.get("id")) == _author(message):
                return _side_of_role(str(person.get("role", person.get("type"))).casefold(), staff)
    return None
