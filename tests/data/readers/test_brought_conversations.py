"""Conversations as people bring them: each file becomes the turns that its owner meant, or says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import Opener
from toolkit.config import Config, DataConfig
from toolkit.data.chat_messages import Message
from toolkit.data.doctor.checks import examine_dataset, list_findings
from toolkit.data.doctor.text_checks import remove_unusual_characters
from toolkit.data.examples.column_suggestion import suggest_for_table
from toolkit.data.examples.renderers import chat_problems, renderer_of
from toolkit.data.findings import Finding
from toolkit.data.table import Table

BROUGHT = Path(__file__).parents[2] / "fixtures" / "brought"
ASKED, ANSWERED = "Where do I find the red lamp?", "Aisle 1, next to the chairs."
SYSTEM = ("system", "You are a clerk.", False)
PAIR = [("user", ASKED, False), ("assistant", ANSWERED, True)]


def turns_of(table: Table, row: int = 0) -> tuple[Message, ...]:
    """The turns of a row in the suggested column of conversations."""
    column = suggest_for_table(table).messages
    assert column is not None
    assert chat_problems(DataConfig(messages=column), table) == []
    return renderer_of(DataConfig(messages=column), table.columns).example(table.row(row)).turns


def said(turns: tuple[Message, ...]) -> list[tuple[str, str, bool]]:
    return [(turn.role, turn.content, turn.learned) for turn in turns]


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        (
            "s03_sharegpt_system_column.json",
            "conversations",
            [("system", "You answer like a calm shop clerk.", False), *PAIR],
        ),
        (
            "s04_alpaca_history_system.json",
            "messages",
            [
                ("system", "You are a shop clerk.", False),
                ("user", ASKED, False),
                ("assistant", "Aisle 2, next to the clocks.", True),
                ("user", "And the red one?", False),
                ("assistant", ANSWERED, True),
            ],
        ),
        ("s05_reasoning_content.jsonl", "messages", [("user", "What is 0 plus 2?", False), ("assistant", "2", True)]),
        (
            "s06_train_false.jsonl",
            "messages",
            [
                ("user", ASKED, False),
                ("assistant", "WRONG DRAFT, do not learn", False),
                ("user", "Try again.", False),
                ("assistant", ANSWERED, True),
            ],
        ),
        ("s08_trl_conversational.jsonl", "messages", [SYSTEM, *PAIR]),
        ("s13_tools_empty.jsonl", "messages", PAIR),
        ("i18b_chat_arrays_lines.jsonl", "messages", PAIR),
        ("s07_consecutive_user.jsonl", "messages", [("user", "Hello", False), *PAIR]),
        ("s15_roles_spaced_case.jsonl", "conversations", PAIR),
        ("i16_gemini_contents.jsonl", "contents", [SYSTEM, *PAIR]),
    ],
)
def test_a_file_becomes_the_conversation_that_was_meant(
    open_bytes: Opener, name: str, column: str, expected: list[tuple[str, str, bool]]
) -> None:
    table = open_bytes((BROUGHT / name).read_bytes(), "json")
    suggestion = suggest_for_table(table)
    assert (suggestion.kind, suggestion.messages) == ("conversations", column)
    assert said(turns_of(table)) == expected
    assert table.missing[column] == 0
    assert "older fine-tuning format" not in " ".join(table.notices)


def test_reasoning_is_part_of_the_trained_turn(open_bytes: Opener) -> None:
    table = open_bytes((BROUGHT / "s05_reasoning_content.jsonl").read_bytes(), "json")
    assert turns_of(table)[-1].reasoning == "I add 0 and 2, that makes 2."
    example = renderer_of(DataConfig(messages="messages"), table.columns).example(table.row(0))
    assert example.completion == "<think>\nI add 0 and 2, that makes 2.\n</think>\n2"


def chats(*messages: dict[str, Any], **more: Any) -> str:
    """A file with the same row twice."""
    return "\n".join([json.dumps({"messages": list(messages), **more})] * 2)


USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"a": 1}}}


@pytest.mark.parametrize("key", ["train", "weight", "loss_mask", "trainable", "loss"])
@pytest.mark.parametrize("value", [False, 0, "false", "0", 0.0])
def test_a_key_decides_what_is_trained(open_bytes: Opener, key: str, value: Any) -> None:
    table = open_bytes(chats(USER, {**ANSWER, key: value}, USER, {**ANSWER, key: True}), "json")
    assert [turn.learned for turn in turns_of(table)] == [False, False, False, True]
    assert not [notice for notice in table.notices if "Not used" in notice]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_several_names(open_bytes: Opener, key: str) -> None:
    assert turns_of(open_bytes(chats(USER, {**ANSWER, key: "because"}), "json"))[-1].reasoning == "because"


def test_other_keys_of_messages_are_named_with_their_rows(open_bytes: Opener) -> None:
    content = chats({**USER, "mood": "glad", "name": None}, {**ANSWER, "mood": "calm"}) + "\n" + chats(USER, ANSWER)
    notices = " ".join(open_bytes(content, "json").notices)
    assert "keys of messages in 'messages', with their number of rows: 'mood' (2)." in notices
    marked = open_bytes(chats({**USER, "train": True}, ANSWER), "json")
    assert "'train' (2)" in " ".join(marked.notices), "only the assistant is trained"


def test_other_columns_are_named_as_unused(open_bytes: Opener) -> None:
    table = open_bytes(chats(USER, ANSWER, id=1, source="shop", empty="", system="Be kind."), "json")
    (note,) = suggest_for_table(table).notes
    assert note == "Not used for training: columns 'id', 'source'."


@pytest.mark.parametrize("tools", [[], None, "", "[]", {}])
def test_no_tool_is_no_tool(open_bytes: Opener, tools: Any) -> None:
    table = open_bytes(chats(USER, ANSWER, tools=tools), "json")
    assert said(turns_of(table)) == [("user", "hi", False), ("assistant", "ho", True)]
    assert suggest_for_table(table).notes == ()


@pytest.mark.parametrize(
    "tools", [[TOOL], json.dumps([TOOL]), [TOOL["function"]], [{"functionDeclarations": [TOOL["function"]]}]]
)
@pytest.mark.parametrize("name", ["tools", "functions"])
def test_tools_calls_and_results_are_kept(open_bytes: Opener, name: str, tools: Any) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **CALL}]}
    result = {"role": "tool", "tool_call_id": "c1", "name": "find", "content": "22"}
    turns = turns_of(open_bytes(chats(USER, call, result, ANSWER, **{name: tools}), "json"))
    assert [turn.role for turn in turns] == ["tools", "user", "assistant", "tool", "assistant"]
    assert json.loads(turns[0].content) == [TOOL]
    assert json.loads(turns[2].tool_calls) == [{"id": "c1", **CALL}]
    assert [turn.learned for turn in turns] == [False, False, True, False, True]
    assert (turns[3].name, turns[3].tool_call_id, turns[3].content) == ("find", "c1", "22")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": '{"a": 1}'}}]},
        {"role": "assistant", "content": "", "function_call": {"name": "find", "arguments": '{"a": 1}'}},
        {"from": "function_call", "value": '{"name": "find", "arguments": {"a": 1}}'},
        {"role": "model", "parts": [{"functionCall": {"name": "find", "args": {"a": 1}}}]},
        {"role": "assistant", "tool_calls": json.dumps([CALL])},
    ],
)
def test_a_tool_call_has_several_spellings(open_bytes: Opener, message: dict[str, Any]) -> None:
    first = {"from": "human", "value": "hi"} if "from" in message else USER
    (call,) = json.loads(turns_of(open_bytes(chats(first, message), "json"))[-1].tool_calls)
    assert call == CALL


@pytest.mark.parametrize(
    ("message", "role"),
    [
        ({"role": "tool", "content": "22"}, "tool"),
        ({"role": "function", "name": "find", "content": "22"}, "tool"),
        ({"from": "observation", "value": "22"}, "tool"),
        ({"role": "tool", "content": [{"type": "text", "text": "22"}]}, "tool"),
        ({"role": "user", "content": [{"type": "input_text", "text": "2"}, {"type": "text", "text": "2"}]}, "user"),
        ({"role": " User ", "content": "22"}, "user"),
    ],
)
def test_results_and_parts_are_text(open_bytes: Opener, message: dict[str, Any], role: str) -> None:
    answer = {"role": "assistant", "content": [{"type": "output_text", "text": "ho"}]}
    turns = turns_of(open_bytes(chats(USER, message, answer), "json"))
    assert [(turn.role, turn.content) for turn in turns[1:]] == [(role, "22"), ("assistant", "ho")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"input": {"messages": [USER], "tools": [], "parallel_tool_calls": True}, "preferred_output": [ANSWER],
             "non_preferred_output": [{**ANSWER, "content": "bad"}]},
            [("user", "hi", False), ("assistant", "ho", True)],
        ),
        (
            {"prompt": [USER, ANSWER, USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "bad"}]},
            [("user", "hi", False), ("assistant", "ho", False), ("user", "hi", False), ("assistant", "ho", True)],
        ),
        (
            {"prompt": "hi", "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "bad"}]},
            [("user", "hi", False), ("assistant", "ho", True)],
        ),
        (
            {"conversations": [{"from": "human", "value": "hi"}], "chosen": {"from": "gpt", "value": "ho"},
             "rejected": {"from": "gpt", "value": "bad"}},
            [("user", "hi", False), ("assistant", "ho", True)],
        ),
        (
            {"prompt": [{"role": "system", "content": "be"}, USER], "completion": "ho"},
            [("system", "be", False), ("user", "hi", False), ("assistant", "ho", True)],
        ),
        (
            {"system_prompt": "be", "question": "hi", "response": "ho"},
            [("system", "be", False), ("user", "hi", False), ("assistant", "ho", True)],
        ),
        (
            {"conversation": [{"human": "hi", "assistant": "ho"}, {"human": "and", "assistant": "so"}]},
            [("user", "hi", False), ("assistant", "ho", True), ("user", "and", False), ("assistant", "so", True)],
        ),
    ],
)  # fmt: skip
def test_parts_in_several_columns_are_joined(
    open_bytes: Opener, row: dict[str, Any], expected: list[tuple[str, str, bool]]
) -> None:
    table = open_bytes("\n".join([json.dumps(row)] * 3), "json")
    assert said(turns_of(table)) == expected
    assert "bad" not in str(turns_of(table))


def test_a_bad_completion_of_a_conversation_is_skipped(open_bytes: Opener) -> None:
    rows = [{"prompt": [USER], "completion": [{**ANSWER, "content": str(at)}], "label": at % 2 == 0} for at in range(6)]
    table = open_bytes("\n".join(map(json.dumps, rows)), "json")
    assert table.missing["messages"] == 3
    assert "false 'label' are skipped" in " ".join(table.notices)


def test_a_system_text_is_not_doubled(open_bytes: Opener) -> None:
    own = {"role": "system", "content": "own"}
    assert said(turns_of(open_bytes(chats(own, USER, ANSWER, system="other"), "json")))[0] == ("system", "own", False)


def test_what_is_no_conversation_stays_a_pair(open_bytes: Opener) -> None:
    rows = [{"prompt": f"q{at}", "completion": f"a{at}", "system": "", "history": []} for at in range(4)]
    suggestion = suggest_for_table(open_bytes("\n".join(map(json.dumps, rows)), "json"))
    assert (suggestion.kind, suggestion.prompt, suggestion.completion) == ("pair", "{prompt}", "{completion}")


def findings_of(table: Table, column: str = "messages") -> dict[str, Finding]:
    config = Config.model_validate({"data": {"messages": column}})
    return {finding.kind: finding for finding in list_findings(table, config)}


def test_empty_and_contradictory_answers_of_conversations_are_found(open_bytes: Opener) -> None:
    found = findings_of(open_bytes((BROUGHT / "x20_chat_empty_and_contradict.jsonl").read_bytes(), "json"))
    assert found["empty_answer"].count == 2
    assert found["contradiction"].count == 12
    assert "12 trained messages share a prompt with a message" in found["contradiction"].message
    assert {fix.action for finding in found.values() for fix in finding.fixes} == {"drop"}
    assert findings_of(open_bytes((BROUGHT / "x6_empty_assistant.jsonl").read_bytes(), "json"))["empty_answer"].count


def test_what_was_looked_for_is_what_was_checked(open_bytes: Opener) -> None:
    chat = examine_dataset(
        open_bytes(chats(USER, ANSWER) + "\n" + chats(ANSWER), "json"), DataConfig(messages="messages")
    )
    assert {"empty answers", "contradictory answers", "imbalanced labels", "near duplicates"} <= set(chat.checked)
    assert not {"wrong columns", "empty prompts"} & set(chat.checked), "a conversation has no templates"
    pair = examine_dataset(open_bytes("q,a\nb,c\nd,e\n"), DataConfig(prompt="{q}", prompt_stub="{a}"))
    assert {"wrong columns", "empty prompts", "contradictory answers"} <= set(pair.checked)


def test_findings_are_those_of_the_trained_messages(open_bytes: Opener) -> None:
    rows = [[{"role": "user", "content": f"q{at}"}, {**ANSWER, "content": f"label {at % 2}"}] for at in range(60)]
    rows[3] = [*rows[3][:1], {**ANSWER, "content": " ", "weight": 0}, USER, ANSWER]
    rows[5][1]["content"] = "N/A"
    for at in range(10, 59):
        rows[at][1]["content"] = "label 0"
    rows[7] = [*rows[6], {"role": "user", "content": "more"}, {**ANSWER, "content": ""}]
    found = findings_of(open_bytes("\n".join(json.dumps({"messages": row}) for row in rows), "json"))
    assert found["empty_answer"].rows.tolist() == [7], "an answer that is not trained may be empty"
    assert found["missing_word"].rows.tolist() == [5]
    assert "contradiction" not in found, "the same opening with the same answer contradicts nothing"


def test_uneven_labels_of_conversations(open_bytes: Opener) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"q{at}"}, {**ANSWER, "content": "no" if at % 20 else "yes"}]}
        for at in range(200)
    ]
    found = findings_of(open_bytes("\n".join(map(json.dumps, rows)), "json"))
    assert found["imbalance"].count == 10
    constant = findings_of(open_bytes("\n".join(json.dumps(row) for row in rows if '"no"' in json.dumps(row)), "json"))
    assert constant["constant"].weight == "serious"


def test_control_characters_of_conversations_are_found_and_removed(open_bytes: Opener) -> None:
    rows = [[USER, {**ANSWER, "content": f"a{at}"}] for at in range(4)]
    rows[1][1]["content"] = "ring\x07 twice\x0c"
    rows[2][1]["content"] = r"a path C:\\new\\front and \\u0007"
    found = findings_of(open_bytes("\n".join(json.dumps({"messages": row}) for row in rows), "json"))
    assert found["unusual"].rows.tolist() == [1]
    assert "U+0007" in found["unusual"].message
    cleaned = remove_unusual_characters(json.dumps(rows[1]))
    assert json.loads(cleaned)[1]["content"] == "ring twice"
    assert remove_unusual_characters(json.dumps(rows[2])) == json.dumps(rows[2])


def test_single_messages_are_joined_by_their_parents(open_bytes: Opener) -> None:
    content = (BROUGHT / "s18_row_per_message.csv").read_bytes()
    (offer,) = open_bytes(content).offers
    assert offer.label == "Join the 24 messages into conversations"
    suggestion = suggest_for_table(open_bytes(content))
    assert suggestion.kind == "ask"
    assert offer.label in suggestion.notes[0] and suggestion.notes[0].startswith("Each row is a single message.")
    table = open_bytes(content, "csv", offer.options)
    assert (table.rows, table.columns) == (12, ("messages",))
    assert said(turns_of(table)) == PAIR
    assert "24 messages were joined into 12 conversations" in " ".join(table.notices)


def test_a_tree_of_messages_becomes_its_paths(open_bytes: Opener) -> None:
    rows = [("1", "", "prompter", "q"), ("2", "1", "assistant", "a"), ("3", "1", "assistant", "b"),
            ("4", "2", "prompter", "more"), ("5", "4", "assistant", "c"), ("6", "4", "assistant", "d")]  # fmt: skip
    content = "message_id,parent_id,role,text\n" + "".join(",".join(row) + "\n" for row in rows)
    (offer,) = open_bytes(content).offers
    table = open_bytes(content, "csv", offer.options)
    found = [said(turns_of(table, row)) for row in range(table.rows)]
    assert [[turn[1] for turn in turns] for turns in found] == [
        ["q", "b"],
        ["q", "a", "more", "c"],
        ["q", "a", "more", "d"],
    ]
    assert [turn[2] for turn in found[1]] == [False, True, False, True]
    assert [turn[2] for turn in found[2]] == [False, False, False, True], "an answer is trained once"


@pytest.mark.parametrize("name", ["conversation_id", "thread_id", "session_id"])
def test_single_messages_are_joined_by_their_conversation(open_bytes: Opener, name: str) -> None:
    rows = [
        {name: at // 2, "role": ("user", "assistant")[at % 2], "content": f"m{at}", "lang": "en"} for at in range(8)
    ]
    content = "\n".join(map(json.dumps, rows))
    (offer,) = open_bytes(content, "json").offers
    table = open_bytes(content, "json", offer.options)
    assert table.rows == 4
    assert said(turns_of(table, 1)) == [("user", "m2", False), ("assistant", "m3", True)]
    assert "Not used: lang." in " ".join(table.notices)


@pytest.mark.parametrize(
    ("roles", "lengths"),
    [
        (["system", "user", "assistant", "system", "user", "assistant", "user", "assistant"], [3, 5]),
        (["human", "gpt"] * 3, [6]),
    ],
)
def test_messages_that_nothing_links_are_joined_in_their_order(
    open_bytes: Opener, roles: list[str], lengths: list[int]
) -> None:
    content = "speaker,utterance\n" + "".join(f"{role},m{at}\n" for at, role in enumerate(roles))
    found = open_bytes(content)
    (offer,) = found.offers
    assert "in the order of the file; a system message begins a conversation" in offer.label
    assert offer.label in suggest_for_table(found).notes[0]
    table = open_bytes(content, "csv", offer.options)
    assert [len(turns_of(table, row)) for row in range(table.rows)] == lengths
    last = said(turns_of(table, table.rows - 1))[-1]
    assert last == ("assistant", f"m{len(roles) - 1}", True)


def test_a_file_that_is_one_conversation_can_be_read_as_one(open_bytes: Opener) -> None:
    content = (BROUGHT / "i18_one_conversation_file.json").read_bytes()
    (offer,) = open_bytes(content, "json").offers
    table = open_bytes(content, "json", offer.options)
    assert table.rows == 1 and len(turns_of(table)) == 21
    assert "21 messages were joined into 1 conversation, as chosen." in " ".join(table.notices)


def test_messages_of_persons_without_a_role_are_joined_for_a_chosen_one_only(open_bytes: Opener) -> None:
    table = open_bytes((BROUGHT / "i17_telegram_export.json").read_bytes(), "json")
    assert all(offer.options.answered_by for offer in table.offers if offer.options.join_messages)
    assert "Each row is a single message" in suggest_for_table(table).notes[0]


@pytest.mark.parametrize("name", ["label", "kto_tag", "is_good"])
def test_conversations_that_are_marked_as_bad_are_skipped(open_bytes: Opener, name: str) -> None:
    rows = [{"messages": [USER, {**ANSWER, "content": f"ho {at}"}], name: at % 2 == 0} for at in range(8)]
    table = open_bytes("\n".join(map(json.dumps, rows)), "json")
    assert (suggest_for_table(table).messages, table.missing["messages"]) == ("messages", 4)
    assert f"Rows with a false '{name}' are skipped: their answers are marked as bad." in table.notices
    good = [{**row, name: True} for row in rows]
    assert open_bytes("\n".join(map(json.dumps, good)), "json").missing["messages"] == 0


def test_doctors_and_texts_behind_roles_are_read(open_bytes: Opener) -> None:
    spoken = [{"utterances": [f"Patient: {ASKED}", f"Doctor: {ANSWERED}"]}] * 3
    assert said(turns_of(open_bytes("\n".join(map(json.dumps, spoken)), "json"))) == PAIR
    named = [{"dialog": [{"role": "patient", "content": ASKED}, {"role": "doctor", "content": ANSWERED}]}] * 3
    assert said(turns_of(open_bytes("\n".join(map(json.dumps, named)), "json"))) == PAIR
