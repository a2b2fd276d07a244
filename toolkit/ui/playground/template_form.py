"""Questions with the prompt template of a run: one text box per column, filled with a row of the test set at first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from toolkit.data.chat_messages import Message
from toolkit.data.conversations import MessageDict, format_conversation
from toolkit.data.examples.renderers import ChatRenderer, renderer_of
from toolkit.data.examples.split import plan_split
from toolkit.data.examples.templates import Renderer
from toolkit.data.storage.bounded_tables import load_bounded_table
from toolkit.data.table import Table
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.examples.prompt_view import text_block
from toolkit.ui.playground.columns import AnswerColumn
from toolkit.ui.playground.questions import AskedQuestion, prepare_question

TestRowIndices = np.ndarray[Any, np.dtype[np.int64]]


@st.cache_resource(show_spinner=False, max_entries=8)
def load_test_rows(folder: str) -> tuple[Table, TestRowIndices, Renderer]:
    """Return the table of a run, the row numbers of its test set, and its templates as used in training.

    Raises DataError: the table can't be read, or the templates do not fit it.
    """
    run = RunDir(Path(folder))
    config, table = read_run_config(run), load_bounded_table(run.source_path)
    renderer = renderer_of(config.data, table.columns)
    return table, plan_split(table, config.data).test, renderer


def draw_column_boxes(run: RunDir) -> None:
    """Draw one text box per column of the prompt template, or one for the last question of a conversation.

    They contain a row of the test set at first.
    """
    renderer = load_test_rows(str(run.path))[2]
    if _row_key(run) not in st.session_state:
        fill_random_test_row(run)
    if isinstance(renderer, ChatRenderer):
        earlier = _row_messages(run, renderer)[:-2]
        if earlier:
            st.caption("Earlier messages")
            text_block(format_conversation(earlier))
        if len(sent_messages(earlier)) < len(earlier):
            st.caption(
                ":material/info: Tools and tool results of this row are not sent: the Playground asks with text."
            )
        st.text_area("Next message", key=_box_key(run, ""), height="content", persist_state="session")
        return
    for column in renderer.prompt_template.columns:
        st.text_area(escape_text(column), key=_box_key(run, column), height="content", persist_state="session")
    if not renderer.prompt_template.columns:
        st.caption("The prompt template of this run uses no column, so every question has the same prompt.")


def fill_random_test_row(run: RunDir) -> None:
    """Fill the text boxes with a random row of the test set."""
    table, test, renderer = load_test_rows(str(run.path))
    index = int(random.choice(test))  # noqa: S311  not used for security
    st.session_state[_row_key(run)] = index
    if isinstance(renderer, ChatRenderer):
        st.session_state[_box_key(run, "")] = _last_question(_row_messages(run, renderer))
        return
    row = table.row(index)
    for column in renderer.prompt_template.columns:
        st.session_state[_box_key(run, column)] = row[column] or ""


def prepare_boxed_question(run: RunDir, *, seed: int | None, columns: Sequence[AnswerColumn]) -> AskedQuestion:
    """Return the question in the text boxes, with the expected answer while they hold an unchanged test row."""
    table, _, renderer = load_test_rows(str(run.path))
    if isinstance(renderer, ChatRenderer):
        return _prepare_chat_question(run, renderer, seed=seed, columns=columns)
    values = {
        column: str(st.session_state.get(_box_key(run, column)) or "") for column in renderer.prompt_template.columns
    }
    row = table.row(int(st.session_state[_row_key(run)]))
    is_unchanged = all(values[column] == (row[column] or "") for column in values)
    prompt = renderer.prompt(values)
    expected = renderer.example(row).completion if is_unchanged else None
    messages = [{"role": "user", "content": prompt}]
    return prepare_question(run.id, prompt, messages, expected=expected, seed=seed, columns=columns)


def _prepare_chat_question(
    run: RunDir, renderer: ChatRenderer, *, seed: int | None, columns: Sequence[AnswerColumn]
) -> AskedQuestion:
    """Return the conversation of the row up to its last question, which is replaced by the text of the box."""
    turns = _row_messages(run, renderer)
    typed = str(st.session_state.get(_box_key(run, "")) or "")
    messages = sent_messages(turns[:-2])
    messages.append({"role": "user", "content": typed})
    expected = turns[-1].content if typed == _last_question(turns) else None
    return prepare_question(run.id, typed, messages, expected=expected, seed=seed, columns=columns)


def sent_messages(turns: Sequence[Message]) -> list[MessageDict]:
    """Return the messages that the engine takes: those of system, user and assistant, as text."""
    taken = (turn for turn in turns if turn.role in ("system", "user", "assistant"))
    return [{"role": turn.role, "content": turn.content} for turn in taken]


def _row_messages(run: RunDir, renderer: ChatRenderer) -> tuple[Message, ...]:
    table, _, _ = load_test_rows(str(run.path))
    return renderer.example(table.row(int(st.session_state[_row_key(run)]))).turns


def _last_question(turns: tuple[Message, ...]) -> str:
    """Return the question before the last answer; "" if the answer follows a message that is not the user's."""
    return turns[-2].content if len(turns) > 1 and turns[-2].role == "user" else ""


def _row_key(run: RunDir) -> str:
    return f"ask_row:{run.id}"


def _box_key(run: RunDir, column: str) -> str:
    return f"ask:{run.id}:{column}"
