"""The access token: one for each output folder, kept for its owner only, and found again after a restart."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from toolkit.access.token_file import (
    DEFAULT_ADDRESS,
    find_app_folder,
    find_token,
    is_network_allowed,
    load_access_token,
    read_address,
    write_address,
)
from toolkit.errors import RunError


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "access"


def test_a_token_belongs_to_one_folder_and_stays(tmp_path: Path, state: Path) -> None:
    first = load_access_token(tmp_path / "a")
    assert len(first) == 43 and load_access_token(tmp_path / "a") == first
    assert load_access_token(tmp_path / "b") != first
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert load_access_token(tmp_path / "link") == first
    assert not (tmp_path / "a").exists(), "the token is not in the output folder, which may be copied"
    assert {stat.S_IMODE(file.stat().st_mode) for file in state.iterdir()} == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_file_that_others_may_have_read_or_written_is_refused(tmp_path: Path, state: Path) -> None:
    load_access_token(tmp_path)
    (file,) = state.iterdir()
    damaged = [(content, 0o600, "damaged") for content in (b"", b"x" * 42, b"\xff" * 43)]
    for content, mode, words in (*damaged, (b"x" * 43, 0o644, "accessible to other users")):
        file.write_bytes(content)
        file.chmod(mode)
        with pytest.raises(RunError, match=words):
            load_access_token(tmp_path)
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(RunError, match="not a regular file"):
        load_access_token(tmp_path)


def test_the_address_of_the_last_start_is_kept(tmp_path: Path, state: Path) -> None:
    assert read_address(tmp_path) == DEFAULT_ADDRESS
    for address in ("http://localhost:8502", "https://lab.example:443/tools", "http://[::1]:8501"):
        write_address(tmp_path, address)
        assert read_address(tmp_path) == address
    (file,) = state.iterdir()
    for odd in ("javascript:alert(1)", "http://a b", "http://localhost:8501\nhttp://evil.example", ""):
        file.write_text(odd)
        assert read_address(tmp_path) == DEFAULT_ADDRESS, odd
    write_address(tmp_path, "http://localhost:8502")
    file.chmod(0o666)
    assert read_address(tmp_path) == DEFAULT_ADDRESS


@pytest.mark.parametrize("pasted", ["http://[", "token", "", "http://localhost:8501/", "?token=", "\ud800"])
def test_what_is_pasted_may_be_anything(pasted: str) -> None:
    assert isinstance(find_token(pasted), str)


def test_the_network_is_open_by_choice_and_with_the_token_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_network_allowed()
    monkeypatch.setenv("FTK_ALLOW_NETWORK", "1")
    assert is_network_allowed()
    monkeypatch.setenv("FTK_REQUIRE_TOKEN", "0")
    assert not is_network_allowed()


def test_the_folder_of_the_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNING_TOOLKIT_SAVE_DIR", raising=False)
    assert find_app_folder() == tmp_path / "experiments"
    monkeypatch.setenv("FINETUNING_TOOLKIT_SAVE_DIR", str(tmp_path / "elsewhere"))
    assert find_app_folder() == tmp_path / "elsewhere"
