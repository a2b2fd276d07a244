"""Exports of tools and logs of APIs: rows inside objects, messages of LangChain, answers next to messages, replies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.data.conftest import Opener
from tests.data.shapes.test_other_conversations import said, turns_of
from toolkit.config import DataConfig
from toolkit.data.doctor.checks import examine_dataset
from toolkit.data.examples.column_suggestion import suggest_for_table
from toolkit.data.read_options import UnreadableError
from toolkit.errors import DataError

ASK, TELL = "Where is the lamp?", "In aisle 1."
PAIR = {"question": ASK, "answer": TELL}


def lines(row: Any, count: int = 6) -> str:
    return "\n".join([json.dumps(row)] * count)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"features": [{"name": "q"}, {"name": "a"}], "rows": [{"row_idx": 0, "row": PAIR}] * 3}),
        json.dumps({"hits": {"total": {"value": 3}, "hits": [{"_id": "1", "_source": PAIR}] * 3}, "_shards": {"n": 1}}),
        json.dumps({"data": [{"id": 1, "attributes": PAIR}] * 3, "meta": {"page": 1}}),
        json.dumps({"records": [{"id": "r", "fields": PAIR}] * 3}),
        lines({"item": PAIR}),
        lines({"id": "u", "fields": PAIR, "responses": {"quality": [{"value": 3}]}}),
    ],
)
def test_a_row_inside_an_object_is_taken_out(open_bytes: Opener, content: str) -> None:
    table = open_bytes(content, "json")
    assert {"question", "answer"} <= set(table.columns)
    assert table.row(1)["answer"] == TELL
    assert "The columns are those of the object" in " ".join(table.notices)


@pytest.mark.parametrize("row", [{"question": ASK, "data": PAIR}, {"id": 1, "data": {"x": 1}}, {"data": "text"}])
def test_an_object_next_to_its_question_stays(open_bytes: Opener, row: dict[str, Any]) -> None:
    assert open_bytes(lines(row), "json").columns == tuple(row)


def test_two_languages_inside_an_object_are_columns(open_bytes: Opener) -> None:
    assert open_bytes(lines({"translation": {"en": ASK, "de": TELL}}), "json").columns == ("en", "de")


CALL = {"name": "find", "args": {"what": "lamp"}, "id": "c"}
HUMAN = {"lc": 1, "id": ["langchain", "schema", "HumanMessage"], "kwargs": {"content": ASK}}
AI = {"lc": 1, "id": ["langchain", "schema", "AIMessageChunk"], "kwargs": {"content": TELL}}
USER, ASSISTANT = {"role": "user", "content": ASK}, {"role": "assistant", "content": TELL}
EXCHANGE = [("user", ASK, False), ("assistant", TELL, True)]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"type": "human", "content": ASK}, {"type": "ai", "content": TELL}]},
        [{"type": "human", "data": {"content": ASK}}, {"type": "ai", "data": {"content": TELL}}],
        {"inputs": {"messages": [[HUMAN]]}, "outputs": {"generations": [[{"text": TELL, "message": AI}]]}},
        {"inputs": {"messages": [USER]}, "outputs": {"message": ASSISTANT}},
        {"input": [USER], "ideal": TELL},
        {"messages": [USER], "reference_answer": TELL},
        {"messages": [USER], "response": {"choices": [{"message": ASSISTANT}]}},
    ],
)
def test_messages_of_logs_are_conversations(open_bytes: Opener, row: Any) -> None:
    table = open_bytes(json.dumps([row] * 4), "json")
    assert suggest_for_table(table).messages == "messages"
    assert said(turns_of(table)) == EXCHANGE


def test_the_system_text_inside_a_request_is_kept(open_bytes: Opener) -> None:
    row = {"request": {"system": "Be kind.", "messages": [USER]}, "response": ASSISTANT}
    assert said(turns_of(open_bytes(lines(row), "json"))) == [("system", "Be kind.", False), *EXCHANGE]


def test_a_call_of_langchain_is_a_tool_call(open_bytes: Opener) -> None:
    row = {"messages": [{"type": "human", "content": ASK}, {"type": "ai", "content": "", "tool_calls": [CALL]}]}
    assert '"arguments": {"what": "lamp"}' in turns_of(open_bytes(lines(row), "json"))[1].tool_calls


def test_a_conversation_with_tools_is_no_list_of_texts(open_bytes: Opener) -> None:
    tools = [{"name": "find", "parameters": {}}]
    table = open_bytes(lines({"messages": [USER, ASSISTANT], "tools": tools}), "json")
    assert "said in turn" not in " ".join(table.notices)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("answers", [{"body": "No.", "score": 1}, {"body": TELL, "score": 7}], TELL),
        ("answers", [{"body": TELL, "is_accepted": True, "score": 1}, {"body": "No.", "score": 9}], TELL),
        ("annotations", [{"result": [{"type": "choices", "value": {"choices": ["lamps"]}}]}], "lamps"),
        ("annotations", [{"result": [{"type": "textarea", "value": {"text": [TELL]}}]}], TELL),
    ],
)
def test_replies_and_annotations_are_their_text(open_bytes: Opener, name: str, value: Any, text: str) -> None:
    table = open_bytes(lines({"title": "Lamp", "body": ASK, name: value}), "json")
    assert table.row(0)[name] == text
    assert suggest_for_table(table).completion in (f"{{{name}}}", "")


def test_marked_spans_stay_json(open_bytes: Opener) -> None:
    spans = [{"result": [{"value": {"start": 0, "end": 5, "text": "Where", "labels": ["X"]}}]}]
    assert "labels" in (open_bytes(lines({"text": ASK, "annotations": spans}), "json").row(0)["annotations"] or "")


def test_each_pattern_of_an_intent_is_a_row(open_bytes: Opener) -> None:
    asked, told = ("Hi", "Hello", "Hey"), ("Yes", "Hm")
    texts = [
        {"patterns": [f"{one} {at}" for one in asked], "responses": [f"{one} {at}" for one in told]} for at in range(4)
    ]
    intents = [{"tag": "greeting", **each, "context": [""]} for each in texts]
    table = open_bytes(json.dumps({"intents": intents}), "json")
    found = [(row["patterns"], row["responses"]) for row in table.page(0, 3)]
    assert (table.rows, found) == (12, [("Hi 0", "Yes 0"), ("Hello 0", "Hm 0"), ("Hey 0", "Yes 0")])
    assert (suggest_for_table(table).prompt, suggest_for_table(table).completion) == ("{patterns}", "{responses}")


def test_a_list_of_datasets_is_named(open_bytes: Opener) -> None:
    content = json.dumps({"one": {"file_name": "one.json"}, "two": {"hf_hub_url": "a/b", "formatting": "sharegpt"}})
    with pytest.raises(DataError, match=r"dataset_info\.json"):
        open_bytes(content, "json")


def test_repeated_names_are_numbered_in_one_click(open_bytes: Opener) -> None:
    content = "Summary,Labels,Labels,Labels 2,Answer\n" + "Lamp?,a,b,c,There.\n" * 4
    with pytest.raises(UnreadableError, match="Columns 2, 3 are all named 'Labels'") as caught:
        open_bytes(content)
    (offer,) = caught.value.offers
    assert "Labels 3" in offer.preview[0]
    table = open_bytes(content, options=offer.options)
    assert table.columns == ("Summary", "Labels", "Labels 3", "Labels 2", "Answer")
    assert "numbered, as chosen: Labels." in " ".join(table.notices)


def test_the_second_header_of_a_survey_is_found(open_bytes: Opener) -> None:
    head = "Respondent ID,Start Date,Your question?,The answer?\n,,Open-Ended Response,Open-Ended Response\n"
    table = open_bytes(head + "".join(f"{100 + at},01/02/2024,Where is {at}?,In {at}.\n" for at in range(12)))
    suggestion = suggest_for_table(table)
    data = DataConfig(prompt=suggestion.prompt, prompt_stub=suggestion.completion)
    found = {finding.kind: finding for finding in examine_dataset(table, data).findings}
    assert found["label_row"].rows.tolist() == [0]


FLAGS = "comment,toxic,rude\n" + "".join(f"You are number {at} here,{at % 2},{at % 3 // 2}\n" for at in range(12))
NOTION = "Name,Answer,Created\n" + "".join(f"Where is {at}?,It is in {at}.,2024-01-0{at % 9 + 1}\n" for at in range(12))
STACK = "Title,Body,AnswerBody\n" + "".join(f"Lamp {at},Where is lamp {at}?,In aisle {at}.\n" for at in range(12))


@pytest.mark.parametrize(
    ("content", "kind", "pair"),
    [
        (FLAGS, "ask", ("{comment}", "{toxic}")),
        (NOTION, "ask", ("{Name}", "{Answer}")),
        (STACK, "pair", ("{Title}\n\n{Body}", "{AnswerBody}")),
    ],
)
def test_names_say_more_or_less(open_bytes: Opener, content: str, kind: str, pair: tuple[str, str]) -> None:
    found = suggest_for_table(open_bytes(content))
    assert found.kind == kind
    assert pair in (*found.candidates, (found.prompt, found.completion))


def test_german_letters_are_not_read_as_chinese_first(open_bytes: Opener) -> None:
    with pytest.raises(UnreadableError) as caught:
        open_bytes("Frage;Antwort\nWie für größere?;Süß.\n".encode("cp1252") * 4)
    assert caught.value.offers[0].options.encoding == "cp1252"


@pytest.mark.parametrize(
    "row",
    [
        {"context": "A shop.", "questions": ["Where?", "When?"], "answers": ["Here.", "Now."]},
        {
            "story": "A shop.",
            "questions": [{"input_text": "Where?", "turn_id": 1}, {"input_text": "When?", "turn_id": 2}],
            "answers": [{"input_text": "Here.", "span_text": "x"}, {"input_text": "Now.", "span_text": "y"}],
        },
    ],
)
def test_each_question_with_the_answer_at_its_place_is_a_row(open_bytes: Opener, row: dict[str, Any]) -> None:
    table = open_bytes("\n".join([json.dumps(row)] * 4), "json")
    assert table.rows == 8
    assert (table.row(1)["questions"], table.row(1)["answers"]) == ("When?", "Now.")
    found = suggest_for_table(table)
    assert found.kind == "pair" and "{questions}" in found.prompt and found.completion == "{answers}"


def test_lists_of_other_lengths_are_no_questions_with_answers(open_bytes: Opener) -> None:
    row = {"questions": ["Where?", "When?"], "answers": ["Here."]}
    assert open_bytes("\n".join([json.dumps(row)] * 4), "json").rows == 4


def test_messages_in_lists_by_key_are_conversations(open_bytes: Opener) -> None:
    row = {"conversations": {"from": ["human", "gpt"], "value": ["Where?", "Here."]}, "id": 7}
    assert said(turns_of(open_bytes("\n".join([json.dumps(row)] * 4), "json"))) == [
        ("user", "Where?", False),
        ("assistant", "Here.", True),
    ]
