"""Rows that are single messages of a thread: which columns say so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.data.chat_messages import ROLES


def list_words(words: str) -> tuple[str, ...]:
    """Return the words of a text in which bars separate them."""
    return tuple(words.split("|"))


_ROLE_NAMES = list_words(
    "role|from|speaker|sender|author|author role|message role|turn role|sender type|sender role|author type|user type|"
    "speaker type|from type"
)
_DIRECTION_NAMES = ("direction", "message direction")
DIRECTIONS = {"inbound": "user", "incoming": "user", "in": "user"}
DIRECTIONS |= {"outbound": "assistant", "outgoing": "assistant", "out": "assistant"}
"""Directions of messages, as the one who answers sees them -> roles."""
_TEXT_NAMES = list_words(
    "text|content|message|value|body|utterance|msg|message text|plain body|comment|"
    "nachricht|mensaje|mensagem|messaggio|сообщение|текст|内容|消息|メッセージ"
)
_THREAD_NAMES = list_words(
    "conversation id|conversation|thread id|thread|session id|session|dialog id|dialogue id|chat id|conv id|"
    "message tree id|topic id|conv|convo|dialogue|dialog|chat|ticket id|ticket|ticket number|case id|case number|case|"
    "call id|interaction id|group id|room id|conversation uuid|conversation hash"
)
_ORDER_NAMES = list_words(
    "turn|turn index|turn id|turn number|turn no|message index|message number|msg index|position|order|seq|sequence|"
    "sequence number|index|step|created at|timestamp|time|date|sent at|ts|datetime|created|"
    "datum|zeit|uhrzeit|fecha|hora|data|дата|время|时间|日期|日時"
)
_SHOWN_NAMES, _HIDDEN_NAMES = ("public", "is public"), ("private", "is private", "internal", "is internal")
_MESSAGE_NAMES = ("message id", "id", "msg id", "uuid", "tweet id")
_PARENT_NAMES = ("parent id", "parent", "parent message id", "reply to", "in reply to", "reply to id",
                 "in response to tweet id", "in reply to status id", "reply to message id")  # fmt: skip
_PERSON_NAMES = (
    *_ROLE_NAMES[:8],
    "from name",
    "user name",
    "username",
    "author name",
    "user",
    "name",
    "nick",
    "author id",
    *list_words(
        "absender|verfasser|expéditeur|auteur|remitente|remetente|mittente|отправитель|发送人|发送者|昵称|送信者"
    ),
)
_NAME_KEYS = ("nickname", "global_name", "name", "username", "login", "id")
MAX_PERSONS, MIN_MESSAGES_PER_PERSON = 50, 2.0
"""A column names the people who wrote messages if it has at most this many, each with this many rows on average."""
MIN_SHARE_OF_ONE = 0.2
"""Or if one of them, such as a company that many customers write to, wrote this share of the messages."""


@dataclass(frozen=True)
class ThreadColumns:
    """The columns of single messages. thread: of the conversation; message, parent: of a message and the one before.

    Without thread, and without message and parent, the rows follow each other as in the file. persons: those whom the
    column `role` names, most messages first; without any it has roles. answered_by: whose messages are the answers.
    order: says which message of a thread comes first. public, private: columns that mark notes which were not sent.
    """

    role: str
    text: str
    thread: str | None
    message: str | None
    parent: str | None
    persons: tuple[str, ...] = ()
    answered_by: str | None = None
    order: str | None = None
    public: str | None = None
    private: str | None = None

    @property
    def are_in_file_order(self) -> bool:
        return self.thread is None and self.parent is None

    @property
    def needed(self) -> tuple[str, ...]:
        found = (self.role, self.text, self.thread, self.message, self.parent, self.order, self.public, self.private)
        return tuple(dict.fromkeys(name for name in found if name is not None))


def find_thread_columns(names: Mapping[str, str], rows: Sequence[Mapping[str, str | None]]) -> ThreadColumns | None:
    """Return the columns of single messages, or None if rows are something else.

    names: normalized name -> column. rows: a sample.
    """
    role = next((names[name] for name in _ROLE_NAMES if name in names and _are_roles(names[name], rows)), None)
    thread = _first(names, _THREAD_NAMES, (role,)) or _repeated_id(names, rows)
    if role is None and thread is not None:
        role = next((names[name] for name in _DIRECTION_NAMES if name in names and _are_roles(names[name], rows)), None)
    persons: tuple[str, ...] = ()
    if role is None:
        role, persons = _find_persons(names, rows)
    text = _first(names, _TEXT_NAMES, (role,))
    if role is None or text is None:
        return None
    used = (role, text)
    thread = thread if thread not in used else _first(names, _THREAD_NAMES, used)
    message, parent = (_first(names, wanted, (*used, thread)) for wanted in (_MESSAGE_NAMES, _PARENT_NAMES))
    linked = message is not None and parent is not None
    return ThreadColumns(
        role,
        text,
        thread,
        *((message, parent) if linked else (None, None)),
        persons,
        order=_first(names, _ORDER_NAMES, (*used, thread)),
        public=_first(names, _SHOWN_NAMES, used),
        private=_first(names, _HIDDEN_NAMES, used),
    )


def _first(names: Mapping[str, str], wanted: Sequence[str], used: Sequence[str | None]) -> str | None:
    return next((names[name] for name in wanted if name in names and names[name] not in used), None)


def _repeated_id(names: Mapping[str, str], rows: Sequence[Mapping[str, str | None]]) -> str | None:
    """Return the column `id` if its rows share their ids: then it is that of a conversation."""
    ids = Counter(row.get(names["id"]) for row in rows) if "id" in names else Counter[str | None]()
    return names["id"] if len(ids) > 1 and max(ids.values()) > 1 and 2 * len(ids) <= len(rows) else None


def _find_persons(
    names: Mapping[str, str], rows: Sequence[Mapping[str, str | None]]
) -> tuple[str | None, tuple[str, ...]]:
    """Return the column that names who wrote each message, with these people; (None, ()) if none does."""
    for name in _PERSON_NAMES:
        found = Counter(read_person(row.get(names[name])) for row in rows) if name in names else Counter()
        found.pop("", None)
        total = sum(found.values())
        is_small = len(found) <= MAX_PERSONS and total >= MIN_MESSAGES_PER_PERSON * len(found)
        is_led = max(found.values(), default=0) >= MIN_SHARE_OF_ONE * total
        if len(found) > 1 and total > len(rows) / 2 and (is_small or is_led):
            return names[name], tuple(person for person, _ in found.most_common(MAX_PERSONS))
    return None, ()


def read_person(cell: str | None) -> str:
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
    spoken = {spoken_role(row.get(column)) for row in rows}
    return {"user", "assistant"} <= spoken and None not in spoken


def spoken_role(cell: str | None) -> str | None:
    """Return the role that a cell names, as itself or as a direction; None for anything else."""
    word = (cell or "").strip().casefold()
    return ROLES.get(word) or DIRECTIONS.get(word.partition("-")[0])
