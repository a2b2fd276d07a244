"""Conversations between people: the user chooses who answers, and the messages become turns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.data.conftest import Opener
from tests.data.shapes.test_other_conversations import said, turns_of
from toolkit.data.examples.column_suggestion import suggest_for_table

TALK = [
    ("Ann", "Where is the lamp?"),
    ("Bob", "In aisle 1."),
    ("Bob", "On the left."),
    ("Ann", "Thanks!"),
    ("Bob", "Bye."),
]
BOB = [
    ("user", "Where is the lamp?", False), ("assistant", "In aisle 1.\nOn the left.", True),
    ("user", "Thanks!", False), ("assistant", "Bye.", True),
]  # fmt: skip


@pytest.mark.parametrize(("who", "what"), [("speaker", "text"), ("name", "utterance"), ("from", "value")])
def test_a_dialogue_of_two_people_is_asked_about(open_bytes: Opener, who: str, what: str) -> None:
    rows = [{"id": at, "dialogue": [{who: speaker, what: text} for speaker, text in TALK]} for at in range(4)]
    if who == "from":
        rows = [{"id": row["id"], "talk": row["dialogue"]} for row in rows]
    content = "\n".join(map(json.dumps, rows))
    table = open_bytes(content, "json")
    offers = {offer.label: offer for offer in table.offers}
    if who == "from":  # a list with this key is a conversation whose roles are unknown
        assert not offers and suggest_for_table(table).kind == "conversations"
        return
    assert sorted(offers) == ["Learn to answer as Ann", "Learn to answer as Bob"]
    assert suggest_for_table(table).kind == "ask"
    assert "Choose who answers: 'Bob', 'Ann'." in suggest_for_table(table).notes[0]
    assert offers["Learn to answer as Bob"].preview[0] == "user: Where is the lamp?"
    chosen = open_bytes(content, "json", offers["Learn to answer as Bob"].options)
    assert said(turns_of(chosen)) == BOB
    assert "the messages of 'Bob' are the answers, as chosen" in " ".join(chosen.notices)


MESSAGES: dict[str, Any] = {
    "telegram": lambda at, who, text: {"id": at, "from": who, "text": [text[:5], {"text": text[5:]}]},
    "discord": lambda at, who, text: {"id": at, "content": text, "author": {"id": "1", "name": who, "isBot": False}},
    "slack": lambda at, who, text: {"type": "message", "user": who, "text": text, "ts": f"17000{at}.1"},
}  # fmt: skip


@pytest.mark.parametrize("program", MESSAGES)
def test_messages_of_people_become_an_exchange_for_each_answer(open_bytes: Opener, program: str) -> None:
    talk = TALK * 5
    rows = [MESSAGES[program](at, *message) for at, message in enumerate(talk)]
    content = "\n".join(map(json.dumps, rows))
    table = open_bytes(content, "json")
    assert suggest_for_table(table).kind == "ask"
    offer = next(offer for offer in table.offers if offer.options.answered_by == "Bob")
    chosen = open_bytes(content, "json", offer.options)
    assert chosen.rows == 10, "one for each answer"
    assert said(turns_of(chosen)) == BOB[:2]
    last = json.loads(chosen.row(9)["messages"] or "")
    assert [turn.get("weight", 1) for turn in last] == [0, 0, 0, 0, 0, 1], "an answer is trained once"
    assert "The messages of 'Bob' are the answers." in " ".join(chosen.notices)


def test_replies_to_a_company_are_joined_by_their_links(open_bytes: Opener) -> None:
    lines = ["tweet_id,author_id,inbound,text,in_response_to_tweet_id"]
    lines += [f"{2 * at},u{at},True,Where is {at}?," for at in range(8)]
    lines += [f"{2 * at + 1},shop,False,In aisle {at}.,{2 * at}" for at in range(8)]
    content = "\n".join(lines)
    table = open_bytes(content)
    assert suggest_for_table(table).kind == "ask"
    offer = next(offer for offer in table.offers if offer.options.answered_by == "shop")
    chosen = open_bytes(content, "csv", offer.options)
    assert chosen.rows == 8
    assert said(turns_of(chosen)) == [("user", "Where is 0?", False), ("assistant", "In aisle 0.", True)]


def test_authors_next_to_an_answer_are_no_speakers(open_bytes: Opener) -> None:
    rows = [{"author": "AB"[at % 2], "text": f"The lamp {at} is red.", "label": "xy"[at % 2]} for at in range(12)]
    table = open_bytes("\n".join(map(json.dumps, rows)), "json")
    assert not table.offers
    assert suggest_for_table(table).completion == "{label}"


@pytest.mark.parametrize("columns", ["时间,发送人,内容", "Uhrzeit,Absender,Nachricht", "Fecha,Remitente,Mensaje"])
def test_who_wrote_a_message_is_no_answer_in_other_languages(open_bytes: Opener, columns: str) -> None:
    lines = [f"2026-01-{at + 1:02d} 10:00,{('Ann', 'Bob')[at % 2]},I saw lamp {at} there." for at in range(20)]
    suggestion = suggest_for_table(open_bytes("\n".join([columns, *lines])))
    assert suggestion.kind == "ask"
    assert "names who wrote it" in suggestion.notes[0]
