"""A question with its answers: a card with one column per model, shown as text, as differences or token by token."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from toolkit.evaluation.statistics.text import is_exact_match, split_reasoning
from toolkit.services.engine_http import Done
from toolkit.system.printable import format_count, format_figure
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.marked_text import mark_differences, mark_likelihoods, show_marked_text
from toolkit.ui.examples.prompt_view import text_block
from toolkit.ui.playground.columns import COLUMN_SETTINGS_LABELS, SHARED_SETTINGS
from toolkit.ui.playground.questions import AskedQuestion, ShownAnswer

TEXT_VIEW, DIFFERENCE_VIEW, TOKEN_VIEW = "text", "differences", "tokens"
"""Ways to show an answer."""


def draw_question_card(record: AskedQuestion, view: str) -> list[DeltaGenerator]:
    """Draw a question with its answers; return the placeholder of each answer."""
    with st.container(border=True):
        text_block(record.shown)
        columns = create_answer_columns(len(record.answers) + (record.expected is not None))
        placeholders = draw_answers(record, columns, view)
        if record.expected is not None:
            with columns[-1]:
                st.markdown(":gray-badge[Expected answer]")
                draw_expected_answer(record, view, f"expected:{id(record)}:{view}")
        draw_exact_prompt(record)
    return placeholders


def create_answer_columns(number: int) -> list[DeltaGenerator]:
    """Return columns in one row for up to three answers, in two rows for more, so that each is wide enough to read."""
    if number <= 3:
        return st.columns(number)
    half = (number + 1) // 2
    return [*st.columns(half), *st.columns(half)][:number]


def draw_answers(record: AskedQuestion, columns: Sequence[DeltaGenerator], view: str) -> list[DeltaGenerator]:
    """Draw each answer under the title of its model; return the placeholder of each answer."""
    placeholders = []
    for number, (answer, column) in enumerate(zip(record.answers, columns, strict=False)):
        with column:
            color = "green" if answer.model == record.run_id else "gray"
            st.markdown(f":{color}-badge[{escape_text(answer.title)}]")
            placeholder = st.empty()
            with placeholder.container():
                draw_answer(answer, record, view, f"answer:{id(record)}:{number}:{view}")
            placeholders.append(placeholder)
    return placeholders


def draw_answer(answer: ShownAnswer, record: AskedQuestion, view: str, key: str) -> None:
    """Draw an answer with its figures: as text, with its differences from the first answer, or token by token."""
    first = record.answers[0]
    if view == TOKEN_VIEW and answer.tokens:
        show_marked_text(mark_likelihoods(answer.tokens), key)
    elif view == DIFFERENCE_VIEW and answer is not first and answer.ended and answer.text and first.text:
        show_marked_text(mark_differences(answer.text, first.text), key)
    elif answer.text or answer.done:
        _draw_text(answer.text)
    elif not answer.ended:
        st.caption("…")
    if answer.error is not None:
        st.caption(
            f":red[:material/error: {escape_text(answer.error.message, 500)}] {escape_text(answer.error.hint, 500)}"
        )
    elif answer.ended and answer.done is None:
        st.caption(":material/stop_circle: Stopped")
    if answer.done is not None:
        st.markdown(f":small[{_verdict(answer, record.expected)}{_answer_figures(answer, answer.done)}]")
        if answer.done.notice:
            st.caption(f":orange[:material/info:] {escape_text(answer.done.notice, 500)}")
    if answer.scored is not None:
        loss, perplexity = answer.scored.loss, answer.scored.perplexity
        st.markdown(f":small[Expected answer: loss {format_figure(loss)}, perplexity {format_figure(perplexity)}]")


def draw_expected_answer(record: AskedQuestion, view: str, key: str) -> None:
    """Draw the expected answer; in the token view with the probabilities that the first model gives to its tokens."""
    if record.expected is None:
        return
    scored = record.answers[0].scored if record.answers else None
    if view == TOKEN_VIEW and scored is not None:
        show_marked_text(mark_likelihoods(scored.tokens), key)
        st.caption(f"Token probabilities of: {escape_text(record.answers[0].title)}. The end token is included.")
    else:
        _draw_text(record.expected)


def _draw_text(text: str) -> None:
    """Draw an answer, with the reasoning before it folded."""
    reasoning, answer = split_reasoning(text)
    if reasoning:
        with st.expander("Reasoning", icon=":material/psychology:"):
            text_block(reasoning)
    text_block(answer)


def _verdict(answer: ShownAnswer, expected: str | None) -> str:
    if expected is None:
        return ""
    if is_exact_match(answer.text, expected):
        return ":green[:material/check_circle: correct] · "
    return ":red[:material/cancel: incorrect] · "


def _answer_figures(answer: ShownAnswer, done: Done) -> str:
    ended = {"length": "truncated at max new tokens", "cancelled": "stopped"}.get(done.finish_reason)
    own_settings = (
        [] if answer.settings_source == SHARED_SETTINGS else [COLUMN_SETTINGS_LABELS[answer.settings_source].lower()]
    )
    parts = [
        *own_settings,
        f"time to first token {done.ttft_s * 1000:,.0f} ms",
        f"{done.tokens_per_second:,.0f} tokens/s",
        f"{format_count(done.completion_tokens)} tokens",
        f"seed {done.seed}",
        *([ended] if ended else []),
    ]
    return " · ".join(parts)


def draw_exact_prompt(record: AskedQuestion) -> None:
    """Draw the prompt as the model received it, with its special tokens."""
    done = next((answer.done for answer in record.answers if answer.done is not None), None)
    if done is None:
        return
    with st.expander(f"Exact prompt ({format_count(done.prompt_tokens)} tokens)", icon=":material/data_object:"):
        text_block(done.prompt)
