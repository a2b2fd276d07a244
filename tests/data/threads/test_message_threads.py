"""Rows that are single messages: found by the roles that help desks write, joined by thread and in order."""

from __future__ import annotations

import json

import pytest

from tests.data.conftest import Opener
from toolkit.data.examples.column_suggestion import suggest_for_table

WORDS = {
    "author_role": ("end-user", "agent"),
    "sender_type": ("visitor", "operator"),
    "direction": ("inbound", "outbound-api"),
    "Sender": ("Client", "Support"),
}


@pytest.mark.parametrize("column", WORDS)
@pytest.mark.parametrize("thread", ["ticket_id", "conv", "id"])
def test_single_messages_are_joined_in_their_order(open_bytes: Opener, column: str, thread: str) -> None:
    asks, answers = WORDS[column]
    lines = [f"{thread},{column},created_at,private,body"]
    lines += [f"{at},{answers},2024-01-02 11:00,false,In aisle {at}." for at in range(8)]
    lines += [f"{at},{answers},2024-01-02 10:30,true,Ask Bob." for at in range(8)]
    lines += [f"{at},{asks},2024-01-02 10:00,false,Where is lamp {at}?" for at in range(8)]
    content = "\n".join(lines)
    table = open_bytes(content)
    found = suggest_for_table(table)
    offer = next(offer for offer in table.offers if offer.options.join_messages)
    assert found.kind == "ask" and offer.label in found.notes[0]
    assert [line.partition(": ")[2] for line in offer.preview] == ["Where is lamp 0?", "In aisle 0."]
    joined = open_bytes(content, "csv", offer.options)
    assert joined.rows == 8
    assert [turn["content"] for turn in json.loads(joined.row(3)["messages"] or "")] == [
        "Where is lamp 3?",
        "In aisle 3.",
    ]
    assert suggest_for_table(joined).kind == "conversations" and not joined.chats["messages"]


def test_turns_are_sorted_by_their_numbers(open_bytes: Opener) -> None:
    rows = [
        {"conversation_id": talk, "turn_index": turn, "role": ("assistant", "user")[turn % 2], "content": f"{turn}"}
        for turn in (2, 11, 10, 1)
        for talk in "ab"
    ]
    content = "\n".join(map(json.dumps, rows))
    offer = next(offer for offer in open_bytes(content, "json").offers if offer.options.join_messages)
    joined = open_bytes(content, "json", offer.options)
    assert [turn["content"] for turn in json.loads(joined.row(0)["messages"] or "")] == ["1", "2", "10", "11"]


def test_a_direction_next_to_an_answer_is_no_role(open_bytes: Opener) -> None:
    lines = ["conversation_id,direction,question,answer"]
    lines += [f"{at // 2},{'in' if at % 2 else 'out'}bound,Where is lamp {at}?,In aisle {at}." for at in range(12)]
    assert suggest_for_table(open_bytes("\n".join(lines))).completion == "{answer}"
