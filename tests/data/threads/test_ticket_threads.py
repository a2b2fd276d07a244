"""Tickets of help desks become conversations: the customer asks, the staff answers, and private notes stay out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.data.conftest import Opener
from tests.data.shapes.test_other_conversations import FOUR, open_rows, said, turns_of
from toolkit.data.examples.column_suggestion import suggest_for_table
from toolkit.data.threads.html_texts import strip_html

ASKED, SAID, MORE, DONE = (turn[1] for turn in FOUR)
NOTE = "The customer is angry."
THREAD = [("c", ASKED), ("s", SAID), ("note", NOTE), ("c", MORE), ("s", DONE)]


def comments(write: Any, thread: list[tuple[str, str]] = THREAD) -> list[dict[str, Any]]:
    return [write(at, who == "c", who == "note", text) for at, (who, text) in enumerate(thread)]


TICKETS: dict[str, dict[str, Any]] = {
    "zendesk by ids": {
        "id": 7, "subject": "Lamps", "description": ASKED, "status": "closed", "requester_id": 5, "assignee_id": 9,
        "comments": comments(
            lambda at, asks, hidden, text: {
                "id": at, "author_id": 5 if asks else 9, "public": not hidden, "body": f"**{text}**",
                "plain_body": text, "created_at": f"2024-01-02T10:0{at}:00Z",
            }
        ),
    },
    "zendesk by roles": {
        "ticket_id": 7, "subject": "Lamps",
        "comments": comments(
            lambda at, asks, hidden, text: {
                "author": {"id": 5, "role": "end-user" if asks else "agent"}, "public": not hidden, "body": text,
            }
        ),
    },
    "intercom": {
        "type": "conversation", "id": "7", "source": {"body": f"<p>{ASKED}</p>", "author": {"type": "user", "id": "5"}},
        "conversation_parts": {
            "total_count": 4,
            "conversation_parts": comments(
                lambda at, asks, hidden, text: {
                    "part_type": "note" if hidden else "comment", "body": f"<p>{text}</p>",
                    "author": {"type": "user" if asks else "admin", "id": "1"},
                },
                THREAD[1:],
            ),
        },
    },
    "freshdesk": {
        "id": 7, "requester_id": 5, "description": f"<div>{ASKED}</div>", "description_text": ASKED,
        "conversations": comments(
            lambda at, asks, hidden, text: {
                "body_text": text, "body": f"<div>{text}</div>", "incoming": asks, "private": hidden, "user_id": 9,
            },
            THREAD[1:],
        ),
    },
    "help scout, the latest first": {
        "id": 7, "subject": "Lamps",
        "_embedded": {
            "threads": comments(
                lambda at, asks, hidden, text: {
                    "type": "note" if hidden else "message", "body": text, "createdAt": f"2024-01-02T10:0{at}:00Z",
                    "createdBy": {"type": "customer" if asks else "user"},
                }
            )[::-1]
        },
    },
    "gorgias": {
        "id": 7, "messages": comments(
            lambda at, asks, hidden, text: {"from_agent": not asks, "public": not hidden, "body_text": text}
        ),
    },
    "jira": {
        "key": "SUP-7",
        "fields": {
            "summary": "Lamps", "description": ASKED, "reporter": {"accountId": "c", "displayName": "Ann"},
            "comment": {
                "comments": comments(
                    lambda at, asks, hidden, text: {
                        "author": {"accountId": "c" if asks else "s"}, "body": text, "jsdPublic": not hidden,
                    },
                    THREAD[1:],
                )
            },
        },
    },
    "livechat": {
        "id": "7", "users": [{"id": "c", "type": "customer"}, {"id": "s", "type": "agent"}],
        "thread": {
            "events": comments(
                lambda at, asks, hidden, text: {"author_id": "c" if asks else "s", "text": text, "private": hidden}
            )
        },
    },
    "support words": {
        "id": 7, "dialog": comments(
            lambda at, asks, hidden, text: {
                "sender": "visitor" if asks else "support", "message": text, "internal": hidden,
            }
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize("program", TICKETS)
def test_a_ticket_becomes_a_conversation(open_bytes: Opener, program: str) -> None:
    table = open_rows(open_bytes, TICKETS[program])
    assert said(turns_of(table)) == FOUR
    (notice,) = (notice for notice in table.notices if "are read as conversations" in notice)
    assert "Private notes are left out." in notice
    column = notice.split("'")[1]
    assert not any(f"'{column}' were converted to JSON text" in other for other in table.notices), "said otherwise"
    assert ("HTML becomes plain text." in notice) == (program == "intercom")


def test_a_ticket_without_an_answer_is_skipped(open_bytes: Opener) -> None:
    ticket = TICKETS["freshdesk"]
    table = open_rows(open_bytes, ticket, {**ticket, "conversations": []})
    assert [bool(table.row(at)["messages"]) for at in range(4)] == [True, False, True, False]


def test_comments_next_to_an_answer_are_no_conversation(open_bytes: Opener) -> None:
    rows = [{"question": f"{ASKED} {at}", "answer": f"{SAID} {at}", **TICKETS["gorgias"]} for at in range(8)]
    found = suggest_for_table(open_rows(open_bytes, *rows))
    assert (found.prompt, found.completion) == ("{question}", "{answer}")


def test_comments_of_unknown_people_are_no_conversation(open_bytes: Opener) -> None:
    row = {"title": "Lamps", "comments": [{"author": {"login": "x"}, "body": ASKED}, {"author": None, "body": SAID}]}
    assert suggest_for_table(open_rows(open_bytes, row)).kind == "ask"


@pytest.mark.parametrize(
    "thread", [[{"": 1}], [{"": {}, "body": 1}], {"a": [{"public": [], "author": [], "text": ""}]}]
)
def test_objects_of_any_kind_are_no_thread(open_bytes: Opener, thread: Any) -> None:
    assert open_rows(open_bytes, {"a": thread, "requester_id": 5}).columns == ("a", "requester_id")


def test_html_becomes_lines_of_text() -> None:
    assert strip_html("<p>One &amp; <b>two</b></p><style>p {}</style><div>three<br>four&nbsp;</div>") == (
        "One & two\nthree\nfour"
    )
    assert strip_html("a <b> c") == "a <b> c"
