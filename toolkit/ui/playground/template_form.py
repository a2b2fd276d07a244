"""Asking in the form that the run was trained on: one box a column, or a row of the test split with its answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from toolkit.data.conversations import Message, format_conversation
from toolkit.data.examples.renderers import ChatRenderer, renderer_of
from toolkit.data.examples.split import plan_split
from toolkit.data.examples.templates import Renderer
from toolkit.data.table import Table, load_table
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.examples.prompt_view import text_block
from toolkit.ui.playground.columns import AnswerColumn
from toolkit.ui.playground.questions import AskedQuestion, prepare_question

TestRowIndices = np.ndarray[Any, np.dtype[np.int64]]


@st.cache_resource(show_spinner=False, max_entries=8)
def load_test_rows(folder: str) -> tuple[Table, TestRowIndices, Renderer]:
    """The run's own table, the rows of its test split, and its templates, compiled as in training. Raises DataError."""
    run = RunDir(Path(folder))
    config, table = read_run_config(run), load_table(run.source_path)
    renderer = renderer_of(config.data, table.columns)
    return table, plan_split(table, config.data).test, renderer


def draw_column_boxes(run: RunDir) -> None:
    """One growing box for each column of the prompt's template, or for the question that ends a conversation; a row of
    the test split is in them at first."""
    renderer = load_test_rows(str(run.path))[2]
    if _row_key(run) not in st.session_state:
        fill_random_test_row(run)
    if isinstance(renderer, ChatRenderer):
        earlier = _row_messages(run, renderer)[:-2]
        if earlier:
            st.caption("What was said before")
            text_block(format_conversation(earlier))
        st.text_area("The next message", key=_box_key(run, ""), height="content", persist_state="session")
        return
    for column in renderer.prompt_template.columns:
        st.text_area(escape_text(column), key=_box_key(run, column), height="content", persist_state="session")
    if not renderer.prompt_template.columns:
        st.caption("The prompt of this run uses no column: it is the same for every question.")


def fill_random_test_row(run: RunDir) -> None:
    """Put a random row of the test split into the boxes."""
    table, test, renderer = load_test_rows(str(run.path))
    index = int(random.choice(test))  # noqa: S311  which row to try is no secret
    st.session_state[_row_key(run)] = index
    if isinstance(renderer, ChatRenderer):
        st.session_state[_box_key(run, "")] = _last_question(_row_messages(run, renderer))
        return
    row = table.row(index)
    for column in renderer.prompt_template.columns:
        st.session_state[_box_key(run, column)] = row[column] or ""


def prepare_boxed_question(run: RunDir, *, seed: int | None, columns: Sequence[AnswerColumn]) -> AskedQuestion:
    """What the boxes hold now; the expected answer is known while they are a row of the test split unchanged."""
    table, _, renderer = load_test_rows(str(run.path))
    if isinstance(renderer, ChatRenderer):
        return _prepare_chat_question(run, renderer, seed=seed, columns=columns)
    values = {
        column: str(st.session_state.get(_box_key(run, column)) or "") for column in renderer.prompt_template.columns
    }
    row = table.row(int(st.session_state[_row_key(run)]))
    same = all(values[column] == row[column] for column in values)
    prompt = renderer.prompt(values)
    expected = renderer.example(row).completion if same else None
    messages = [{"role": "user", "content": prompt}]
    return prepare_question(run.id, prompt, messages, expected=expected, seed=seed, columns=columns)


def _prepare_chat_question(
    run: RunDir, renderer: ChatRenderer, *, seed: int | None, columns: Sequence[AnswerColumn]
) -> AskedQuestion:
    """The conversation of the row up to its last question, with that question as the box has it."""
    turns = _row_messages(run, renderer)
    typed = str(st.session_state.get(_box_key(run, "")) or "")
    messages = [{"role": turn.role, "content": turn.content} for turn in turns[:-2]]
    messages.append({"role": "user", "content": typed})
    expected = turns[-1].content if typed == _last_question(turns) else None
    return prepare_question(run.id, typed, messages, expected=expected, seed=seed, columns=columns)


def _row_messages(run: RunDir, renderer: ChatRenderer) -> tuple[Message, ...]:
    table, _, _ = load_test_rows(str(run.path))
    return renderer.example(table.row(int(st.session_state[_row_key(run)]))).turns


def _last_question(turns: tuple[Message, ...]) -> str:
    """The question before the last answer; empty where that follows something else."""
    return turns[-2].content if len(turns) > 1 and turns[-2].role == "user" else ""


def _row_key(run: RunDir) -> str:
    return f"ask_row:{run.id}"


def _box_key(run: RunDir, column: str) -> str:
    return f"ask:{run.id}:{column}"
