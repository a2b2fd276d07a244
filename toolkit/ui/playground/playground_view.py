"""The playground: a run, its engine, a question in either form, and the answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from toolkit.config import InferenceConfig
from toolkit.errors import Problem
from toolkit.runs.run_dir import RunDir, read_config
from toolkit.services.engine_process import EngineInfo
from toolkit.settings.validation import validate
from toolkit.ui.forms.form import render_section
from toolkit.ui.playground.answer_card import MARKED, TEXT, TOKENS, answer_places, card, columns_for, exact_prompt
from toolkit.ui.playground.chat import chat_question, may_chat, turns_refused
from toolkit.ui.playground.columns import Column, choose_columns, preset_buttons
from toolkit.ui.playground.engine_bar import engine_bar, want
from toolkit.ui.playground.questions import Record, records, remember, stream
from toolkit.ui.playground.template_form import boxes, fill, question_in_boxes
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_chooser import run_chooser
from toolkit.ui.workspace.run_entries import Entry

FORMS = {"template": ":material/table_rows: As in training", "chat": ":material/forum: Free chat"}


VIEWS = {
    TEXT: ":material/notes: Text",
    MARKED: ":material/difference: Differences",
    TOKENS: ":material/token: Tokens",
}


@dataclass(frozen=True)
class Asking:
    """How to ask: who answers, a seed or None for a new one each time, and how answers are shown."""

    columns: Sequence[Column]
    seed: int | None
    view: str

    @property
    def able(self) -> bool:
        """False while the settings of a column are wrong."""
        return all(column.inference is not None for column in self.columns)


def playground(usable: Sequence[Entry], found: Sequence[Entry]) -> Entry:
    """Draw the playground over the runs that have an adapter; returns the chosen one. found: all runs."""
    main, side = st.columns([7, 3], gap="large")
    with main:
        entry = run_chooser(usable, "Run")
        bar = st.container()
    with side:
        asking = _settings(entry, found)
    with main:
        with bar:
            info = engine_bar(entry)
        form = _form(entry, info)
        if form == "chat":
            _chat(entry.run, info, asking)
        else:
            _template(entry.run, info, asking)
    return entry


def _settings(entry: Entry, found: Sequence[Entry]) -> Asking:
    inference, problems = inference_settings()
    st.markdown("##### :material/groups: Who answers")
    columns = choose_columns(entry, found, inference)
    view = st.segmented_control(
        "Show answers as", list(VIEWS), format_func=VIEWS.__getitem__, default=MARKED, required=True, key="answer_view",
        persist_state="session",
        help="Differences: words that the first column does not have there. Tokens: hover one for its probability and "
        "what else was likely.",
    )  # fmt: skip
    st.markdown("##### :material/tune: How they answer")
    seed = st.number_input(
        "Seed", 0, 2**32 - 1, value=None, placeholder="a new one each time", key="ask_seed", persist_state="session",
        help="One seed for all columns. The same seed gives the same answer.",
    )  # fmt: skip
    preset_buttons()
    render_section("inference", problems, several=False)
    st.caption("Changes count from the next question on.")
    return Asking(columns, seed, view or MARKED)


def inference_settings() -> tuple[InferenceConfig | None, list[Problem]]:
    """The draft's section on inference, and what is wrong with it; None while something is."""
    draft = workspace.draft()
    _, problems = validate(draft)
    mine = [problem for problem in problems if problem.path.startswith("inference")]
    if any(problem.severity == "error" for problem in mine):
        return None, mine
    return InferenceConfig.model_validate(draft["inference"]), mine


def _form(entry: Entry, info: EngineInfo | None) -> str:
    if not may_chat(read_config(entry.run)):
        return "template"
    if info is not None and turns_refused(info, entry.run.id) is not None:
        return "template"
    chosen = st.segmented_control(
        "Form of the question", list(FORMS), format_func=FORMS.__getitem__, default="template", required=True,
        key="ask_form", label_visibility="collapsed", persist_state="session",
    )  # fmt: skip
    return chosen or "template"


