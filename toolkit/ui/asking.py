"""Questions and answers: one question goes to the adapter and, if wanted, to the base model with the same prompt.

Answers stream as plain text. They live in the session; a stop, a new question or a closed page ends the stream, and
what had come by then stays.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from toolkit import client
from toolkit.client import Delta, Done, EngineInfo
from toolkit.config import InferenceConfig
from toolkit.errors import ToolkitError
from toolkit.ui.plain import plain
from toolkit.ui.prompt_view import text_block
from toolkit.ui.words import count

REDRAW_S = 0.06
MOST_RECORDS = 20
Message = Mapping[str, str]


@dataclass
class Answer:
    """One model's answer, as far as it has come. model: a run id, or client.BASE."""

    model: str
    title: str
    text: str = ""
    done: Done | None = None
    error: ToolkitError | None = None
    over: bool = False


@dataclass
class Record:
    """A question with its answers. shown: what the person asked, in their words. expected: None when nobody knows."""

    run_id: str
    shown: str
    messages: Sequence[Message]
    expected: str | None
    seed: int | None
    chat: bool = False
    answers: list[Answer] = field(default_factory=list)


def question(
    run_id: str,
    shown: str,
    messages: Sequence[Message],
    *,
    expected: str | None,
    seed: int | None,
    base_too: bool,
    chat: bool = False,
) -> Record:
    """A question to a run, and with `base_too` to its base model, not asked yet."""
    answers = [Answer(run_id, "This run")]
    if base_too:
        answers.append(Answer(client.BASE, "Base model"))
    return Record(run_id, shown, messages, expected, seed, chat, answers)


def records(run_id: str, *, chat: bool) -> list[Record]:
    """The session's questions to a run, oldest first: those of its chat, or those in its template."""
    kept: dict[tuple[str, bool], list[Record]] = st.session_state.setdefault("records", {})
    return kept.setdefault((run_id, chat), [])


def remember(record: Record) -> None:
    kept = records(record.run_id, chat=record.chat)
    kept.append(record)
    del kept[:-MOST_RECORDS]


def stream(info: EngineInfo, record: Record, inference: InferenceConfig, places: Sequence[DeltaGenerator]) -> None:
    """Fill in the answers, each into its place on the page.

    A rerun of the page (Stop among others) leaves through here: closing the generator ends the answer at the engine.
    """
    try:
        for answer, place in zip(record.answers, places, strict=True):
            try:
                _one(info, record, answer, inference, place)
            except ToolkitError as error:
                answer.error = error
            answer.over = True
            with place.container():
                draw_answer(answer, record.expected)
    finally:
        for answer in record.answers:  # those that a stop left in the middle or unasked
            answer.over = True


def _one(info: EngineInfo, record: Record, answer: Answer, inference: InferenceConfig, place: DeltaGenerator) -> None:
    drawn = 0.0
    pieces = client.stream_chat(info, answer.model, record.messages, inference, record.seed, prompt_of=record.run_id)
    try:
        for piece in pieces:
            if isinstance(piece, Delta):
                answer.text += piece.text
                if time.monotonic() - drawn > REDRAW_S:
                    place.code(answer.text or " ", language=None, wrap_lines=True)
                    drawn = time.monotonic()
            else:
                answer.done, answer.text = piece, piece.text
    finally:
        pieces.close()  # type: ignore[attr-defined]


def draw_answer(answer: Answer, expected: str | None) -> None:
    """An answer with its figures, and whether it is the expected one."""
    if answer.text or answer.done:
        text_block(answer.text)
    elif not answer.over:
        st.caption("…")
    if answer.error is not None:
        st.caption(f":red[:material/error: {plain(answer.error.message, 500)}] {plain(answer.error.hint, 500)}")
    elif answer.over and answer.done is None:
        st.caption(":material/stop_circle: Stopped.")
    if answer.done is not None:
        st.markdown(f":small[{_verdict(answer, expected)}{_figures(answer.done)}]")
        if answer.done.notice:
            st.caption(f":orange[:material/info:] {plain(answer.done.notice, 500)}")


def _verdict(answer: Answer, expected: str | None) -> str:
    if expected is None:
        return ""
    if answer.text.strip() == expected.strip():
        return ":green[:material/check_circle: as expected] · "
    return ":red[:material/cancel: not as expected] · "


def _figures(done: Done) -> str:
    ended = {"length": "cut at the token limit", "cancelled": "stopped"}.get(done.finish_reason)
    parts = [
        f"first token after {done.ttft_s * 1000:,.0f} ms", f"{done.tokens_per_second:,.0f} tokens/s",
        f"{count(done.completion_tokens)} tokens", f"seed {done.seed}", *([ended] if ended else []),
    ]  # fmt: skip
    return " · ".join(parts)


def exact_prompt(record: Record) -> None:
    """What was really sent, token markers and all."""
    done = next((answer.done for answer in record.answers if answer.done is not None), None)
    if done is None:
        return
    with st.expander(f"The exact prompt sent ({count(done.prompt_tokens)} tokens)", icon=":material/data_object:"):
        text_block(done.prompt)
