"""Choice of the test set: split off the dataset, by chance or stratified, or taken from a test file."""

from __future__ import annotations

import streamlit as st

from toolkit.config import Config
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.stratified_split import answer_codes
from toolkit.data.read_options import DEFAULT_READ_OPTIONS, READ_OPTION_NAMES, ReadOptions
from toolkit.data.table import Table
from toolkit.errors import DataError, Problem
from toolkit.system.printable import format_plural
from toolkit.ui.data import opening_view
from toolkit.ui.data.split_view import show_split_bar, split_problems
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.large_uploads import keep_upload
from toolkit.ui.forms.form import render_field
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import config_with_data

_SPLIT_OPENED = "split_opened"
MAX_COUNTED_ROWS = 200_000
"""Tables up to this size are searched for the number of different completions, which takes a second at most."""


def show_split(table: Table) -> None:
    """Draw how the rows are split, with the settings behind it folded as long as they fit."""
    config = config_with_data(workspace.current_draft()["data"])
    problems = split_problems(table, config) if config else []
    if config is not None:
        show_split_bar(table, config)
    is_wrong = config is None or any(problem.severity == "error" for problem in problems)
    # once opened for a problem it stays open: it would fold under the hand that corrects the problem
    opened = st.session_state[_SPLIT_OPENED] = is_wrong or st.session_state.get(_SPLIT_OPENED, False)
    with st.expander("Training and test split", icon=":material/call_split:", key=f"split_{opened}", expanded=opened):
        show_split_settings(table, config, problems)


def show_split_settings(table: Table, config: Config | None, problems: list[Problem]) -> None:
    """Draw the settings of the split, or the test file that replaces it."""
    if table.held_out:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(
                f":material/fact_check: The test set is a separate file with {format_plural(table.held_out, 'row')}. "
                "All other rows are training data.",
                width="content",
            )
            if st.button("Split the dataset instead", icon=":material/undo:", type="tertiary"):
                _use_test_file(None)
        return
    for column, leaf in zip(st.columns(3), ("train_size", "test_size", "train_test_split_seed"), strict=True):
        with column:
            render_field(f"data.{leaf}", problems)
    answers = _count_few_answers(table, config)
    if answers is not None:
        render_field("data.stratify", problems)
        st.caption(
            f"The dataset has {answers} different completions. A stratified split keeps the share of each one the same "
            "in the training set and the test set; otherwise the split is random."
        )
    if table.version is None:
        _upload_test_file()


def _upload_test_file() -> None:
    with st.expander("Use a separate test file", icon=":material/upload_file:"):
        turn = st.session_state.setdefault("test_upload_turn", 0)
        uploaded = st.file_uploader(
            "A file with the same columns as the dataset",
            key=f"test_upload_{turn}",
        )
        failed = st.session_state.get("test_file_error")
        if failed is not None:
            show_error(failed)
        if uploaded is not None:
            st.session_state["test_upload_turn"] = turn + 1
            try:
                path = str(keep_upload(uploaded, workspace.current_save_dir()))
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
                str(workspace.current_setting("data.file_type")),
                str(workspace.current_setting("data.path")),
                options,
                test_path,
            )
    except DataError as error:
        st.session_state["test_file_error"] = error
    st.rerun()


def _count_few_answers(table: Table, config: Config | None) -> int | None:
    """Return the number of different completions if there are few of them, else None."""
    if config is None or table.rows > MAX_COUNTED_ROWS or config.data.messages is not None:
        return None
    key = (str(table.path), config.data.prompt_stub)
    cached = st.session_state.get("few_answers")
    if cached is None or cached[0] != key:
        st.session_state["few_answers"] = cached = (key, _count_answers(table, config))
    count: int | None = cached[1]
    return count


def _count_answers(table: Table, config: Config) -> int | None:
    try:
        codes = answer_codes(table, renderer_of(config.data, table.columns).stub_template.columns)
    except DataError:
        return None
    count = int(codes.max(initial=-1)) + 1
    # stratifying needs several rows per completion on both sides of the split
    return count if 1 < count <= table.rows // 4 else None
