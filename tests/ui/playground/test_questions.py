"""Answers of the playground: streamed side by side, ended by a rerun of the page, with an error for one model only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from toolkit.config import InferenceConfig
from toolkit.data.conversations import parse_conversation
from toolkit.errors import EngineError
from toolkit.evaluation.statistics.word_diff import have_common_words
from toolkit.services import engine_client
from toolkit.services.engine_http import Delta, Done, Token
from toolkit.services.engine_requests import ScoredCompletion
from toolkit.ui.elements.marked_text import logprob_percent, mark_differences, mark_likelihoods
from toolkit.ui.playground import questions as questions_module
from toolkit.ui.playground.columns import GENERATION_PRESETS, AnswerColumn, resolve_column_settings
from toolkit.ui.playground.template_form import sent_messages


class RecordingPlaceholder:
    """A placeholder of the page that records what is written to it."""

    def __init__(self, on_write: Callable[[], None] = lambda: None) -> None:
        self.written: list[str] = []
        self._on_write = on_write

    def code(self, text: str, **_: Any) -> None:
        self.written.append(text)
        self._on_write()


class RerunError(BaseException):
    """Stands for the exception that Streamlit raises in a script that is run again."""


def done(text: str) -> Done:
    return Done(text, "<prompt>", 3, 2, 0.01, 100.0, "stop", 7)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record what the engine is asked. The adapter "other" can't be loaded, and the base model gives an error."""
    found: dict[str, Any] = {"closed": 0}

    def compare(info: Any, questions: Any, **_: Any) -> Iterator[tuple[int, Any]]:
        found["questions"] = questions
        try:
            yield 0, Delta("one ", (Token("one", -0.5), Token(" ", -0.1)))
            yield 1, EngineError("The base model refuses.", "Ask again.")
            yield 0, Delta("two", (Token("two", -2.0),))
            yield 0, done("one two")
        finally:
            found["closed"] += 1

    def load_run(info: Any, run: str) -> None:
        raise EngineError(f"{run} is gone.", "Choose another.")

    monkeypatch.setattr(questions_module, "stream_comparison", compare)
    monkeypatch.setattr(engine_client, "list_engine_models", lambda info: ["base", "run-1"])
    monkeypatch.setattr(engine_client, "attach_adapter", load_run)
    monkeypatch.setattr(
        questions_module, "request_score", lambda *_, **__: ScoredCompletion((Token("two", -0.1),), 0.1, 1.1)
    )
    monkeypatch.setattr(questions_module, "REDRAW_SECONDS", -1.0)
    return found


def record(*models: str, seed: int | None = None, expected: str | None = None) -> questions_module.AskedQuestion:
    columns = [AnswerColumn(model, model, InferenceConfig(max_new_tokens=9)) for model in models]
    turns = [{"role": "user", "content": "hi"}]
    return questions_module.prepare_question("run-1", "hi", turns, expected=expected, seed=seed, columns=columns)


def test_all_models_get_the_same_question_and_seed_and_keep_their_own_errors(seen: dict[str, Any]) -> None:
    asked, placeholders = (
        record("run-1", "base", "other", expected="one two"),
        [RecordingPlaceholder(), RecordingPlaceholder(), RecordingPlaceholder()],
    )
    questions_module.stream_answers(None, asked, placeholders)  # type: ignore[arg-type]
    ours, base, other = asked.answers
    assert placeholders[0].written == ["one ", "one two"] and not placeholders[1].written
    assert (ours.text, ours.done, ours.error) == ("one two", done("one two"), None)
    assert [token.text for token in ours.tokens] == ["one", " ", "two"]
    assert ours.scored is not None and base.scored is None
    assert base.error is not None and base.error.message == "The base model refuses."
    assert other.error is not None and other.error.message == "other is gone."
    assert all(answer.ended for answer in asked.answers)
    questions = seen["questions"]
    assert [q.model for q in questions] == ["run-1", "base"]
    assert {(q.seed, q.prompt_of, str(q.messages)) for q in questions} == {(asked.seed, "run-1", str(asked.messages))}
    assert seen["closed"] == 1


def test_a_question_without_a_seed_gets_a_random_one() -> None:
    assert record("run-1", seed=7).seed == 7
    assert len({record("run-1").seed for _ in range(20)}) > 10


def test_a_stop_closes_the_stream_and_keeps_the_received_text(seen: dict[str, Any]) -> None:
    def rerun() -> None:
        raise RerunError

    asked = record("run-1", "base")
    with pytest.raises(RerunError):
        questions_module.stream_answers(None, asked, [RecordingPlaceholder(rerun), RecordingPlaceholder()])  # type: ignore[arg-type,list-item]
    assert seen["closed"] == 1
    assert asked.answers[0].text == "one "
    assert all(answer.ended and answer.done is None for answer in asked.answers)


def test_a_preset_changes_only_the_sampling() -> None:
    form = InferenceConfig(max_new_tokens=77, do_sample=True, temperature=5.0, epsilon_cutoff=0.2)
    greedy = resolve_column_settings("greedy", form, None)
    assert greedy is not None and (greedy.do_sample, greedy.max_new_tokens) == (False, 77)
    creative = resolve_column_settings("creative", form, None)
    assert creative is not None and (creative.temperature, creative.epsilon_cutoff) == (1.1, 0.0)
    assert resolve_column_settings("shared", form, None) is form
    pinned = resolve_column_settings("pinned", form, {"max_new_tokens": 3})
    assert pinned is not None and pinned.max_new_tokens == 3
    assert resolve_column_settings("greedy", None, None) is None
    assert set(GENERATION_PRESETS) == {"greedy", "balanced", "creative"}


def test_differences_are_marked_only_in_texts_with_common_words() -> None:
    assert have_common_words("The order ships on Monday.", "The order ships on Tuesday!")
    assert have_common_words("same", "same")
    assert not have_common_words('{"customer": "Mendes", "item": "lamp"}', "I am sorry, I do not know what you mean.")
    assert not have_common_words("", "an answer") and not have_common_words("an answer", "")


def test_differences_are_the_words_that_the_other_text_lacks() -> None:
    marks = mark_differences("a big red  lamp!", "a red lamp!")
    assert "".join(mark.text for mark in marks) == "a big red  lamp!"
    assert [mark.text for mark in marks if mark.kind == "other"] == ["big ", "  "]
    assert [mark.kind for mark in mark_differences("same", "same")] == ["same"]


def test_tokens_are_shaded_by_probability_with_a_note() -> None:
    likely, unlikely = mark_likelihoods([Token("a", -0.01, (("a", -0.01), (" b", -5.0))), Token("\n", -7.0)])
    assert (likely.kind, unlikely.kind, unlikely.text) == ("p0", "p4", "↵\n")
    assert likely.note == "a  99 %\n' b'  0.67 %"
    assert logprob_percent(-7.0) == "0.091 %"


def test_the_engine_gets_the_texts_of_a_conversation_with_tools() -> None:
    turns = parse_conversation(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
                    {"role": "tool", "content": "22"},
                    {"role": "assistant", "content": "a"},
                ],
                "tools": [{"name": "f"}],
            }
        )
    )
    assert [message["role"] for message in sent_messages(turns)] == ["user", "assistant", "assistant"]
    assert all(set(message) == {"role", "content"} for message in sent_messages(turns))
