"""The workspace: what a person is working on, kept on disk so that a refresh, a second tab or a restart shows it again.

`draft_file.py` keeps the draft and the grid of an ablation beside it; the chosen run rides in the address bar.
The draft is a plain nested dict and may be invalid: what is wrong with it is `validation.py`'s to say.
"""

from __future__ import annotations

import copy
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import streamlit as st

from toolkit.data.read_options import READ_OPTION_NAMES, ReadOptions
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.field_types import find_path_error
from toolkit.runs.preflight import can_use_folder
from toolkit.settings.draft import get_setting, replace_setting
from toolkit.ui.workspace import workspace_file
from toolkit.ui.workspace.current_dataset import open_cached_table, suggest_templates, templates_fit
from toolkit.ui.workspace.workspace_file import DEFAULT_WORKSPACE_FOLDER, home_folder

_CHANGE_LOCK = threading.RLock()


def current_save_dir() -> Path:
    """The folder of runs, uploads and studies."""
    return resolve_save_dir(_workspace())


def resolve_save_dir(workspace: dict[str, Any]) -> Path:
    """The draft's save_dir; `home()` where that is the default or none."""
    chosen = workspace["draft"].get("save_dir")
    if (
        not isinstance(chosen, str)
        or not chosen.strip()
        or chosen == DEFAULT_WORKSPACE_FOLDER
        or find_path_error(chosen)
    ):
        return home_folder()
    folder = Path(chosen).expanduser().resolve()
    return folder if can_use_folder(folder) else home_folder()


def current_draft() -> dict[str, Any]:
    """A copy of the settings as they stand, valid or not. Change them through `set_value` and `replace_draft`."""
    return cast(dict[str, Any], copy.deepcopy(_workspace()["draft"]))


TOKEN_SETTINGS = ("data.path", "data.prompt", "data.prompt_stub", "data.messages", "data.use_chat_template",
                 "model.hf_model_ckpt")  # fmt: skip
"""What a hard stop was accepted for: with another value it is to be looked at again."""


def set_setting(path: str, value: Any) -> None:
    """Put one setting, e.g. ("lora.r", 8), and save."""
    with _change_workspace() as workspace:
        if path in TOKEN_SETTINGS and get_setting(workspace["draft"], path) != value:
            workspace["draft"] = replace_setting(workspace["draft"], "data.accepted", None)
        workspace["draft"] = replace_setting(workspace["draft"], path, value)


def replace_draft(new: dict[str, Any], grid: dict[str, list[Any]] | None = None) -> None:
    """Take a whole new draft (an imported file, a preset, an earlier run's settings) with its grid, and save.

    The draft that it replaces stays one step away: `restore_previous`.
    """
    with _change_workspace() as workspace:
        st.session_state["previous_workspace"] = copy.deepcopy(workspace)
        workspace["draft"], workspace["grid"] = (
            workspace_file.with_home_folder(copy.deepcopy(new)),
            copy.deepcopy(grid or {}),
        )
        _increase_version()


def has_previous_draft() -> bool:
    return "previous_workspace" in st.session_state


def restore_previous_draft() -> None:
    """Undo the last `replace_draft` of this session; does nothing when there was none."""
    previous = st.session_state.pop("previous_workspace", None)
    if previous is not None:
        st.session_state["workspace"] = previous
        _increase_version()
        _save_to_file(previous)


def current_grid() -> dict[str, list[Any]]:
    """The values that an ablation tries, by dotted path; empty when there is none."""
    return cast(dict[str, list[Any]], copy.deepcopy(_workspace()["grid"]))


def set_grid(new: dict[str, list[Any]]) -> None:
    with _change_workspace() as workspace:
        workspace["grid"] = copy.deepcopy(new)


def current_setting(path: str) -> Any:
    """One setting as it stands in the draft."""
    return get_setting(_workspace()["draft"], path)


