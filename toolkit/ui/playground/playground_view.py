"""The playground: a run, the inference engine, a question by template or chat, and the answers side by side."""

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
from toolkit.ui.frame import page
from toolkit.ui.playground.answer_card import (
    DIFFERENCE_VIEW,
    TEXT_VIEW,
    TOKEN_VIEW,
    create_answer_columns,
    draw_answers,
    draw_exact_prompt,
    draw_question_card,
)
from toolkit.ui.playground.chat import allows_chat, find_chat_refusal, find_system_refusal, prepare_chat_question
from toolkit.ui.playground.columns import AnswerColumn, choose_columns, draw_generation_presets
from toolkit.ui.playground.engine_bar import draw_engine_bar, request_engine
from toolkit.ui.playground.questions import AskedQuestion, asked_questions, remember_question, stream_answers
from toolkit.ui.playground.template_form import draw_column_boxes, fill_random_test_row, prepare_boxed_question
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_chooser import EVALUATE_NOW, choose_shown_run
from toolkit.ui.workspace.run_entries import RunEntry

QUESTION_FORMS = {"template": ":material/table_rows: Prompt template", "chat": ":material/forum: Chat"}
ANSWER_VIEWS = {
    TEXT_VIEW: ":material/notes: Text",
    DIFFERENCE_VIEW: ":material/difference: Differences",
    TOKEN_VIEW: ":material/token: Tokens",
}


@dataclass(frozen=True)
class QuestionOptions:
    """How to ask a question. seed: None for a new one each time. view: how answers are shown, a key of ANSWER_VIEWS."""

    columns: Sequence[AnswerColumn]
    seed: int | None
    view: str

    @property
    def are_settings_valid(self) -> bool:
        """Return False while the settings of a column are invalid."""
        return all(column.inference is not None for column in self.columns)


def draw_playground(runs_with_adapter: Sequence[RunEntry], all_runs: Sequence[RunEntry]) -> RunEntry:
    """Draw the playground for one of the runs with an adapter; return the chosen one."""
    main, side = st.columns([7, 3], gap="large")
    with main:
        entry = choose_shown_run(runs_with_adapter, "Run")
        bar = st.container()
    with side:
        options = _choose_options(entry, all_runs)
    with main:
        with bar:
            info = draw_engine_bar(entry)
        form = _choose_form(entry, info)
        if form == "chat":
            _draw_chat(entry.run, info, options)
        else:
            _draw_template_form(entry.run, info, options)
    return entry


def _choose_options(entry: RunEntry, all_runs: Sequence[RunEntry]) -> QuestionOptions:
    inference, problems = validate_inference_settings()
    st.header(":material/groups: Models", anchor=False)
    columns = choose_columns(entry, all_runs, inference)
    view = st.segmented_control(
        "Show answers as",
        list(ANSWER_VIEWS),
        format_func=ANSWER_VIEWS.__getitem__,
        default=DIFFERENCE_VIEW,
        required=True,
        key="answer_view",
        persist_state="session",
        help="Differences marks the words that differ from the first column, if most words are the same. Tokens shows "
        "the probability of each token and its alternatives on hover.",
    )
    st.header(":material/tune: Generation settings", anchor=False)
    draw_generation_presets()
    render_section("inference", problems, several=False)
    seed = st.number_input(
        "Seed",
        0,
        2**32 - 1,
        value=None,
        placeholder="New for each question",
        key="ask_seed",
        persist_state="session",
        help="All columns use the same seed. The same seed and settings give the same answer.",
    )
    st.caption("Changes apply to the next question.")
    return QuestionOptions(columns, seed, view or DIFFERENCE_VIEW)


def validate_inference_settings() -> tuple[InferenceConfig | None, list[Problem]]:
    """Return the generation settings of the draft, or None while they are invalid, and their problems."""
    draft = workspace.current_draft()
    _, problems = validate_draft(draft)
    own = [problem for problem in problems if problem.path.startswith("inference")]
    if any(problem.severity == "error" for problem in own):
        return None, own
    return InferenceConfig.model_validate(draft["inference"]), own


def _choose_form(entry: RunEntry, info: EngineInfo | None) -> str:
    if not allows_chat(read_run_config(entry.run)):
        return "template"
    if info is not None and find_chat_refusal(info, entry.run.id) is not None:
        return "template"
    chosen = st.segmented_control(
        "Question format",
        list(QUESTION_FORMS),
        format_func=QUESTION_FORMS.__getitem__,
        default="template",
        required=True,
        key="ask_form",
        label_visibility="collapsed",
        persist_state="session",
    )
    return chosen or "template"


