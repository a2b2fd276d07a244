"""A question with its answers: a card with one column per model, shown as text, as differences or token by token."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from toolkit.evaluation.statistics.text import is_exact_match, split_reasoning
from toolkit.evaluation.statistics.word_diff import have_common_words
from toolkit.services.engine_http import Done
from toolkit.system.printable import format_count, format_figure, format_plural
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
    elif view == DIFFERENCE_VIEW and _is_comparable(answer, first):
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
        outcome = " · ".join(_outcome(answer, answer.done, record.expected))
        if outcome:
            st.markdown(outcome)
        if answer.done.notice:
            st.caption(f":orange[:material/info:] {escape_text(answer.done.notice, 500)}")
        st.caption(" · ".join(_details(answer, answer.done)))


def _is_comparable(answer: ShownAnswer, first: ShownAnswer) -> bool:
    """Return whether marking the differences from the first answer helps: both are there and have words in common."""
    both = bool(answer.text and first.text)
    return answer is not first and answer.ended and both and have_common_words(first.text, answer.text)


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


def _outcome(answer: ShownAnswer, done: Done, expected: str | None) -> list[str]:
    """Return whether the answer is correct, and what ended it early."""
    parts = []
    if expected is not None:
        is_correct = is_exact_match(answer.text, expected)
        parts.append(":green[:material/check_circle: correct]" if is_correct else ":red[:material/cancel: incorrect]")
    ended = {"length": "truncated at max new tokens", "cancelled": "stopped"}.get(done.finish_reason)
    return [*parts, f":orange[:material/content_cut: {ended}]"] if ended else parts


def _details(answer: ShownAnswer, done: Done) -> list[str]:
    """Return the figures of an answer: length, speed, seed, settings, and how likely the expected answer was."""
    settings = answer.settings_source
    parts = [
        format_plural(done.completion_tokens, "token"),
        f"{done.tokens_per_second:,.0f} tokens/s",
        f"first token after {done.ttft_s * 1000:,.0f} ms",
        f"seed {done.seed}",
    ]
    if settings != SHARED_SETTINGS:
        parts.append(COLUMN_SETTINGS_LABELS[settings].lower())
    if answer.scored is not None:
        loss, perplexity = format_figure(answer.scored.loss), format_figure(answer.scored.perplexity)
        parts.append(f"expected answer: loss {loss}, perplexity {perplexity}")
    return parts


def draw_exact_prompt(record: AskedQuestion) -> None:
    """Draw the prompt as the model received it, with its special tokens."""
    done = next((answer.done for answer in record.answers if answer.done is not None), None)
    if done is None:
        return
    with st.expander(f"Exact prompt ({format_count(done.prompt_tokens)} tokens)", icon=":material/data_object:"):
        text_block(done.prompt)
