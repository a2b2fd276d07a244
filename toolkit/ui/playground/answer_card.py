"""How a question and its answers look: a card with a column a model, as text, as differences, or token by token."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from toolkit.services.engine_http import Done
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.marked_text import mark_differences, mark_likelihoods, show_marked_text
from toolkit.ui.elements.words import format_count
from toolkit.ui.examples.prompt_view import text_block
from toolkit.ui.playground.columns import COLUMN_SETTINGS_LABELS, SHARED_SETTINGS
from toolkit.ui.playground.questions import AskedQuestion, ShownAnswer

TEXT_VIEW, DIFFERENCE_VIEW, TOKEN_VIEW = "text", "differences", "tokens"
"""Ways to show an answer."""


def draw_question_card(record: AskedQuestion, view: str) -> list[DeltaGenerator]:
    """A question and its answers; returns the place of each answer."""
    with st.container(border=True):
        text_block(record.shown)
        columns = create_answer_columns(len(record.answers) + (record.expected is not None))
        places = draw_answers(record, columns, view)
        if record.expected is not None:
            with columns[-1]:
                st.markdown(":gray-badge[Expected]")
                draw_expected_answer(record, view, f"expected:{id(record)}:{view}")
        draw_exact_prompt(record)
    return places


def create_answer_columns(number: int) -> list[DeltaGenerator]:
    """In one row up to three, in two rows beyond: an answer needs room to be read."""
    if number <= 3:
        return st.columns(number)
    half = (number + 1) // 2
    return [*st.columns(half), *st.columns(half)][:number]


def draw_answers(record: AskedQuestion, columns: Sequence[DeltaGenerator], view: str) -> list[DeltaGenerator]:
    places = []
    for number, (answer, column) in enumerate(zip(record.answers, columns, strict=False)):
        with column:
            colour = "green" if answer.model == record.run_id else "gray"
            st.markdown(f":{colour}-badge[{escape_text(answer.title)}]")
            place = st.empty()
            with place.container():
                draw_answer(answer, record, view, f"answer:{id(record)}:{number}:{view}")
            places.append(place)
    return places


def draw_answer(answer: ShownAnswer, record: AskedQuestion, view: str, key: str) -> None:
    """An answer with its figures, as text, with what differs from the first one, or token by token."""
    first = record.answers[0]
    if view == TOKEN_VIEW and answer.tokens:
        show_marked_text(mark_likelihoods(answer.tokens), key)
    elif view == DIFFERENCE_VIEW and answer is not first and answer.over and answer.text and first.text:
        show_marked_text(mark_differences(answer.text, first.text), key)
    elif answer.text or answer.done:
        text_block(answer.text)
    elif not answer.over:
        st.caption("…")
    if answer.error is not None:
        st.caption(
            f":red[:material/error: {escape_text(answer.error.message, 500)}] {escape_text(answer.error.hint, 500)}"
        )
    elif answer.over and answer.done is None:
        st.caption(":material/stop_circle: Stopped.")
    if answer.done is not None:
        st.markdown(f":small[{_verdict(answer, record.expected)}{_answer_figures(answer, answer.done)}]")
        if answer.done.notice:
            st.caption(f":orange[:material/info:] {escape_text(answer.done.notice, 500)}")
    if answer.scored is not None:
        loss, perplexity = answer.scored.loss, answer.scored.perplexity
        st.markdown(f":small[Expected answer: loss {loss:.3g}, perplexity {perplexity:.4g}]")


def draw_expected_answer(record: AskedQuestion, view: str, key: str) -> None:
    """The known answer; token by token as the first model would have scored it."""
    if record.expected is None:
        return
    scored = record.answers[0].scored if record.answers else None
    if view == TOKEN_VIEW and scored is not None:
        show_marked_text(mark_likelihoods(scored.tokens), key)
        st.caption(f"As {escape_text(record.answers[0].title.lower())} scores it, its end included.")
    else:
        text_block(record.expected)


def _verdict(answer: ShownAnswer, expected: str | None) -> str:
    if expected is None:
        return ""
    if answer.text.strip() == expected.strip():
        return ":green[:material/check_circle: as expected] · "
    return ":red[:material/cancel: not as expected] · "


def _answer_figures(answer: ShownAnswer, done: Done) -> str:
    ended = {"length": "cut at the token limit", "cancelled": "stopped"}.get(done.finish_reason)
    way = [] if answer.way == SHARED_SETTINGS else [COLUMN_SETTINGS_LABELS[answer.way].lower()]
    parts = [
        *way, f"first token after {done.ttft_s * 1000:,.0f} ms", f"{done.tokens_per_second:,.0f} tokens/s",
        f"{format_count(done.completion_tokens)} tokens", f"seed {done.seed}", *([ended] if ended else []),
    ]  # fmt: skip
    return " · ".join(parts)


def draw_exact_prompt(record: AskedQuestion) -> None:
    """What was really sent, token markers and all."""
    done = next((answer.done for answer in record.answers if answer.done is not None), None)
    if done is None:
        return
    with st.expander(
        f"The exact prompt sent ({format_count(done.prompt_tokens)} tokens)", icon=":material/data_object:"
    ):
        text_block(done.prompt)
