"""The dataset that the draft names, opened once per session, and what is suggested to train on in it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import streamlit as st
from pydantic import ValidationError

from toolkit.config import Config, DataConfig
from toolkit.data.examples.column_suggestion import ColumnSuggestion, suggest_for_table
from toolkit.data.examples.templates import compile_template
from toolkit.data.read_options import SOURCE_SETTINGS
from toolkit.data.storage.background_open import StillOpeningError, open_or_wait
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.ui.people.own_paths import check_data_paths

REOPEN_AFTER_SECONDS = 30.0
"""Seconds for which a failure to open is remembered: an unreachable Hub or a broken file may take long to fail."""


def open_cached_table(data: Mapping[str, Any], save_dir: Path, *, again: bool = False) -> Table:
    """Open the table of a draft's data section, cached in the session.

    A failure is remembered for REOPEN_AFTER_SECONDS, because every rerun of a page opens the table.
    again: try again even if a failure is remembered.
    Raises: DataError; its subclass StillOpeningError while a large dataset is being opened.
    """
    check_data_paths(data)
    source = {name: data.get(name) for name in SOURCE_SETTINGS}
    key = (tuple(source.values()), _file_stamp(source["path"]), _file_stamp(source["test_path"]), str(save_dir))
    cached = st.session_state.get("table")
    if cached is None or cached[0] != key:
        failed = st.session_state.get("table_refused")
        retry_at = failed[2] + REOPEN_AFTER_SECONDS if failed is not None and failed[0] == key else 0.0
        if failed is not None and time.monotonic() < retry_at and not again:
            raise failed[1]
        try:
            table = open_or_wait(_data_config(source), save_dir)
        except StillOpeningError:
            raise
        except DataError as error:
            st.session_state["table_refused"] = (key, error, time.monotonic())
            raise
        st.session_state["table"] = cached = (key, table)
    return cast(Table, cached[1])


def _data_config(source: Mapping[str, Any]) -> DataConfig:
    try:
        return DataConfig.model_validate(dict(source))
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(map(str, first["loc"][:1])) or "path"
        value = str(source.get(setting))[:200]
        message = f"'{value}' is not a valid {setting.replace('_', ' ')} of a dataset: {first['msg']}."
        raise DataError(message, "Choose another one.") from error


def _file_stamp(path: Any) -> tuple[int, int] | None:
    """Return modification time (ns) and size of a file; None if it does not exist (a Hub dataset, for example)."""
    file = Path(str(path))
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def suggest_cached_columns(table: Table) -> ColumnSuggestion:
    """Return what is suggested to train on in this table, cached in the session."""
    cached = st.session_state.get("suggestion")
    if cached is None or cached[0] != table.path:
        st.session_state["suggestion"] = cached = (table.path, suggest_for_table(table))
    return cast(ColumnSuggestion, cached[1])


def are_templates_written(prompt: str, stub: str) -> bool:
    """Return whether the user wrote these templates: not the defaults, and not suggested for the last dataset."""
    cached = st.session_state.get("suggestion")
    suggested = cached[1] if cached is not None else None
    default = DataConfig()
    known = {("", ""), (default.prompt, default.prompt_stub)}
    if suggested is not None:
        known |= {(suggested.prompt, suggested.completion), *suggested.candidates}
    return (prompt, stub) not in known


def templates_fit(prompt: str, stub: str, columns: Sequence[str]) -> bool:
    """Return whether both templates compile against these columns and the completion uses at least one of them."""
    try:
        compile_template(prompt, columns)
        return bool(compile_template(stub, columns).columns) or not columns
    except DataError:
        return False


def config_with_data(data: Mapping[str, Any]) -> Config | None:
    """Return a Config with this data section and defaults elsewhere; None while the section is invalid."""
    try:
        return Config.model_validate({"data": dict(data)})
    except ValidationError:
        return None
