"""The workspace: what a person is working on, kept on disk so that a refresh, a second tab or a restart shows it again.

`<workspace>/draft.json` holds the draft and the grid of an ablation beside it; the chosen run rides in the address bar.
The draft is a plain nested dict and may be invalid: what is wrong with it is `validation.py`'s to say.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import streamlit as st

from toolkit.config import Config
from toolkit.data.limits import CHOICES, ReadOptions
from toolkit.data.table import Table
from toolkit.errors import ConfigError, DataError
from toolkit.forms.draft import complete, default_draft, get, put
from toolkit.runs.durable import durable_write
from toolkit.runs.preflight import is_or_can_be_made
from toolkit.schema_types import path_fault
from toolkit.ui.dataset import open_cached, suggest_templates, templates_fit

ENVIRONMENT = "FINETUNING_TOOLKIT_SAVE_DIR"
DEFAULT_FOLDER = cast(str, Config.model_fields["save_dir"].default)
_SCHEMA = 1


def home() -> Path:
    """The folder of the draft: FINETUNING_TOOLKIT_SAVE_DIR, or ./experiments below where the app was started."""
    folder = Path(os.environ.get(ENVIRONMENT) or DEFAULT_FOLDER).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_dir() -> Path:
    """The folder of runs, uploads and studies: the draft's save_dir; `home()` where that is the default or none."""
    chosen = _workspace()["draft"].get("save_dir")
    if not isinstance(chosen, str) or not chosen.strip() or chosen == DEFAULT_FOLDER or path_fault(chosen):
        return home()
    folder = Path(chosen).expanduser().resolve()
    return folder if is_or_can_be_made(folder) else home()


def draft() -> dict[str, Any]:
    """A copy of the settings as they stand, valid or not. Change them through `set_value` and `replace_draft`."""
    return cast(dict[str, Any], copy.deepcopy(_workspace()["draft"]))


DECIDE_TOKENS = ("data.path", "data.prompt", "data.prompt_stub", "data.messages", "data.use_chat_template",
                 "model.hf_model_ckpt")  # fmt: skip
"""What a hard stop was accepted for: with another value it is to be looked at again."""


def set_value(path: str, value: Any) -> None:
    """Put one setting, e.g. ("lora.r", 8), and save."""
    workspace = _workspace()
    if path in DECIDE_TOKENS and get(workspace["draft"], path) != value:
        workspace["draft"] = put(workspace["draft"], "data.accepted", None)
    workspace["draft"] = put(workspace["draft"], path, value)
    _save(workspace)


def replace_draft(new: dict[str, Any], grid: dict[str, list[Any]] | None = None) -> None:
    """Take a whole new draft (an imported file, a preset, an earlier run's settings) with its grid, and save.

    The draft that it replaces stays one step away: `restore_previous`.
    """
    workspace = _workspace()
    st.session_state["previous_workspace"] = copy.deepcopy(workspace)
    workspace["draft"], workspace["grid"] = _at_home(copy.deepcopy(new)), copy.deepcopy(grid or {})
    _bump()
    _save(workspace)


def has_previous() -> bool:
    return "previous_workspace" in st.session_state


def restore_previous() -> None:
    """Undo the last `replace_draft` of this session; does nothing when there was none."""
    previous = st.session_state.pop("previous_workspace", None)
    if previous is not None:
        st.session_state["workspace"] = previous
        _bump()
        _save(previous)


def grid() -> dict[str, list[Any]]:
    """The values that an ablation tries, by dotted path; empty when there is none."""
    return cast(dict[str, list[Any]], copy.deepcopy(_workspace()["grid"]))


def set_grid(new: dict[str, list[Any]]) -> None:
    workspace = _workspace()
    workspace["grid"] = copy.deepcopy(new)
    _save(workspace)


def value(path: str) -> Any:
    """One setting as it stands in the draft."""
    return get(_workspace()["draft"], path)


