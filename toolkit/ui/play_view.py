"""The playground: a run, its engine, a question in either form, and the answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from toolkit.client import EngineInfo
from toolkit.config import InferenceConfig
from toolkit.errors import Problem
from toolkit.runs.rundir import RunDir, read_config
from toolkit.ui import state
from toolkit.ui.asking import Record, draw_answer, exact_prompt, records, remember, stream
from toolkit.ui.chat import chat_question, may_chat, turns_refused
from toolkit.ui.engine_view import engine_bar, want
from toolkit.ui.form import render_section
from toolkit.ui.plain import plain
from toolkit.ui.prompt_view import text_block
from toolkit.ui.run_pick import run_chooser
from toolkit.ui.run_table import Entry
from toolkit.ui.template_ask import boxes, fill, question_in_boxes
from toolkit.validation import validate

FORMS = {"template": ":material/table_rows: As in training", "chat": ":material/forum: Free chat"}


@dataclass(frozen=True)
class Asking:
    """How to ask: the settings (None while they are wrong), a seed or None for a new one each time, the base or not."""

    inference: InferenceConfig | None
    seed: int | None
    base_too: bool


def playground(found: Sequence[Entry]) -> Entry:
    """Draw the playground over the runs that have an adapter; returns the chosen one."""
    main, side = st.columns([7, 3], gap="large")
    with side:
        asking = _settings()
    with main:
        entry = run_chooser(found, "Run")
        info = engine_bar(entry)
        form = _form(entry, info)
        if form == "chat":
            _chat(entry.run, info, asking)
        else:
            _template(entry.run, info, asking)
    return entry


def _settings() -> Asking:
    st.markdown("##### :material/tune: How it answers")
    base_too = st.toggle("Ask the base model too", value=True, key="base_too", persist_state="session",
                         help="The same prompt, without what was learned.")  # fmt: skip
    seed = st.number_input(
        "Seed", 0, 2**32 - 1, value=None, placeholder="a new one each time", key="ask_seed", persist_state="session",
        help="Counts when sampling is on: the same seed gives the same answer.",
    )  # fmt: skip
    inference, problems = inference_settings()
    render_section("inference", problems)
    st.caption("Changes count from the next question on.")
    return Asking(inference, seed, base_too)


def inference_settings() -> tuple[InferenceConfig | None, list[Problem]]:
    """The draft's section on inference, and what is wrong with it; None while something is."""
    draft = state.draft()
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
        off = asking.inference is None
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
        drawn = _card(record)
        if record is fresh:
            places = drawn
    _answer(info, fresh, asking, places, stop)


def _try_row(run: RunDir, asking: Asking) -> None:
    fill(run)
    _ask(run, asking)


def _ask(run: RunDir, asking: Asking) -> None:
    st.session_state["pending_ask"] = question_in_boxes(run, seed=asking.seed, base_too=asking.base_too)
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
    info: EngineInfo | None, fresh: Record | None, asking: Asking, places: Sequence[DeltaGenerator],
    stop: DeltaGenerator,
) -> None:  # fmt: skip
    """Stream the fresh question's answers; a press of Stop reruns the page, which ends the stream."""
    if info is None or fresh is None or asking.inference is None:
        return
    stop.button("Stop", icon=":material/stop_circle:", key="stop_answer")
    stream(info, fresh, asking.inference, places)
    st.rerun()


def _card(record: Record) -> list[DeltaGenerator]:
    """A question and its answers; returns the place of each answer."""
    with st.container(border=True):
        text_block(record.shown)
        wide = len(record.answers) + (record.expected is not None)
        columns = st.columns(wide)
        places = _places(record, columns)
        if record.expected is not None:
            with columns[-1]:
                st.markdown(":gray-badge[Expected]")
                text_block(record.expected)
        exact_prompt(record)
    return places


def _places(record: Record, columns: Sequence[DeltaGenerator]) -> list[DeltaGenerator]:
    places = []
    for answer, column in zip(record.answers, columns, strict=False):
        with column:
            colour = "green" if answer.model == record.run_id else "gray"
            st.markdown(f":{colour}-badge[{plain(answer.title)}]")
            place = st.empty()
            with place.container():
                draw_answer(answer, record.expected)
            places.append(place)
    return places


def _chat(run: RunDir, info: EngineInfo | None, asking: Asking) -> None:
    with st.expander("System prompt", icon=":material/psychology:"):
        system = st.text_area(
            "System prompt", key="system_prompt", height="content", label_visibility="collapsed",
            placeholder="Empty: none is sent", persist_state="session",
        )  # fmt: skip
    said = st.container()
    typed = st.chat_input("Your message", disabled=asking.inference is None, key="chat_input")
    if typed:
        st.session_state["pending_ask"] = chat_question(
            run, str(typed), system or "", seed=asking.seed, base_too=asking.base_too
        )
        want(run.id)
        if info is None:
            st.rerun()
    stop = st.empty()
    with said:
        fresh = _take_pending(run, info, chat=True)
        places = _turns(run, fresh)
    before = records(run.id, chat=True)
    if before and st.button("Clear the conversation", icon=":material/delete_sweep:", type="tertiary"):
        before.clear()
        st.rerun()
    _answer(info, fresh, asking, places, stop)


def _turns(run: RunDir, fresh: Record | None) -> list[DeltaGenerator]:
    _settle(records(run.id, chat=True), fresh)
    places: list[DeltaGenerator] = []
    for record in records(run.id, chat=True):
        with st.chat_message("user", avatar=":material/person:"):
            st.text(record.shown)
        with st.chat_message("assistant", avatar=":material/smart_toy:"):
            drawn = _places(record, st.columns(len(record.answers)))
            exact_prompt(record)
        if record is fresh:
            places = drawn
    return places