def _template(run: RunDir, info: EngineInfo | None, asking: Asking) -> None:
    kept = records(run.id, chat=False)
    boxes(run)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        off = not asking.able
        st.button(
            "Try a test row", icon=":material/casino:", type="secondary" if kept else "primary", disabled=off,
            on_click=_try_row, args=(run, asking), help="A row the model was not trained on, with its known answer.",
        )  # fmt: skip
        st.button(
            "Ask", icon=":material/send:", type="primary" if kept else "secondary", disabled=off, on_click=_ask,
            args=(run, asking),
        )  # fmt: skip
        stop = st.empty()
    fresh = _take_pending(run, info, chat=False)
    _settle(kept, fresh)
    places: list[DeltaGenerator] = []
    for record in reversed(kept):
        drawn = card(record, asking.view)
        if record is fresh:
            places = drawn
    _answer(info, fresh, places, stop)


def _try_row(run: RunDir, asking: Asking) -> None:
    fill(run)
    _ask(run, asking)


def _ask(run: RunDir, asking: Asking) -> None:
    st.session_state["pending_ask"] = question_in_boxes(run, seed=asking.seed, columns=asking.columns)
    want(run.id)


def _take_pending(run: RunDir, info: EngineInfo | None, *, chat: bool) -> Record | None:
    """The question that waits for the engine, once the engine is there."""
    waiting: Record | None = st.session_state.get("pending_ask")
    if waiting is None or waiting.run_id != run.id or waiting.chat is not chat:
        return None
    if info is None:
        st.caption(":material/hourglass_top: The question is asked as soon as the model has loaded.")
        return None
    del st.session_state["pending_ask"]
    remember(waiting)
    return waiting


def _settle(kept: Sequence[Record], fresh: Record | None) -> None:
    """What this run of the page does not stream is over: a run that was stopped may still be on its way out."""
    for record in kept:
        if record is not fresh:
            for answer in record.answers:
                answer.over = True


def _answer(
    info: EngineInfo | None, fresh: Record | None, places: Sequence[DeltaGenerator], stop: DeltaGenerator
) -> None:
    """Stream the fresh question's answers; a press of Stop reruns the page, which ends the stream."""
    if info is None or fresh is None:
        return
    stop.button("Stop", icon=":material/stop_circle:", key="stop_answer")
    stream(info, fresh, places)
    st.rerun()


def _chat(run: RunDir, info: EngineInfo | None, asking: Asking) -> None:
    with st.expander("System prompt", icon=":material/psychology:"):
        system = st.text_area(
            "System prompt", key="system_prompt", height="content", label_visibility="collapsed",
            placeholder="Empty: none is sent", persist_state="session",
        )  # fmt: skip
    said = st.container()
    typed = st.chat_input("Your message", disabled=not asking.able, key="chat_input")
    if typed:
        st.session_state["pending_ask"] = chat_question(
            run, str(typed), system or "", seed=asking.seed, columns=asking.columns
        )
        want(run.id)
        if info is None:
            st.rerun()
    stop = st.empty()
    with said:
        fresh = _take_pending(run, info, chat=True)
        places = _turns(run, fresh, asking.view)
    before = records(run.id, chat=True)
    if before and st.button("Clear the conversation", icon=":material/delete_sweep:", type="tertiary"):
        before.clear()
        st.rerun()
    _answer(info, fresh, places, stop)


def _turns(run: RunDir, fresh: Record | None, view: str) -> list[DeltaGenerator]:
    _settle(records(run.id, chat=True), fresh)
    places: list[DeltaGenerator] = []
    for record in records(run.id, chat=True):
        with st.chat_message("user", avatar=":material/person:"):
            st.text(record.shown)
        with st.chat_message("assistant", avatar=":material/smart_toy:"):
            drawn = answer_places(record, columns_for(len(record.answers)), view)
            exact_prompt(record)
        if record is fresh:
            places = drawn
    return places