def current_table() -> Table | None:
    """The dataset that the draft names, opened once; None when it can't be, and `table_error` says why."""
    try:
        opened = open_cached_table(_workspace()["draft"].get("data") or {}, current_save_dir())
    except DataError as error:
        st.session_state["table_error"] = error
        return None
    st.session_state.pop("table_error", None)
    return opened


def table_error() -> DataError | None:
    return cast("DataError | None", st.session_state.get("table_error"))


def choose_dataset(file_type: str, path: str, options: ReadOptions | None = None, test_path: str | None = None) -> None:
    """Take another dataset into the draft; without `options` it is a version of the same one, whose choices stay.

    Raises DataError and keeps the former one when it can't be opened. Conversations are trained on as such. Templates
    that don't fit the columns are replaced by suggestions; the earlier ones stay at hand.
    """
    named: dict[str, Any] = {"file_type": file_type, "path": path}
    if options is None:
        kept = _workspace()["draft"]["data"]
        named |= {name: kept.get(name) for name in ("test_path", *READ_OPTION_NAMES)}
    else:
        named |= {"test_path": test_path, **asdict(options)}
    opened = open_cached_table(named, current_save_dir(), again=True)
    with _change_workspace() as workspace:
        data = workspace["draft"]["data"] = {**workspace["draft"]["data"], **named, "accepted": None}
        if options is not None and data.get("messages") not in opened.chats:
            data["messages"] = next(iter(opened.chats), None)
        prompt, stub = str(data.get("prompt") or ""), str(data.get("prompt_stub") or "")
        if not templates_fit(prompt, stub, opened.columns):
            st.session_state["earlier_templates"] = (prompt, stub)
            data["prompt"], data["prompt_stub"] = suggest_templates(opened.columns)
        _increase_version()


def choose_messages(column: str | None) -> None:
    """Train on the conversations of a column, or, with None, on the two templates."""
    set_setting("data.messages", column)
    _increase_version()


def replace_templates(prompt: str, stub: str) -> None:
    """Put both templates at once, from outside of their editors."""
    with _change_workspace() as workspace:
        data = workspace["draft"]["data"]
        workspace["draft"]["data"] = {**data, "prompt": prompt, "prompt_stub": stub, "accepted": None}
        _increase_version()


def draft_version() -> int:
    """Grows whenever the draft was replaced from outside its widgets: put it into their keys."""
    return int(st.session_state.get("workspace_version", 0))


def refresh_workspace() -> None:
    """Take over what another tab has saved since: before any widget is drawn, and before a change that builds on it."""
    if "workspace" in st.session_state and workspace_file.workspace_file_stamp() != st.session_state.get(
        "workspace_stamp"
    ):
        st.session_state["workspace"] = _load_from_file()
        _increase_version()


def chosen_run_id() -> str | None:
    """The chosen run, kept in the address bar and, over page switches, in the session."""
    named = st.query_params.get("run")
    if named:
        st.session_state["run_id"] = named
    return cast("str | None", st.session_state.get("run_id"))


def choose_run(chosen: str | None) -> None:
    """Choose the run that Runs and Playground show; None shows none."""
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
    """The workspace as any tab saved it last, to be changed; saved at the end."""
    with _CHANGE_LOCK:  # a callback runs before the page's own refresh: what another tab has changed must not go back
        refresh_workspace()
        workspace = _workspace()
        yield workspace
        _save_to_file(workspace)


def _increase_version() -> None:
    st.session_state["workspace_version"] = draft_version() + 1


def _load_from_file() -> dict[str, Any]:
    st.session_state["workspace_stamp"] = workspace_file.workspace_file_stamp()
    loaded, notice = workspace_file.load_workspace()
    if notice:
        st.session_state["workspace_notice"] = notice
    return loaded


def _save_to_file(workspace: dict[str, Any]) -> None:
    workspace_file.save_workspace(workspace)
    st.session_state["workspace_stamp"] = workspace_file.workspace_file_stamp()


def session_id() -> str:
    """This browser session: whose former questions give way to new ones."""
    return str(st.session_state.setdefault("session", secrets.token_hex(8)))
