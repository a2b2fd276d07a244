"""Paths of a draft that are not for the person of the session: found in every place, and set back to what was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import DataError
from toolkit.settings.draft import default_draft, get_setting, replace_setting
from toolkit.ui.people import own_paths


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the person who has signed in."""
    folder = tmp_path / "users" / "a"
    folder.mkdir(parents=True)
    monkeypatch.setattr(own_paths, "is_sign_in_configured", lambda: True)
    monkeypatch.setattr(own_paths, "own_folder", lambda: folder)
    monkeypatch.setattr(own_paths, "readable_folders", lambda: (folder,))
    return folder


def draft_with(setting: str, value: Any) -> dict[str, Any]:
    return replace_setting(default_draft(), setting, value)


@pytest.mark.parametrize("setting", [*own_paths.READ_SETTINGS, "save_dir"])
def test_a_foreign_path_is_found_and_set_back(own: Path, setting: str) -> None:
    theirs = str(own.parent / "b" / "x.csv")
    mine = str(own) if setting == "save_dir" else str(own / "x.csv")
    assert not own_paths.find_foreign_paths(draft_with(setting, mine), {})
    workspace = {"draft": draft_with(setting, theirs), "grid": {}}
    assert theirs in own_paths.withdraw_foreign_paths(workspace, draft_with(setting, mine))
    assert get_setting(workspace["draft"], setting) == mine
    workspace = {"draft": draft_with(setting, theirs), "grid": {}}
    own_paths.withdraw_foreign_paths(workspace, workspace["draft"])
    assert get_setting(workspace["draft"], setting) == get_setting(default_draft(), setting)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("model.hf_model_ckpt", ["gpt2", "/srv/theirs"]),
        ("data.path", ["bundled:orders.csv", "/srv/theirs.csv"]),
        ("data", [{"path": "/srv/theirs.csv"}]),
        ("data", [{"path": "a.csv", "test_path": "/srv/theirs.csv"}]),
        ("model", [{"hf_model_ckpt": "/srv/theirs"}]),
        ("save_dir", ["/srv/theirs"]),
    ],
)
def test_the_values_of_a_study_count_as_well(own: Path, path: str, values: list[Any]) -> None:
    workspace: dict[str, Any] = {"draft": default_draft(), "grid": {path: values, "lora.r": [4, 8]}}
    assert "/srv/theirs" in own_paths.withdraw_foreign_paths(workspace, default_draft())
    assert workspace == {"draft": default_draft(), "grid": {"lora.r": [4, 8]}}


def test_data_of_others_is_not_opened(own: Path) -> None:
    own_paths.check_data_paths({"path": "bundled:orders.csv", "test_path": None})
    for name in ("path", "test_path"):
        with pytest.raises(DataError, match="not in a folder that you may use"):
            own_paths.check_data_paths({"path": "bundled:orders.csv", name: str(own.parent / "b" / "x.csv")})


def test_without_sign_in_every_path_is_as_before(tmp_path: Path) -> None:
    draft = replace_setting(draft_with("data.path", "/etc/passwd"), "save_dir", str(tmp_path))
    assert not own_paths.find_foreign_paths(draft, {"model.hf_model_ckpt": ["/srv/model"]})
    own_paths.check_data_paths(draft["data"])
