"""The playground: a run, its engine, a question in either form, and the answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from toolkit.config import InferenceConfig
from toolkit.errors import Problem
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.services.engine_process import EngineInfo
from toolkit.settings.validation import validate_draft
from toolkit.ui.forms.form import render_section
from toolkit.ui.playground.answer_card import (
    DIFFERENCE_VIEW,
    TEXT_VIEW,
    TOKEN_VIEW,
    create_answer_columns,
    draw_answers,
    draw_exact_prompt,
    draw_question_card,
)
from toolkit.ui.playground.chat import allows_chat, find_chat_refusal, prepare_chat_question
from toolkit.ui.playground.columns import AnswerColumn, choose_columns, draw_generation_presets
from toolkit.ui.playground.engine_bar import draw_engine_bar, request_engine
from toolkit.ui.playground.questions import AskedQuestion, asked_questions, remember_question, stream_answers
from toolkit.ui.playground.template_form import draw_column_boxes, fill_random_test_row, prepare_boxed_question
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_chooser import choose_shown_run
from toolkit.ui.workspace.run_entries import RunEntry

QUESTION_FORMS = {"template": ":material/table_rows: As in training", "chat": ":material/forum: Free chat"}


ANSWER_VIEWS = {
    TEXT_VIEW: ":material/notes: Text",
    DIFFERENCE_VIEW: ":material/difference: Differences",
    TOKEN_VIEW: ":material/token: Tokens",
}


@dataclass(frozen=True)
class QuestionOptions:
    """How to ask: who answers, a seed or None for a new one each time, and how answers are shown."""

    columns: Sequence[AnswerColumn]
    seed: int | None
    view: str

    @property
    def are_settings_valid(self) -> bool:
        """False while the settings of a column are wrong."""
        return all(column.inference is not None for column in self.columns)


def draw_playground(usable: Sequence[RunEntry], found: Sequence[RunEntry]) -> RunEntry:
    """Draw the playground over the runs that have an adapter; returns the chosen one. found: all runs."""
    main, side = st.columns([7, 3], gap="large")
    with main:
        entry = choose_shown_run(usable, "Run")
        bar = st.container()
    with side:
        asking = _choose_options(entry, found)
    with main:
        with bar:
            info = draw_engine_bar(entry)
        form = _choose_form(entry, info)
        if form == "chat":
            _draw_chat(entry.run, info, asking)
        else:
            _draw_template_form(entry.run, info, asking)
    return entry


def _choose_options(entry: RunEntry, found: Sequence[RunEntry]) -> QuestionOptions:
    inference, problems = validate_inference_settings()
    st.markdown("##### :material/groups: Who answers")
    columns = choose_columns(entry, found, inference)
    view = st.segmented_control(
        "Show answers as", list(ANSWER_VIEWS), format_func=ANSWER_VIEWS.__getitem__, default=DIFFERENCE_VIEW, required=True, key="answer_view",
        persist_state="session",
        help="Differences: words that the first column does not have there. Tokens: hover one for its probability and "
        "what else was likely.",
    )  # fmt: skip
    st.markdown("##### :material/tune: How they answer")
    seed = st.number_input(
        "Seed", 0, 2**32 - 1, value=None, placeholder="a new one each time", key="ask_seed", persist_state="session",
        help="One seed for all columns. The same seed gives the same answer.",
    )  # fmt: skip
    draw_generation_presets()
    render_section("inference", problems, several=False)
    st.caption("Changes count from the next question on.")
    return QuestionOptions(columns, seed, view or DIFFERENCE_VIEW)


def validate_inference_settings() -> tuple[InferenceConfig | None, list[Problem]]:
    """The draft's section on inference, and what is wrong with it; None while something is."""
    draft = workspace.current_draft()
    _, problems = validate_draft(draft)
    mine = [problem for problem in problems if problem.path.startswith("inference")]
    if any(problem.severity == "error" for problem in mine):
        return None, mine
    return InferenceConfig.model_validate(draft["inference"]), mine


def _choose_form(entry: RunEntry, info: EngineInfo | None) -> str:
    if not allows_chat(read_run_config(entry.run)):
        return "template"
    if info is not None and find_chat_refusal(info, entry.run.id) is not None:
        return "template"
    chosen = st.segmented_control(
        "Form of the question", list(QUESTION_FORMS), format_func=QUESTION_FORMS.__getitem__, default="template", required=True,
        key="ask_form", label_visibility="collapsed", persist_state="session",
    )  # fmt: skip
    return chosen or "template"


