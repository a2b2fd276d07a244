"""The workspace: the draft and the values of a study, saved to disk so that refreshes, tabs and restarts share them.

`workspace_file.py` reads and writes the file; the chosen run is in the address bar. The draft is a plain nested dict
and may be invalid; `settings/validation.py` finds what is wrong with it.
"""

from __future__ import annotations

import copy
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import streamlit as st

from toolkit.data.examples.optional_columns import find_optional_columns
from toolkit.data.read_options import READ_OPTION_NAMES, ReadOptions
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.field_types import find_path_error
from toolkit.runs.preflight import can_use_folder
from toolkit.settings.draft import get_setting, replace_setting
from toolkit.ui.people import own_paths
from toolkit.ui.workspace import workspace_file
from toolkit.ui.workspace.current_dataset import (
    are_templates_written,
    open_cached_table,
    suggest_cached_columns,
    templates_fit,
)
from toolkit.ui.workspace.workspace_file import DEFAULT_WORKSPACE_FOLDER, home_folder

_CHANGE_LOCK = threading.RLock()


def current_save_dir() -> Path:
    """Return the folder of runs, uploads and studies."""
    return resolve_save_dir(_workspace())


def resolve_save_dir(workspace: dict[str, Any]) -> Path:
    """Return the draft's save_dir; the home folder if that is empty, the default, invalid, or not writable."""
    chosen = workspace["draft"].get("save_dir")
    if not isinstance(chosen, str) or not chosen.strip():
        return home_folder()
    if chosen == DEFAULT_WORKSPACE_FOLDER or find_path_error(chosen) or own_paths.is_foreign("save_dir", chosen):
        return home_folder()
    folder = Path(chosen).expanduser().resolve()
    return folder if can_use_folder(folder) else home_folder()


def current_draft() -> dict[str, Any]:
    """Return a copy of the draft, valid or not. Change it with `set_setting` and `replace_draft`."""
    return cast(dict[str, Any], copy.deepcopy(_workspace()["draft"]))


TOKEN_SETTINGS = (
    "data.path",
    "data.prompt",
    "data.prompt_stub",
    "data.messages",
    "data.optional_columns",
    "data.use_chat_template",
    "model.hf_model_ckpt",
)
"""Settings that decide the tokens: a change of one withdraws the acceptance of hard stops."""


def set_setting(path: str, value: Any) -> None:
    """Set one setting, such as ("lora.r", 8), and save."""
    with _change_workspace() as workspace:
        _set(workspace, path, value)


def _set(workspace: dict[str, Any], path: str, value: Any) -> None:
    if path in TOKEN_SETTINGS and get_setting(workspace["draft"], path) != value:
        workspace["draft"] = replace_setting(workspace["draft"], "data.accepted", None)
    workspace["draft"] = replace_setting(workspace["draft"], path, value)


def replace_settings(values: Mapping[str, Any], grid: Mapping[str, list[Any]] | None = None) -> None:
    """Set settings by path from outside their widgets, which are drawn anew. grid: None keeps the study's values."""
    with _change_workspace() as workspace:
        for path, value in values.items():
            _set(workspace, path, value)
        if grid is not None:
            workspace["grid"] = copy.deepcopy(dict(grid))
        _increase_version()


def replace_draft(new: dict[str, Any], grid: dict[str, list[Any]] | None = None) -> None:
    """Replace the draft and its grid (by an imported file, a preset, an earlier run's settings), and save.

    `restore_previous_draft` undoes it once.
    """
    with _change_workspace() as workspace:
        st.session_state["previous_workspace"] = copy.deepcopy(workspace)
        workspace["draft"] = workspace_file.with_home_folder(copy.deepcopy(new))
        workspace["grid"] = copy.deepcopy(grid or {})
        _increase_version()


def has_previous_draft() -> bool:
    """Return whether `restore_previous_draft` has something to undo."""
    return "previous_workspace" in st.session_state


def restore_previous_draft() -> None:
    """Undo the last `replace_draft` of this session; do nothing if there was none."""
    previous = st.session_state.pop("previous_workspace", None)
    if previous is not None:
        st.session_state["workspace"] = previous
        _increase_version()
        _save_to_file(previous)


def current_grid() -> dict[str, list[Any]]:
    """Return the values of the study by dotted path; empty if no setting has several values."""
    return cast(dict[str, list[Any]], copy.deepcopy(_workspace()["grid"]))


def set_grid(new: dict[str, list[Any]]) -> None:
    """Replace the values of the study, and save."""
    with _change_workspace() as workspace:
        workspace["grid"] = copy.deepcopy(new)


def current_setting(path: str) -> Any:
    """Return the draft's value of one setting."""
    return get_setting(_workspace()["draft"], path)


def current_table() -> Table | None:
    """Return the draft's dataset, opened once per session; None if it can't be opened, see `table_error`."""
    try:
        opened = open_cached_table(_workspace()["draft"].get("data") or {}, current_save_dir())
    except DataError as error:
        st.session_state["table_error"] = error
        return None
    st.session_state.pop("table_error", None)
    return opened


def table_error() -> DataError | None:
    """Return why the last call of `current_table` returned None."""
    return cast("DataError | None", st.session_state.get("table_error"))