def table() -> Table | None:
    """The dataset that the draft names, opened once; None when it can't be, and `table_error` says why."""
    try:
        opened = open_cached(_workspace()["draft"].get("data") or {}, save_dir())
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
        named |= {name: kept.get(name) for name in ("test_path", *CHOICES)}
    else:
        named |= {"test_path": test_path, **asdict(options)}
    opened = open_cached(named, save_dir())
    workspace = _workspace()
    data = workspace["draft"]["data"] = {**workspace["draft"]["data"], **named, "accepted": None}
    if options is not None and data.get("messages") not in opened.chats:
        data["messages"] = next(iter(opened.chats), None)
    prompt, stub = str(data.get("prompt") or ""), str(data.get("prompt_stub") or "")
    if not templates_fit(prompt, stub, opened.columns):
        st.session_state["earlier_templates"] = (prompt, stub)
        data["prompt"], data["prompt_stub"] = suggest_templates(opened.columns)
    _bump()
    _save(workspace)


def choose_messages(column: str | None) -> None:
    """Train on the conversations of a column, or, with None, on the two templates."""
    workspace = _workspace()
    workspace["draft"] = put(workspace["draft"], "data.messages", column)
    _bump()
    _save(workspace)


def replace_templates(prompt: str, stub: str) -> None:
    """Put both templates at once, from outside of their editors."""
    workspace = _workspace()
    data = workspace["draft"]["data"]
    workspace["draft"]["data"] = {**data, "prompt": prompt, "prompt_stub": stub, "accepted": None}
    _bump()
    _save(workspace)


def version() -> int:
    """Grows whenever the draft was replaced from outside its widgets: put it into their keys."""
    return int(st.session_state.get("workspace_version", 0))


def refresh() -> None:
    """Take over what another tab has saved since; called once a rerun, before any widget is drawn."""
    if "workspace" in st.session_state and _stamp() != st.session_state.get("workspace_stamp"):
        st.session_state["workspace"] = _load()
        _bump()


def run_id() -> str | None:
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
        st.session_state["workspace"] = _load()
    return cast(dict[str, Any], st.session_state["workspace"])


def _bump() -> None:
    st.session_state["workspace_version"] = version() + 1


def _file() -> Path:
    return home() / "draft.json"


def _stamp() -> int | None:
    file = _file()
    return file.stat().st_mtime_ns if file.exists() else None


def _fresh() -> dict[str, Any]:
    return {"schema": _SCHEMA, "draft": _at_home(default_draft()), "grid": {}}


def _at_home(new: dict[str, Any]) -> dict[str, Any]:
    """Spell the default folder out where the environment moved it: the runs' own configs must name the real one."""
    if new.get("save_dir") in (None, DEFAULT_FOLDER) and os.environ.get(ENVIRONMENT):
        new["save_dir"] = str(home())
    return new


def _load() -> dict[str, Any]:
    """The saved workspace, or the defaults. A file that can't be read is set aside, not lost."""
    st.session_state["workspace_stamp"] = _stamp()
    file = _file()
    if not file.exists():
        return _fresh()
    try:
        return _checked(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, ConfigError) as error:
        aside = file.with_suffix(".unreadable.json")
        file.replace(aside)
        st.session_state["workspace_notice"] = f"The saved draft could not be read ({error}); it is kept as {aside}."
        return _fresh()


def _checked(loaded: Any) -> dict[str, Any]:
    if not isinstance(loaded, dict) or loaded.get("schema") != _SCHEMA:
        raise ValueError("it was written by another version")
    saved, saved_grid = loaded.get("draft"), loaded.get("grid")
    if not isinstance(saved, dict) or not isinstance(saved_grid, dict):
        raise ValueError("it is not a draft")
    return {"schema": _SCHEMA, "draft": _at_home(complete(saved)), "grid": saved_grid}


def _save(workspace: dict[str, Any]) -> None:
    durable_write(_file(), json.dumps(workspace, ensure_ascii=False, indent=1))
    st.session_state["workspace_stamp"] = _stamp()
