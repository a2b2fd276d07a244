"""Comparisons of two answers: the one that won is trained, whatever names it; ties are skipped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.data.conftest import Opener
from tests.data.shapes.test_other_conversations import (
    ASKED,
    DONE,
    FOUR,
    MORE,
    PAIR,
    SAID,
    SYSTEM,
    open_rows,
    said,
    turns_of,
)
from toolkit.data.examples.column_suggestion import suggest_for_table

BAD = "No idea."


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def compared(
    first: str, second: str, good: Any, bad: Any, verdict: str, names: tuple[Any, Any, Any], **more: Any
) -> Any:
    """Rows in which the second answer wins, then the first one, then none; with the values that say so."""
    return [
        {**more, first: bad, second: good, verdict: names[1]},
        {**more, first: good, second: bad, verdict: names[0]},
        {**more, first: good, second: bad, verdict: names[2]},
    ]


LAYOUTS = {
    "chatbot arena": compared(
        "conversation_a", "conversation_b", talk(ASKED, SAID, MORE, DONE), talk(ASKED, BAD, MORE, BAD), "winner",
        ("model_a", "model_b", "tie (bothbad)"), model_a="x", model_b="y",
    ),
    "letters": compared("response_a", "response_b", SAID, BAD, "preference", ("A", "B", "tie"), prompt=ASKED),
    "numbers": compared("output_1", "output_2", SAID, BAD, "preferred", (1, 2, None), instruction=ASKED, input=""),
    "safe answers": compared("response_0", "response_1", SAID, BAD, "better_response_id", (0, 1, None), prompt=ASKED),
    "label": compared("completion_a", "completion_b", SAID, BAD, "label", ("a", "b", "tie"), prompt=ASKED),
    "names": compared("Answer A", "Answer B", SAID, BAD, "Choice", ("Answer A", "Answer B", "both"), question=ASKED),
    "strength": compared("response1", "response2", SAID, BAD, "overall_preference", (-2, 3, 0), context=talk(ASKED)),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_answer_that_won_is_trained(open_bytes: Opener, layout: str) -> None:
    table = open_rows(open_bytes, *LAYOUTS[layout])
    assert said(turns_of(table)) == (FOUR if layout == "chatbot arena" else PAIR)
    cells = [table.row(at)["messages"] for at in range(3)]
    assert cells[0] == cells[1] and cells[2] is None, "a tie names none"
    assert BAD not in str(cells[0])
    assert any("names is trained" in notice for notice in table.notices)


def test_the_turns_of_several_prompts_are_those_of_the_winner(open_bytes: Opener) -> None:
    row = {
        "prompt": json.dumps([ASKED, MORE]),
        "response_a": json.dumps([BAD, BAD]), "response_b": json.dumps([SAID, DONE]),
        "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0,
    }  # fmt: skip
    assert said(turns_of(open_rows(open_bytes, row))) == FOUR


def test_a_context_and_a_system_text_stay_in_front(open_bytes: Opener) -> None:
    rows = compared("answer_a", "answer_b", SAID, BAD, "winner", ("a", "b", "tie"), question=ASKED, context="A shop.")
    table = open_rows(open_bytes, *({**row, "system": "Be kind."} for row in rows))
    assert said(turns_of(table)) == [*SYSTEM, ("user", f"A shop.\n\n{ASKED}", False), PAIR[1]]


@pytest.mark.parametrize("verdict", [{"winner": "gpt"}, {"score": 3}, {}])
def test_without_a_winner_the_user_is_asked(open_bytes: Opener, verdict: dict[str, Any]) -> None:
    rows = [{"prompt": f"{ASKED} {at}", "response_a": f"{SAID} {at}", "response_b": f"{BAD} {at}"} for at in range(8)]
    assert suggest_for_table(open_rows(open_bytes, *({**row, **verdict} for row in rows))).kind == "ask"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": ASKED, "input": "", "output": [SAID, BAD]}, "the first one is the good answer"),
        ({"prompt": ASKED, "responses": [BAD, SAID], "scores": [1.5, 9.0]}, "the best by 'scores' comes first"),
        ({"prompt": ASKED, "responses": [BAD, SAID], "rank": [2, 1]}, "the best by 'rank' comes first"),
        ({"prompt": ASKED, "responses": [{"text": BAD, "rank": 2}, {"text": SAID, "rank": 1}]}, ""),
        ({"prompt": ASKED, "responses": [{"response": BAD, "rating": 2}, {"response": SAID, "rating": 4}]}, ""),
    ],
)
def test_the_best_of_several_answers_is_used(open_bytes: Opener, row: dict[str, Any], words: str) -> None:
    table = open_rows(open_bytes, row)
    found = suggest_for_table(table)
    assert table.row(0)[found.completion.strip("{}")] == SAID
    assert words in " ".join(table.notices)


def test_lists_that_a_model_writes_stay_lists(open_bytes: Opener) -> None:
    for row in ({"instruction": ASKED, "output": ["red", "blue"]}, {"prompt": ASKED, "output": [SAID, BAD]}):
        assert json.loads(open_rows(open_bytes, row).row(0)["output"] or "") == row["output"]


@pytest.mark.parametrize("words", [("thumbs_up", "thumbs_down"), ("good", "bad"), ("Like", "Dislike")])
def test_answers_that_people_dislike_are_asked_about(open_bytes: Opener, words: tuple[str, str]) -> None:
    rows = [{"question": f"{ASKED} {at}", "answer": f"{SAID} {at}", "feedback": words[at % 2]} for at in range(12)]
    found = suggest_for_table(open_rows(open_bytes, *rows))
    assert found.kind == "ask" and "'feedback' marks each answer as good or bad" in found.notes[0]


def test_palm_has_its_context_and_examples_in_front(open_bytes: Opener) -> None:
    example = {"input": {"author": "u", "content": "Hi"}, "output": {"author": "b", "content": "Hello"}}
    messages = [{"author": "user", "content": ASKED}, {"author": "bot", "content": SAID}]
    row = {"context": "Be kind.", "examples": [example], "messages": messages}
    expected = [*SYSTEM, ("user", "Hi", False), ("assistant", "Hello", False), *PAIR]
    assert said(turns_of(open_rows(open_bytes, row))) == expected