def _draw_template_form(run: RunDir, info: EngineInfo | None, asking: QuestionOptions) -> None:
    kept = asked_questions(run.id, chat=False)
    draw_column_boxes(run)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        off = not asking.are_settings_valid
        st.button(
            "Try a test row", icon=":material/casino:", type="secondary" if kept else "primary", disabled=off,
            on_click=_try_row, args=(run, asking), help="A row the model was not trained on, with its known answer.",
        )  # fmt: skip
        st.button(
            "Ask", icon=":material/send:", type="primary" if kept else "secondary", disabled=off, on_click=_ask_question,
            args=(run, asking),
        )  # fmt: skip
        stop = st.empty()
    fresh = _take_pending(run, info, chat=False)
    _end_stale_answers(kept, fresh)
    places: list[DeltaGenerator] = []
    for record in reversed(kept):
        drawn = draw_question_card(record, asking.view)
        if record is fresh:
            places = drawn
    _stream_fresh_answers(info, fresh, places, stop)


def _try_row(run: RunDir, asking: QuestionOptions) -> None:
    fill_random_test_row(run)
    _ask_question(run, asking)


def _ask_question(run: RunDir, asking: QuestionOptions) -> None:
    st.session_state["pending_ask"] = prepare_boxed_question(run, seed=asking.seed, columns=asking.columns)
    request_engine(run.id)


def _take_pending(run: RunDir, info: EngineInfo | None, *, chat: bool) -> AskedQuestion | None:
    """The question that waits for the engine, once the engine is there."""
    waiting: AskedQuestion | None = st.session_state.get("pending_ask")
    if waiting is None or waiting.run_id != run.id or waiting.chat is not chat:
        return None
    if info is None:
        st.caption(":material/hourglass_top: The question is asked as soon as the model has loaded.")
        return None
    del st.session_state["pending_ask"]
    remember_question(waiting)
    return waiting


def _end_stale_answers(kept: Sequence[AskedQuestion], fresh: AskedQuestion | None) -> None:
    """What this run of the page does not stream is over: a run that was stopped may still be on its way out."""
    for record in kept:
        if record is not fresh:
            for answer in record.answers:
                answer.over = True


def _stream_fresh_answers(
    info: EngineInfo | None, fresh: AskedQuestion | None, places: Sequence[DeltaGenerator], stop: DeltaGenerator
) -> None:
    """Stream the fresh question's answers; a press of Stop reruns the page, which ends the stream."""
    if info is None or fresh is None:
        return
    stop.button("Stop", icon=":material/stop_circle:", key="stop_answer")
    stream_answers(info, fresh, places)
    st.rerun()


def _draw_chat(run: RunDir, info: EngineInfo | None, asking: QuestionOptions) -> None:
    with st.expander("System prompt", icon=":material/psychology:"):
        system = st.text_area(
            "System prompt", key="system_prompt", height="content", label_visibility="collapsed",
            placeholder="Empty: none is sent", persist_state="session",
        )  # fmt: skip
    said = st.container()
    typed = st.chat_input("Your message", disabled=not asking.are_settings_valid, key="chat_input")
    if typed:
        st.session_state["pending_ask"] = prepare_chat_question(
            run, str(typed), system or "", seed=asking.seed, columns=asking.columns
        )
        request_engine(run.id)
        if info is None:
            st.rerun()
    stop = st.empty()
    with said:
        fresh = _take_pending(run, info, chat=True)
        places = _draw_conversation(run, fresh, asking.view)
    before = asked_questions(run.id, chat=True)
    if before and st.button("Clear the conversation", icon=":material/delete_sweep:", type="tertiary"):
        before.clear()
        st.rerun()
    _stream_fresh_answers(info, fresh, places, stop)


def _draw_conversation(run: RunDir, fresh: AskedQuestion | None, view: str) -> list[DeltaGenerator]:
    _end_stale_answers(asked_questions(run.id, chat=True), fresh)
    places: list[DeltaGenerator] = []
    for record in asked_questions(run.id, chat=True):
        with st.chat_message("user", avatar=":material/person:"):
            st.text(record.shown)
        with st.chat_message("assistant", avatar=":material/smart_toy:"):
            drawn = draw_answers(record, create_answer_columns(len(record.answers)), view)
            draw_exact_prompt(record)
        if record is fresh:
            places = drawn
    return places