def _draw_template_form(run: RunDir, info: EngineInfo | None, options: QuestionOptions) -> None:
    questions = asked_questions(run.id, chat=False)
    draw_column_boxes(run)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        disabled = not options.are_settings_valid
        st.button(
            "Try a test row",
            icon=":material/casino:",
            type="secondary" if questions else "primary",
            disabled=disabled,
            on_click=_try_row,
            args=(run, options),
            help="A row of the test set, with its expected answer.",
        )
        st.button(
            "Ask",
            icon=":material/send:",
            type="primary" if questions else "secondary",
            disabled=disabled,
            on_click=_ask_question,
            args=(run, options),
        )
        if questions and st.button(
            "Evaluate", icon=":material/balance:", help="Ask base model and adapter every test row, and compare them."
        ):
            st.session_state[EVALUATE_NOW] = run.id
            page.go_to_page("evaluate", run.id)
        stop_slot = st.empty()
    fresh = _take_pending(run, info, chat=False)
    _end_stale_answers(questions, fresh)
    placeholders: list[DeltaGenerator] = []
    for record in reversed(questions):
        drawn = draw_question_card(record, options.view)
        if record is fresh:
            placeholders = drawn
    _stream_fresh_answers(info, fresh, placeholders, stop_slot)


def _try_row(run: RunDir, options: QuestionOptions) -> None:
    fill_random_test_row(run)
    _ask_question(run, options)


def _ask_question(run: RunDir, options: QuestionOptions) -> None:
    st.session_state["pending_ask"] = prepare_boxed_question(run, seed=options.seed, columns=options.columns)
    request_engine(run.id)


def _take_pending(run: RunDir, info: EngineInfo | None, *, chat: bool) -> AskedQuestion | None:
    """Return the question that waits for the engine once the engine is ready, else None."""
    pending: AskedQuestion | None = st.session_state.get("pending_ask")
    if pending is None or pending.run_id != run.id or pending.chat is not chat:
        return None
    if info is None:
        st.caption(":material/hourglass_top: Your question is sent as soon as the model has loaded.")
        return None
    del st.session_state["pending_ask"]
    remember_question(pending)
    return pending


def _end_stale_answers(records: Sequence[AskedQuestion], fresh: AskedQuestion | None) -> None:
    """Mark all answers as ended that this rerun of the page does not stream: a rerun cut off their stream."""
    for record in records:
        if record is not fresh:
            for answer in record.answers:
                answer.ended = True


def _stream_fresh_answers(
    info: EngineInfo | None,
    fresh: AskedQuestion | None,
    placeholders: Sequence[DeltaGenerator],
    stop_slot: DeltaGenerator,
) -> None:
    """Stream the answers to the new question. A click on Stop reruns the page, which ends the stream."""
    if info is None or fresh is None:
        return
    stop_slot.button("Stop", icon=":material/stop_circle:", key="stop_answer")
    stream_answers(info, fresh, placeholders)
    st.rerun()


def _draw_chat(run: RunDir, info: EngineInfo | None, options: QuestionOptions) -> None:
    refusal = find_system_refusal(info, run.id) if info is not None else None
    with st.expander("System prompt", icon=":material/psychology:"):
        system = st.text_area(
            "System prompt",
            key="system_prompt",
            height="content",
            label_visibility="collapsed",
            placeholder="Leave empty to send no system prompt",
            disabled=refusal is not None,
            persist_state="session",
        )
        if refusal is not None:
            system = ""
            st.caption("This model's chat template has no system role: no system prompt is sent.")
    conversation = st.container()
    typed = st.chat_input("Message", disabled=not options.are_settings_valid, key="chat_input")
    if typed:
        st.session_state["pending_ask"] = prepare_chat_question(
            run, str(typed), system or "", seed=options.seed, columns=options.columns
        )
        request_engine(run.id)
        if info is None:
            st.rerun()
    stop_slot = st.empty()
    with conversation:
        fresh = _take_pending(run, info, chat=True)
        placeholders = _draw_conversation(run, fresh, options.view)
    questions = asked_questions(run.id, chat=True)
    if questions and st.button("Clear conversation", icon=":material/delete_sweep:", type="tertiary"):
        questions.clear()
        st.rerun()
    _stream_fresh_answers(info, fresh, placeholders, stop_slot)


def _draw_conversation(run: RunDir, fresh: AskedQuestion | None, view: str) -> list[DeltaGenerator]:
    _end_stale_answers(asked_questions(run.id, chat=True), fresh)
    placeholders: list[DeltaGenerator] = []
    for record in asked_questions(run.id, chat=True):
        with st.chat_message("user", avatar=":material/person:"):
            st.text(record.shown)
        with st.chat_message("assistant", avatar=":material/smart_toy:"):
            drawn = draw_answers(record, create_answer_columns(len(record.answers)), view)
            draw_exact_prompt(record)
        if record is fresh:
            placeholders = drawn
    return placeholders