def choose_dataset(file_type: str, path: str, options: ReadOptions | None = None, test_path: str | None = None) -> None:
    """Set the draft's dataset.

    options: None for another version of the same dataset, which keeps its read options and test file.
    A dataset with conversations is trained on as such. Templates that don't fit the columns are replaced by suggested
    ones, or emptied if the user has to choose the columns; those that the user wrote are kept in the session for an
    undo.
    Raises: DataError if the dataset can't be opened; the draft is unchanged then.
    """
    source: dict[str, Any] = {"file_type": file_type, "path": path}
    if options is None:
        current = _workspace()["draft"]["data"]
        source |= {name: current.get(name) for name in ("test_path", *READ_OPTION_NAMES)}
    else:
        source |= {"test_path": test_path, **asdict(options)}
    before = _workspace()["draft"]["data"]
    is_written = are_templates_written(str(before.get("prompt") or ""), str(before.get("prompt_stub") or ""))
    opened = open_cached_table(source, current_save_dir(), again=True)
    with _change_workspace() as workspace:
        data = workspace["draft"]["data"] = {**workspace["draft"]["data"], **source, "accepted": None}
        suggestion = suggest_cached_columns(opened)
        if options is not None and data.get("messages") not in opened.chats:
            data["messages"] = suggestion.messages
        prompt, stub = str(data.get("prompt") or ""), str(data.get("prompt_stub") or "")
        if not templates_fit(prompt, stub, opened.columns):
            st.session_state["earlier_templates"] = (prompt, stub) if is_written else None
            data["prompt"], data["prompt_stub"] = suggestion.prompt, suggestion.completion
        if options is not None:
            data["optional_columns"] = _optional_columns(data, opened)
        _increase_version()


def choose_messages(column: str | None) -> None:
    """Train on the conversations in a column; None trains on the two templates."""
    set_setting("data.messages", column)
    _increase_version()


def replace_templates(prompt: str, stub: str) -> None:
    """Set both templates from outside their editors."""
    with _change_workspace() as workspace:
        data = workspace["draft"]["data"]
        workspace["draft"]["data"] = {**data, "prompt": prompt, "prompt_stub": stub, "accepted": None}
        _increase_version()


def use_suggested_templates(prompt: str, stub: str, table: Table) -> None:
    """Set both templates to a suggested pair for this table, and the columns that are optional in it."""
    replace_templates(prompt, stub)
    set_setting("data.optional_columns", _optional_columns({"prompt": prompt, "prompt_stub": stub}, table))


def _optional_columns(data: Mapping[str, Any], table: Table) -> list[str] | None:
    """Return the columns whose missing cells count as empty with these templates; None where the user decides."""
    pair = str(data.get("prompt") or ""), str(data.get("prompt_stub") or "")
    suggestion = suggest_cached_columns(table)
    if pair not in (*suggestion.candidates, (suggestion.prompt, suggestion.completion)):
        return None
    return list(find_optional_columns(*pair, table)) or None


def draft_version() -> int:
    """Return a number that grows when the draft is replaced from outside its widgets; use it in their keys."""
    return int(st.session_state.get("workspace_version", 0))


def refresh_workspace() -> None:
    """Load what another tab has saved since.

    Call it before any widget is drawn, and before a change that builds on the saved state.
    """
    if "workspace" not in st.session_state:
        return
    if workspace_file.workspace_file_stamp() != st.session_state.get("workspace_stamp"):
        st.session_state["workspace"] = _load_from_file()
        _increase_version()


def session_id() -> str:
    """Return an id of this browser session: a new question to a background job replaces the session's former one."""
    return str(st.session_state.setdefault("session", secrets.token_hex(8)))


def chosen_run_id() -> str | None:
    """Return the chosen run from the address bar or, after a change of page, from the session."""
    in_address = st.query_params.get("run")
    if in_address:
        st.session_state["run_id"] = in_address
    return cast("str | None", st.session_state.get("run_id"))


def choose_run(chosen: str | None) -> None:
    """Choose the run that Runs and Playground show; None clears the choice."""
    if chosen is None:
        st.session_state.pop("run_id", None)
        st.query_params.pop("run", None)
    elif chosen != st.query_params.get("run"):
        st.session_state["run_id"] = chosen
        st.query_params["run"] = chosen


def _workspace() -> dict[str, Any]:
    if "workspace" not in st.session_state:
        st.session_state["workspace"] = _load_from_file()
    return cast(dict[str, Any], st.session_state["workspace"])


@contextmanager
def _change_workspace() -> Iterator[dict[str, Any]]:
    """Yield the workspace as last saved by any tab, to be changed, and save it at the end."""
    with _CHANGE_LOCK:
        # a callback runs before the page's own refresh: without this it would overwrite another tab's changes
        refresh_workspace()
        workspace = _workspace()
        earlier = copy.deepcopy(workspace["draft"])
        yield workspace
        _take_own_paths(workspace, earlier)
        _save_to_file(workspace)


def _take_own_paths(workspace: dict[str, Any], earlier: Mapping[str, Any]) -> None:
    """Set paths back that are not for the person who has signed in, and tell them on the page."""
    notice = own_paths.withdraw_foreign_paths(workspace, earlier)
    workspace_file.with_home_folder(workspace["draft"])
    if notice:
        st.session_state["workspace_notice"] = notice
        _increase_version()


def _increase_version() -> None:
    st.session_state["workspace_version"] = draft_version() + 1


def _load_from_file() -> dict[str, Any]:
    st.session_state["workspace_stamp"] = workspace_file.workspace_file_stamp()
    loaded, notice = workspace_file.load_workspace()
    notice = notice or own_paths.withdraw_foreign_paths(loaded, {})
    if notice:
        st.session_state["workspace_notice"] = notice
    return loaded


def _save_to_file(workspace: dict[str, Any]) -> None:
    workspace_file.save_workspace(workspace)
    st.session_state["workspace_stamp"] = workspace_file.workspace_file_stamp()
