"""The paths that a person who has signed in may name: those in their own folder and in shared ones, and Hub names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.access.own_folder import is_path_outside
from toolkit.config import Config
from toolkit.errors import DataError, Problem
from toolkit.settings.draft import get_setting, replace_setting
from toolkit.ui.people.signed_in import is_sign_in_configured, own_folder, readable_folders

READ_SETTINGS = ("data.path", "data.test_path", "model.hf_model_ckpt")
"""Settings that name something to read; `save_dir` names where to write."""
_HINT = "Upload the file, or ask the owner of the app for a shared folder."


def find_foreign_paths(draft: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> list[Problem]:
    """Return a problem for each path in a draft and its study that is not for this person; none without sign-in."""
    if not is_sign_in_configured():
        return []
    found = []
    for setting in (*READ_SETTINGS, "save_dir"):
        values = (get_setting(draft, setting), *_study_values(grid, setting))
        refused = next((value for value in values if is_foreign(setting, value)), None)
        if refused is not None:
            found.append(_describe(setting, refused))
    return found


def is_foreign(setting: str, value: Any) -> bool:
    """Return whether the value of this setting names a path that is not for the person of this session."""
    if not value or not is_sign_in_configured():
        return False
    if setting == "save_dir":
        return str(value) != Config.model_fields["save_dir"].default and Path(str(value)) != own_folder()
    return is_path_outside(str(value), readable_folders())


def check_data_paths(data: Mapping[str, Any]) -> None:
    """Raise DataError if a `data` section names a file that is not for this person."""
    for name in ("path", "test_path"):
        if is_foreign(f"data.{name}", data.get(name)):
            problem = _describe(f"data.{name}", data[name])
            raise DataError(problem.message, problem.hint)


def withdraw_foreign_paths(workspace: dict[str, Any], earlier: Mapping[str, Any]) -> str:
    """Set paths that are not for this person back to those of the earlier draft; return what to tell them, or ""."""
    problems = find_foreign_paths(workspace["draft"], workspace["grid"])
    for problem in problems:
        before = get_setting(earlier, problem.path)
        if is_foreign(problem.path, before):
            before = get_setting({}, problem.path)  # the default
        if is_foreign(problem.path, get_setting(workspace["draft"], problem.path)):
            workspace["draft"] = replace_setting(workspace["draft"], problem.path, before)
        workspace["grid"] = {path: v for path, v in workspace["grid"].items() if not _covers(path, problem.path)}
    return "\n".join(f"{problem.message} The setting was not changed. {problem.hint}" for problem in problems)


def _study_values(grid: Mapping[str, list[Any]], setting: str) -> list[Any]:
    """Return the values of a setting in a study, whose values may also be whole sections."""
    found: list[Any] = []
    for path, values in grid.items():
        if path == setting:
            found += values
        elif _covers(path, setting):
            name = setting.removeprefix(f"{path}.")
            found += [get_setting(value, name) for value in values if isinstance(value, Mapping)]
    return found


def _covers(path: str, setting: str) -> bool:
    return path == setting or setting.startswith(f"{path}.")


def _describe(setting: str, value: Any) -> Problem:
    if setting == "save_dir":
        message = f"'{str(value)[:200]}' is not your output folder."
        return Problem(setting, message, f"Leave the folder as it is: {own_folder()}")
    return Problem(setting, f"'{str(value)[:200]}' is not in a folder that you may use.", _HINT)
