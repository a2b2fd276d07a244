"""Conversations as texts, trees, pairs and logs: each becomes the turns that its owner meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.data.conftest import Opener
from toolkit.config import DataConfig
from toolkit.data.chat_messages import Message
from toolkit.data.examples.column_suggestion import suggest_for_table
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.shapes.other_conversations import find_other_conversations
from toolkit.data.shapes.transcripts import read_transcript
from toolkit.data.table import Table

ASKED, SAID, MORE, DONE = "Where is the red lamp?", "In aisle 1: on the left.", "And the blue one?", "Sold."
PAIR = [("user", ASKED, False), ("assistant", SAID, True)]
FOUR = [*PAIR, ("user", MORE, False), ("assistant", DONE, True)]
SYSTEM = [("system", "Be kind.", False)]


def open_rows(open_bytes: Opener, *rows: dict[str, Any]) -> Table:
    return open_bytes("\n".join(json.dumps(row) for row in rows * 3), "json")


def turns_of(table: Table) -> tuple[Message, ...]:
    """The turns of the first row in the suggested column."""
    found = suggest_for_table(table)
    assert found.kind == "conversations"
    assert not any("converted to JSON text" in notice and f"'{found.messages}'" in notice for notice in table.notices)
    return renderer_of(DataConfig(messages=found.messages), table.columns).example(table.row(0)).turns


def said(turns: tuple[Message, ...]) -> list[tuple[str, str, bool]]:
    return [(turn.role, turn.content, turn.learned) for turn in turns]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"\n\nHuman: {ASKED}\n\nAssistant: {SAID}\n\nHuman: {MORE}\n\nAssistant: {DONE}", FOUR),
        (f"### Human: {ASKED}### Assistant: {SAID}", PAIR),
        (f"USER: {ASKED}\n\n\nASSISTANT: {SAID} <|endoftext|>\n\n\n", PAIR),
        (f"**User**: {ASKED}\n**Bot**: {SAID}", PAIR),
        (f"Customer: {ASKED}\nAgent: {SAID}\nCustomer: {MORE}\nAgent: {DONE}", FOUR),
        (f"[Visitor]: {ASKED}\n[Support]: {SAID}", PAIR),
        (f"<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n{ASKED} [/INST] {SAID} </s><s>[INST] {MORE} [/INST] {DONE} </s>",
         [*SYSTEM, *FOUR]),
        (f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n"
         f"<|im_start|>assistant\n{SAID}<|im_end|>\n", [*SYSTEM, *PAIR]),
        (f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{ASKED}<|eot_id|>"
         f"<|start_header_id|>assistant<|end_header_id|>\n\n{SAID}<|eot_id|>", PAIR),
        (f"<|user|>\n{ASKED}</s>\n<|assistant|>\n{SAID}</s>", PAIR),
        (f"<bos><start_of_turn>user\n{ASKED}<end_of_turn>\n<start_of_turn>model\n{SAID}<end_of_turn>\n", PAIR),
        (f"Below is a task.\n\n### Instruction:\n{ASKED}\n\n### Input:\nThe shop.\n\n### Response:\n{SAID}</s>",
         [("user", f"{ASKED}\n\nThe shop.", False), ("assistant", SAID, True)]),
    ],
)  # fmt: skip
def test_a_transcript_becomes_its_turns(open_bytes: Opener, text: str, expected: list[tuple[str, str, bool]]) -> None:
    table = open_rows(open_bytes, {"id": 1, "text": text})
    assert said(turns_of(table)) == expected
    assert "The texts in 'text' are transcripts" in " ".join(table.notices)


@pytest.mark.parametrize(
    "text",
    [
        f"Ann: {ASKED}\nBob: {SAID}",
        f"He wrote: User: {ASKED}",
        "A note: see [1] for more. User manual: none.",
        f"Assistant: {SAID}\nUser: {ASKED}",
        "User: \nAssistant: x",
        "",
    ],
)
def test_other_texts_are_no_transcripts(text: str) -> None:
    assert read_transcript(text) is None


def test_a_transcript_next_to_a_summary_stays_a_text(open_bytes: Opener) -> None:
    text = f"User: {ASKED}\nAssistant: {SAID}"
    found = suggest_for_table(
        open_rows(
            open_bytes, {"dialogue": text, "summary": "A lamp."}, {"dialogue": text + ".", "summary": "A red lamp."}
        )
    )
    assert (found.kind, found.prompt, found.completion) == ("pair", "{dialogue}", "{summary}")


def test_the_chosen_transcript_is_used(open_bytes: Opener) -> None:
    start = f"\n\nHuman: {ASKED}\n\nAssistant:"
    table = open_rows(open_bytes, {"rejected": f"{start} Go away.", "chosen": f"{start} {SAID}"})
    assert said(turns_of(table)) == PAIR
    assert "Those in 'rejected' are not used." in " ".join(table.notices)


def test_a_prompt_with_marks_is_joined_with_its_completion(open_bytes: Opener) -> None:
    table = open_rows(open_bytes, {"prompt": f"\n\nHuman: {ASKED}\n\nAssistant:", "completion": f" {SAID}"})
    assert said(turns_of(table)) == PAIR
    assert "OpenAI" not in " ".join(table.notices)


def test_a_system_text_goes_in_front_of_a_transcript(open_bytes: Opener) -> None:
    table = open_rows(open_bytes, {"system": "SYSTEM: Be kind.", "chat": f"USER: {ASKED}\n\nASSISTANT: {SAID}"})
    assert said(turns_of(table)) == [*SYSTEM, *PAIR]


def node(parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}, **more}
    return {"message": message if role else None, "parent": parent, "children": []}


def test_the_last_branch_of_a_chatgpt_export_is_read(open_bytes: Opener) -> None:
    mapping = {
        "r": node(None, "", ""), "s": node("r", "system", ""), "u": node("s", "user", ASKED),
        "x": node("u", "assistant", "A bad draft."), "t": node("u", "assistant", "search()", recipient="browser"),
        "a": node("t", "assistant", SAID), "z": node("x", "user", "No."),
    }  # fmt: skip
    row = {"title": "Lamps", "mapping": mapping, "current_node": "a", "moderation_results": []}
    assert said(turns_of(open_rows(open_bytes, row))) == PAIR
    assert [turn.content for turn in turns_of(open_rows(open_bytes, {**row, "current_node": None}))] == [
        ASKED,
        "A bad draft.",
    ]


@pytest.mark.parametrize(
    ("damaged", "roles"),
    [
        ({"a": node("b", "user", ASKED), "b": node("a", "assistant", SAID)}, ["assistant", "user"]),
        ({"a": {"message": None, "parent": ["a"]}, "b": {"message": None, "parent": "b"}}, []),
        ({"a": 3}, []),
        ({"a": node("gone", "user", ASKED)}, ["user"]),
    ],
)
def test_a_damaged_chatgpt_export_is_read_to_its_end(damaged: dict[str, Any], roles: list[str]) -> None:
    whole = {"mapping": json.dumps({"u": node(None, "user", ASKED), "a": node("u", "assistant", SAID)})}
    found = find_other_conversations(["mapping", "current_node"], [{**whole, "current_node": "a"}])
    assert found is not None
    turns = found.read({"mapping": json.dumps(damaged), "current_node": "a"})
    assert [turn["role"] for turn in turns or ()] == roles


def test_the_best_replies_of_a_tree_are_read(open_bytes: Opener) -> None:
    end = {"text": DONE, "role": "assistant", "replies": []}
    replies = [
        {"text": "No idea.", "role": "assistant", "rank": 1, "replies": []},
        {
            "text": SAID,
            "role": "assistant",
            "rank": 0,
            "replies": [{"text": MORE, "role": "prompter", "replies": [end]}],
        },
    ]
    row = {"message_tree_id": "t", "prompt": {"text": ASKED, "role": "prompter", "replies": replies}}
    assert said(turns_of(open_rows(open_bytes, row))) == FOUR


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"conversations": [ASKED, SAID, MORE, DONE]}, FOUR),
        ({"dialog": [{"user": ASKED, "bot": SAID}]}, PAIR),
        ({"conversation": [{"input": ASKED, "output": SAID}, {"input": MORE, "output": DONE}]}, FOUR),
        ({"turns": [{"question": ASKED, "answer": SAID}]}, PAIR),
        ({"dialogue": [{"speaker": "user", "utterance": ASKED}, {"speaker": "bot", "utterance": SAID}]}, PAIR),
        ({"chat_messages": [{"sender": "human", "text": ASKED}, {"sender": "assistant", "text": SAID}]}, PAIR),
        ({"messages": [{"author": "user", "content": ASKED}, {"author": "bot", "content": SAID}]}, PAIR),
        ({"messages": [{"role": "User", "content": ASKED}, {"role": "Chatbot", "content": SAID}]}, PAIR),
        ({"request": {"messages": [{"role": "user", "content": ASKED}]},
          "response": {"choices": [{"message": {"role": "assistant", "content": SAID}}]}}, PAIR),
        ({"input": {"messages": [{"role": "user", "content": ASKED}]},
          "output": {"role": "assistant", "content": SAID}}, PAIR),
    ],
)  # fmt: skip
def test_conversations_have_many_layouts(
    open_bytes: Opener, row: dict[str, Any], expected: list[tuple[str, str, bool]]
) -> None:
    assert said(turns_of(open_rows(open_bytes, row))) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "solution": SAID, "test_cases": [{"input": "1", "output": "2"}]},
        {"question": ASKED, "answer": SAID, "tags": ["red lamp", "shop"]},
        {"question": ASKED, "answer": SAID, "data": ["lamp", "shop"]},
    ],
)
def test_other_lists_are_no_conversations(open_bytes: Opener, row: dict[str, Any]) -> None:
    assert suggest_for_table(open_rows(open_bytes, row)).kind == "pair"


def test_tools_next_to_a_pair_are_part_of_the_conversation(open_bytes: Opener) -> None:
    tool = {"name": "find", "description": "Finds a thing.", "parameters": {"thing": {"type": "str"}}}
    call = {"name": "find", "arguments": {"thing": "red lamp"}}
    table = open_rows(open_bytes, {"id": 1, "query": ASKED, "answers": json.dumps([call]), "tools": json.dumps([tool])})
    turns = turns_of(table)
    assert [turn.role for turn in turns] == ["tools", "user", "assistant"]
    assert json.loads(turns[0].content)[0]["function"] == tool
    assert json.loads(turns[2].tool_calls)[0]["function"] == call


def test_texts_said_in_turn_and_other_speakers_are_told(open_bytes: Opener) -> None:
    table = open_rows(open_bytes, {"dialog": [ASKED, SAID]})
    assert "the user says the first one, the assistant the next." in " ".join(table.notices)
    messages = [{"role": "user", "speaker": "Ann", "content": ASKED}, {"role": "assistant", "content": SAID}]
    named = open_rows(open_bytes, {"messages": messages})
    assert "'speaker' (3)" in " ".join(named.notices)
    assert not [notice for notice in named.notices if "in turn" in notice]
    wrapped = open_rows(open_bytes, {"inputs": {"question": ASKED}, "outputs": {"answer": SAID}})
    assert wrapped.row(0) == {"inputs": ASKED, "outputs": SAID}
