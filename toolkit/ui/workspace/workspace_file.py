"""The workspace file `<home>/draft.json`: {"schema": 1, "draft": settings, "grid": {dotted path: values of a study}}.

A file that can't be read is renamed to `draft.unreadable.json`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

from toolkit.access.token_file import SAVE_DIR_VARIABLE
from toolkit.config import Config
from toolkit.settings.draft import default_draft, fill_defaults
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import read_foreign_json
from toolkit.ui.people.signed_in import is_sign_in_configured, own_folder

DEFAULT_WORKSPACE_FOLDER = cast(str, Config.model_fields["save_dir"].default)
_SCHEMA = 1


def home_folder() -> Path:
    """Return the folder of the draft: FINETUNING_TOOLKIT_SAVE_DIR, or ./experiments in the app's working directory.

    With sign-in it is the person's own folder in there. Raises SignInError outside the session of such a person.
    """
    return own_folder()


def is_home_folder_moved() -> bool:
    """Return whether the environment variable or sign-in changes the default of the save_dir."""
    return bool(os.environ.get(SAVE_DIR_VARIABLE)) or is_sign_in_configured()


def with_home_folder(new: dict[str, Any]) -> dict[str, Any]:
    """Set the real save_dir where the default is another folder, because runs store it in their config."""
    if new.get("save_dir") in (None, "", DEFAULT_WORKSPACE_FOLDER) and is_home_folder_moved():
        new["save_dir"] = str(home_folder())
    return new


def workspace_file_stamp() -> tuple[int, int] | None:
    """Return a stamp of the file that changes with every save by any tab; None without a file."""
    file = _workspace_file()
    if not file.exists():
        return None
    found = file.stat()
    return found.st_mtime_ns, found.st_ino


def load_workspace() -> tuple[dict[str, Any], str]:
    """Return (the saved workspace or the defaults, a notice for the user or "")."""
    file = _workspace_file()
    if not file.exists():
        return _default_workspace(), ""
    try:
        return _validate_workspace(read_foreign_json(file)), ""
    except FileNotFoundError:  # deleted a moment ago
        return _default_workspace(), ""
    except (ValueError, OSError) as error:
        renamed = file.with_suffix(".unreadable.json")
        file.replace(renamed)
        notice = (
            f"The saved settings could not be read ({error}). They were replaced with the defaults, and the file is"
        )
        return _default_workspace(), f"{notice} kept as {renamed}."


def save_workspace(workspace: dict[str, Any]) -> None:
    """Write the workspace file."""
    durable_write(_workspace_file(), json.dumps(workspace, ensure_ascii=False, indent=1))


def _workspace_file() -> Path:
    return home_folder() / "draft.json"


def _default_workspace() -> dict[str, Any]:
    return {"schema": _SCHEMA, "draft": with_home_folder(default_draft()), "grid": {}}


def _validate_workspace(loaded: Any) -> dict[str, Any]:
    if not isinstance(loaded, dict) or loaded.get("schema") != _SCHEMA:
        raise ValueError("it was written by another version")
    saved, saved_grid = loaded.get("draft"), loaded.get("grid")
    lists = isinstance(saved_grid, dict) and all(isinstance(values, list) for values in saved_grid.values())
    if not isinstance(saved, dict) or not lists:
        raise ValueError("it is not a settings file of this app")
    return {"schema": _SCHEMA, "draft": with_home_folder(fill_defaults(saved)), "grid": saved_grid}
