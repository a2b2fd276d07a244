"""Answers: streamed as they come, closed when the page moves on, and a refusal in words for one of them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from toolkit import client
from toolkit.client import Delta, Done
from toolkit.config import InferenceConfig
from toolkit.errors import EngineError
from toolkit.ui import asking


class Place:
    """A spot on the page that remembers what was written there."""

    def __init__(self, on_write: Callable[[], None] = lambda: None) -> None:
        self.written: list[str] = []
        self._on_write = on_write

    def code(self, text: str, **_: Any) -> None:
        self.written.append(text)
        self._on_write()

    def container(self) -> Any:
        return nullcontext()


class MovedOn(BaseException):
    """What Streamlit raises when the page is run again."""


def done(text: str) -> Done:
    return Done(text, "<prompt>", 3, 2, 0.01, 100.0, "stop", 7)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models whose stream was closed; "base" refuses."""
    seen: list[str] = []

    def pieces(info: Any, model: str, *_: Any, **__: Any) -> Iterator[Delta | Done]:
        try:
            if model == client.BASE:
                raise EngineError("The base model refuses.", "Ask again.")
            yield Delta("one ")
            yield Delta("two")
            yield done("one two")
        finally:
            seen.append(model)

    monkeypatch.setattr(client, "stream_chat", pieces)
    monkeypatch.setattr(asking, "REDRAW_S", -1.0)
    monkeypatch.setattr(asking, "draw_answer", lambda *_: None)
    return seen


def record() -> asking.Record:
    return asking.question("run-1", "hi", [{"role": "user", "content": "hi"}], expected=None, seed=7, base_too=True)


def test_both_models_are_asked_and_one_refusal_stays_its_own(closed: list[str]) -> None:
    asked, places = record(), [Place(), Place()]
    asking.stream(None, asked, InferenceConfig(), places)  # type: ignore[arg-type]
    ours, base = asked.answers
    assert places[0].written == ["one ", "one two"]
    assert (ours.text, ours.done, ours.error) == ("one two", done("one two"), None)
    assert base.error is not None
    assert base.error.message == "The base model refuses."
    assert ours.over
    assert base.over
    assert closed == ["run-1", "base"]


def test_a_stop_closes_the_stream_and_keeps_what_came(closed: list[str]) -> None:
    def move_on() -> None:
        raise MovedOn

    asked = record()
    with pytest.raises(MovedOn):
        asking.stream(None, asked, InferenceConfig(), [Place(move_on), Place()])  # type: ignore[arg-type]
    assert closed == ["run-1"], "the base model is not asked any more"
    assert asked.answers[0].text == "one "
    assert all(answer.over and answer.done is None for answer in asked.answers)
