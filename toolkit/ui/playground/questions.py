"""Questions and answers: one question goes to several models with the same prompt and seed, and all stream at once.

They live in the session; a stop, a new question or a closed page ends the stream, and what had come by then stays. How
they look is `answer_card.py`'s.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from toolkit.config import InferenceConfig
from toolkit.data.conversations import MessageDict
from toolkit.errors import EngineError, ToolkitError
from toolkit.services import engine_client
from toolkit.services.engine_http import Delta, Done, Token
from toolkit.services.engine_process import EngineInfo
from toolkit.services.engine_requests import EngineQuestion, ScoredCompletion, request_score, stream_comparison
from toolkit.ui.playground.columns import SHARED_SETTINGS, AnswerColumn

REDRAW_SECONDS = 0.08
MAX_KEPT_QUESTIONS = 20
ALTERNATIVES_PER_TOKEN = 5
"""Alternatives that are told for each token."""
SEED_COUNT = 2**32


@dataclass
class ShownAnswer:
    """One model's answer, as far as it has come. model: a name (`answerers.py`), or client.BASE. way: its settings."""

    model: str
    title: str
    inference: InferenceConfig
    way: str = SHARED_SETTINGS
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    done: Done | None = None
    error: ToolkitError | None = None
    scored: ScoredCompletion | None = None
    over: bool = False


@dataclass
class AskedQuestion:
    """A question with its answers. shown: what the person asked, in their words. expected: None when nobody knows.

    seed: one for all columns, drawn when none was typed.
    """

    run_id: str
    shown: str
    messages: Sequence[MessageDict]
    expected: str | None
    seed: int
    chat: bool = False
    answers: list[ShownAnswer] = field(default_factory=list)


def prepare_question(
    run_id: str,
    shown: str,
    messages: Sequence[MessageDict],
    *,
    expected: str | None,
    seed: int | None,
    columns: Sequence[AnswerColumn],
    chat: bool = False,
) -> AskedQuestion:
    """A question to a run and those beside it, not asked yet. Columns whose settings are wrong are left out."""
    answers = [ShownAnswer(c.model, c.title, c.inference, c.way) for c in columns if c.inference is not None]
    drawn = secrets.randbelow(SEED_COUNT) if seed is None else seed
    return AskedQuestion(run_id, shown, messages, expected, drawn, chat, answers)


def asked_questions(run_id: str, *, chat: bool) -> list[AskedQuestion]:
    """The session's questions to a run, oldest first: those of its chat, or those in its template."""
    kept: dict[tuple[str, bool], list[AskedQuestion]] = st.session_state.setdefault("records", {})
    return kept.setdefault((run_id, chat), [])


def remember_question(record: AskedQuestion) -> None:
    kept = asked_questions(record.run_id, chat=record.chat)
    kept.append(record)
    del kept[:-MAX_KEPT_QUESTIONS]


def stream_answers(info: EngineInfo, record: AskedQuestion, places: Sequence[DeltaGenerator]) -> None:
    """Fill in the answers, each into its place on the page, all at once.

    A rerun of the page (Stop among others) leaves through here: closing the generator ends the answers at the engine.
    """
    try:
        asked = _attach_models(info, record)
        questions = [EngineQuestion(a.model, record.messages, a.inference, record.seed, record.run_id) for a in asked]
        drawn = [0.0] * len(asked)
        events = stream_comparison(info, questions, top_logprobs=ALTERNATIVES_PER_TOKEN)
        try:
            for number, event in events:
                answer, place = asked[number], places[record.answers.index(asked[number])]
                _update_answer(answer, event)
                if isinstance(event, Delta) and time.monotonic() - drawn[number] > REDRAW_SECONDS:
                    place.code(answer.text or " ", language=None, wrap_lines=True)
                    drawn[number] = time.monotonic()
        finally:
            events.close()  # type: ignore[attr-defined]
        _score_expected(info, record)
    except ToolkitError as error:
        for answer in record.answers:
            if answer.done is None and answer.error is None:
                answer.error = error
    finally:
        for answer in record.answers:  # those that a stop left in the middle or unasked
            answer.over = True


def _attach_models(info: EngineInfo, record: AskedQuestion) -> list[ShownAnswer]:
    """The answers whose model is there, attached now where it was not; a refusal stays its own."""
    known = set(engine_client.list_engine_models(info))
    for answer in record.answers:
        if answer.model not in known:
            try:
                engine_client.attach_adapter(info, answer.model)
            except EngineError as error:
                answer.error = error
    return [answer for answer in record.answers if answer.error is None]


def _update_answer(answer: ShownAnswer, event: Delta | Done | EngineError) -> None:
    if isinstance(event, Delta):
        answer.text += event.text
        answer.tokens += event.tokens
        return
    answer.over = True
    if isinstance(event, Done):
        answer.done, answer.text = event, event.text
    else:
        answer.error = event


def _score_expected(info: EngineInfo, record: AskedQuestion) -> None:
    """What each model would have given to the expected answer."""
    if record.expected is None:
        return
    *history, last = record.messages
    for answer in record.answers:
        if answer.done is not None:
            answer.scored = request_score(
                info,
                answer.model,
                last["content"],
                record.expected,
                prompt_of=record.run_id,
                top_logprobs=ALTERNATIVES_PER_TOKEN,
                history=history,
            )
