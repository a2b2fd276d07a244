"""Where the test rows come from: split off the data, or a file of their own; and whether the split is stratified."""

from __future__ import annotations

import streamlit as st

from toolkit.config import Config
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.stratified_split import answer_codes
from toolkit.data.read_options import DEFAULT_READ_OPTIONS, READ_OPTION_NAMES, ReadOptions
from toolkit.data.table import Table
from toolkit.errors import DataError, Problem
from toolkit.ui.data import opening_view
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.large_uploads import keep_upload
from toolkit.ui.forms.form import render_field
from toolkit.ui.workspace import workspace

MAX_COUNTED_ROWS = 200_000
"""Up to so many rows the page counts the answers."""


def show_split_settings(table: Table, config: Config | None, problems: list[Problem]) -> None:
    """The sizes of the split, or the test file in their place."""
    if table.held_out:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":material/fact_check: The last {table.held_out:,} rows come from a test file; all others are "
                        "trained on.", width="content")  # fmt: skip
            if st.button("Split the test rows off the data instead", icon=":material/undo:", type="tertiary"):
                _use_test_file(None)
        return
    for column, leaf in zip(st.columns(3), ("train_size", "test_size", "train_test_split_seed"), strict=True):
        with column:
            render_field(f"data.{leaf}", problems)
    answers = _count_few_answers(table, config)
    if answers is not None:
        render_field("data.stratify", problems)
        words = f"The completions are {answers} different texts. Switched on, each has the same share in both parts;"
        st.caption(f"{words} off, chance decides.")
    if table.version is None:
        _upload_test_file()


def _upload_test_file() -> None:
    with st.expander("Use a test file instead of a split", icon=":material/upload_file:"):
        turn = st.session_state.setdefault("test_upload_turn", 0)
        given = st.file_uploader("A file with the same columns", type=["csv", "tsv", "json", "jsonl", "parquet"],
                                 key=f"test_upload_{turn}")  # fmt: skip
        failed = st.session_state.get("test_file_error")
        if failed is not None:
            show_error(failed)
        if given is not None:
            st.session_state["test_upload_turn"] = turn + 1
            try:
                path = str(keep_upload(given, workspace.current_save_dir()))
            except DataError as error:
                st.session_state["test_file_error"] = error
                st.rerun()
            _use_test_file(path)


def _use_test_file(test_path: str | None) -> None:
    st.session_state.pop("test_file_error", None)
    options = ReadOptions(
        **{
            name: workspace.current_setting(f"data.{name}") or getattr(DEFAULT_READ_OPTIONS, name)
            for name in READ_OPTION_NAMES
        }
    )
    try:
        with st.spinner("Reading the data…"):
            opening_view.request_dataset(
                str(workspace.current_setting("data.file_type")), str(workspace.current_setting("data.path")), options, test_path
            )  # fmt: skip
    except DataError as error:
        st.session_state["test_file_error"] = error
    st.rerun()


def _count_few_answers(table: Table, config: Config | None) -> int | None:
    """How many different completions there are, where that is few; None otherwise."""
    if config is None or table.rows > MAX_COUNTED_ROWS or config.data.messages is not None:
        return None
    key = (str(table.path), config.data.prompt_stub)
    held = st.session_state.get("few_answers")
    if held is None or held[0] != key:
        st.session_state["few_answers"] = held = (key, _count_answers(table, config))
    count: int | None = held[1]
    return count


def _count_answers(table: Table, config: Config) -> int | None:
    try:
        codes = answer_codes(table, renderer_of(config.data, table.columns).stub_template.columns)
    except DataError:
        return None
    count = int(codes.max(initial=-1)) + 1
    return count if 1 < count <= table.rows // 4 else None
