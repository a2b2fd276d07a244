"""Conversations whose turns have no roles: numbered columns and objects, and dialogues of a user and a system."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.data.conftest import Opener
from toolkit.config import DataConfig
from toolkit.data.examples.column_suggestion import suggest_for_table
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.table import Table

ASKED, SAID = [f"Where is lamp {at}?" for at in range(4)], [f"In aisle {at}." for at in range(4)]
TWO_TURNS = [("user", ASKED[0]), ("assistant", SAID[0]), ("user", ASKED[1]), ("assistant", SAID[1])]


def turns_of(table: Table, row: int = 0) -> list[tuple[str, str]]:
    suggestion = suggest_for_table(table)
    assert suggestion.kind == "conversations", suggestion
    example = renderer_of(DataConfig(messages=suggestion.messages), table.columns).example(table.row(row))
    return [(turn.role, turn.content) for turn in example.turns]


@pytest.mark.parametrize(
    "columns",
    [
        ["user_1", "assistant_1", "user_2", "assistant_2"],
        ["assistant_2", "id", "user_2", "assistant_1", "user_1"],
        ["Q1", "A1", "Q2", "A2"],
        ["prompt1", "response1", "prompt2", "response2"],
        ["turn_1_user", "turn_1_bot", "turn_2_user", "turn_2_bot"],
        ["human_message_0", "ai_message_0", "human_message_1", "ai_message_1"],
        ["Frage 1", "Antwort 1", "Frage 2", "Antwort 2"],
        ["问题1", "答案1", "问题2", "答案2"],
    ],
)
def test_numbered_columns_are_turns(open_bytes: Opener, columns: list[str]) -> None:
    cells = dict(zip(sorted(columns, key=lambda name: [c for c in name if c.isdigit()]), [""] * 9, strict=False))
    first = min(int(c) for name in columns for c in name if c.isdigit())
    for name in columns:
        number = int("".join(c for c in name if c.isdigit()) or 0) - first
        asks = name.lower().startswith(("user", "q", "prompt", "turn_1_u", "turn_2_u", "human", "frage", "问"))
        cells[name] = "7" if name == "id" else (ASKED if asks else SAID)[number]
    table = open_bytes("\n".join([",".join(columns), *[",".join(cells[name] for name in columns)] * 3]))
    assert turns_of(table) == TWO_TURNS
    assert "are read as the turns of a conversation" in " ".join(table.notices)


def test_a_row_may_have_fewer_turns(open_bytes: Opener) -> None:
    lines = [
        "user1,assistant1,user2,assistant2",
        f"{ASKED[0]},{SAID[0]},{ASKED[1]},{SAID[1]}",
        f"{ASKED[2]},{SAID[2]},,",
    ]
    table = open_bytes("\n".join(lines))
    assert turns_of(table) == TWO_TURNS
    assert turns_of(table, 1) == [("user", ASKED[2]), ("assistant", SAID[2])]


@pytest.mark.parametrize(
    "columns", ["question,answer1,answer2", "question1,question2,answer", "user_1,assistant_2,user_3,assistant_4"]
)
def test_numbers_that_pair_nothing_are_no_turns(open_bytes: Opener, columns: str) -> None:
    row = ",".join(ASKED[: columns.count(",") + 1])
    assert suggest_for_table(open_bytes("\n".join([columns, row, row, row]))).kind != "conversations"


def moss(number: int, **parts: str) -> dict[str, str]:
    return {
        "Human": f"<|Human|>: {ASKED[number]}<eoh>\n",
        "Inner Thoughts": f"<|Inner Thoughts|>: {parts.get('thoughts', 'None')}<eot>\n",
        "Commands": f"<|Commands|>: {parts.get('command', 'None')}<eoc>\n",
        "Tool Responses": f"<|Results|>: {parts.get('result', 'None')}<eor>\n",
        "MOSS": f"<|MOSS|>: {SAID[number]}<eom>\n",
    }


def test_moss_is_read_with_its_calls(open_bytes: Opener) -> None:
    called = moss(1, thoughts="I look it up.", command='Search("lamp")', result="Aisle 1")
    row = {"meta_instruction": "You are MOSS.", "chat": {"turn_2": called, "turn_1": moss(0)}, "num_turns": 2}
    table = open_bytes("\n".join([json.dumps(row)] * 3), "json")
    assert turns_of(table) == [
        ("system", "You are MOSS."),
        *TWO_TURNS[:3],
        ("assistant", ""),
        ("tool", "Aisle 1"),
        TWO_TURNS[3],
    ]
    turns = renderer_of(DataConfig(messages="messages"), table.columns).example(table.row(0)).turns
    assert turns[4].reasoning == "I look it up."
    assert json.loads(turns[4].tool_calls)[0]["function"] == {"name": "Search", "arguments": {"input": '"lamp"'}}
    assert [turn.learned for turn in turns] == [False, False, True, False, True, False, True]


TEXTS = [text for _, text in TWO_TURNS]
SPOKEN: dict[str, Any] = {
    "MultiWOZ 2.2": {"turns": [
        {"speaker": ("USER", "SYSTEM")[at % 2], "turn_id": str(at), "utterance": text, "frames": [{"a": 1}]}
        for at, text in enumerate(TEXTS)]},
    "MultiWOZ of the hub": {"turns": {"turn_id": ["0", "1", "2", "3"], "speaker": [0, 1, 0, 1], "utterance": TEXTS}},
    "MultiWOZ 2.0": {"log": [{"text": text, "metadata": {}} for text in TEXTS]},
    "WOZ": {"dialogue": [
        {"turn_idx": 0, "system_transcript": "", "transcript": TEXTS[0]},
        {"turn_idx": 1, "system_transcript": TEXTS[1], "transcript": TEXTS[2]},
        {"turn_idx": 2, "system_transcript": TEXTS[3], "transcript": "Thanks."}]},
}  # fmt: skip


@pytest.mark.parametrize("name", SPOKEN)
def test_dialogues_of_a_user_and_a_system(open_bytes: Opener, name: str) -> None:
    table = open_bytes("\n".join([json.dumps({"dialogue_id": "d", **SPOKEN[name]})] * 3), "json")
    assert turns_of(table) == TWO_TURNS
    assert ("'frames'" in " ".join(table.notices)) is (name == "MultiWOZ 2.2")


@pytest.mark.parametrize("key", ["speaker", "name", "who_said"])
def test_people_without_roles_are_still_asked_about(open_bytes: Opener, key: str) -> None:
    said = [{key: ("Ann", "Bo")[at % 2], "utterance": text} for at, text in enumerate(TEXTS)]
    suggestion = suggest_for_table(open_bytes("\n".join([json.dumps({"turns": said})] * 3), "json"))
    assert suggestion.kind == "ask"
    assert key == "who_said" or "Choose who answers" in suggestion.notes[0]
