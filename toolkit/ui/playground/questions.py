"""Questions and answers of the playground: a question goes to several models with the same prompt and seed.

All answers stream at once and are kept in the session. A stop, a new question or a closed page ends the stream; the
text received by then is kept.
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
"""Least time between two updates of a streaming answer: each one is sent to the browser."""
MAX_KEPT_QUESTIONS = 20
ALTERNATIVES_PER_TOKEN = 5
"""Most likely tokens that the engine reports for each position."""
SEED_COUNT = 2**32


@dataclass
class ShownAnswer:
    """The answer of one model, as far as it was received.

    model: a run id, `<run id>@<step>` for a checkpoint, or BASE. settings_source: a key of COLUMN_SETTINGS_LABELS.
    ended: no more text will arrive.
    """

    model: str
    title: str
    inference: InferenceConfig
    settings_source: str = SHARED_SETTINGS
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    done: Done | None = None
    error: ToolkitError | None = None
    scored: ScoredCompletion | None = None
    ended: bool = False


@dataclass
class AskedQuestion:
    """A question with its answers.

    shown: the question as it appears on the page. expected: the expected answer, None when unknown. seed: the same for
    all columns.
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
    """Return a question to the models of these columns, without asking it.

    Columns with invalid settings are skipped. seed: None draws a random one.
    """
    answers = [
        ShownAnswer(c.model, c.title, c.inference, c.settings_source) for c in columns if c.inference is not None
    ]
    used_seed = secrets.randbelow(SEED_COUNT) if seed is None else seed
    return AskedQuestion(run_id, shown, messages, expected, used_seed, chat, answers)


def asked_questions(run_id: str, *, chat: bool) -> list[AskedQuestion]:
    """Return the session's questions to a run, oldest first: those of its chat, or those with its prompt template."""
    records: dict[tuple[str, bool], list[AskedQuestion]] = st.session_state.setdefault("records", {})
    return records.setdefault((run_id, chat), [])


def remember_question(record: AskedQuestion) -> None:
    """Add a question to the session, which keeps the last MAX_KEPT_QUESTIONS of a run."""
    records = asked_questions(record.run_id, chat=record.chat)
    records.append(record)
    del records[:-MAX_KEPT_QUESTIONS]


def stream_answers(info: EngineInfo, record: AskedQuestion, placeholders: Sequence[DeltaGenerator]) -> None:
    """Ask the question and stream all answers at once, each into its placeholder on the page.

    A rerun of the page (a click on Stop, for example) raises in here; closing the generator then ends the answers in
    the engine.
    """
    try:
        asked = _attach_models(info, record)
        questions = [EngineQuestion(a.model, record.messages, a.inference, record.seed, record.run_id) for a in asked]
        drawn_at = [0.0] * len(asked)
        events = stream_comparison(info, questions, top_logprobs=ALTERNATIVES_PER_TOKEN)
        try:
            for number, event in events:
                answer = asked[number]
                _update_answer(answer, event)
                if isinstance(event, Delta) and time.monotonic() - drawn_at[number] > REDRAW_SECONDS:
                    placeholders[record.answers.index(answer)].code(answer.text or " ", language=None, wrap_lines=True)
                    drawn_at[number] = time.monotonic()
        finally:
            events.close()  # type: ignore[attr-defined]
        _score_expected(info, record)
    except ToolkitError as error:
        for answer in record.answers:
            if answer.done is None and answer.error is None:
                answer.error = error
    finally:
        for answer in record.answers:  # including those that a stop interrupted or that were never asked
            answer.ended = True


def _attach_models(info: EngineInfo, record: AskedQuestion) -> list[ShownAnswer]:
    """Load the adapters that the engine lacks; return the answers whose model could be loaded."""
    loaded = set(engine_client.list_engine_models(info))
    for answer in record.answers:
        if answer.model not in loaded:
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
    answer.ended = True
    if isinstance(event, Done):
        answer.done, answer.text = event, event.text
    else:
        answer.error = event


def _score_expected(info: EngineInfo, record: AskedQuestion) -> None:
    """Score the expected answer with every model that answered."""
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
