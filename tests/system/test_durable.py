"""A commit verifies only if it is complete and made by this installation; a refusal names the faulty file."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.system import durable as module
from toolkit.system.durable import (
    COMMIT_NAME,
    commit_dir,
    durable_copy,
    durable_write,
    load_install_key,
    remove_leftover_dirs,
    remove_tree,
    verify_commit,
)


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    staging = tmp_path / ".staging"
    (staging / "inner").mkdir(parents=True)
    (staging / "weights.safetensors").write_bytes(bytes(range(256)) * 8)
    (staging / "inner" / "state.json").write_text('{"step": 4}')
    (staging / "empty").write_bytes(b"")
    commit_dir(staging, tmp_path / "step-4", {"step": 4})
    assert not staging.exists()
    return tmp_path / "step-4"


def test_a_complete_commit_verifies(committed: Path) -> None:
    body = verify_commit(committed)
    assert body["step"] == 4
    assert set(body["files"]) == {"weights.safetensors", "inner/state.json", "empty"}


DAMAGES = {
    "bit flipped": lambda folder: flip(folder / "weights.safetensors"),
    "tail zeroed": lambda folder: zero_tail(folder / "weights.safetensors"),
    "truncated": lambda folder: os.truncate(folder / "weights.safetensors", 100),
    "file gone": lambda folder: (folder / "inner" / "state.json").unlink(),
    "file emptied": lambda folder: os.truncate(folder / "inner" / "state.json", 0),
    "file added": lambda folder: (folder / "evil.py").write_text("x"),
    "no commit": lambda folder: (folder / COMMIT_NAME).unlink(),
    "half a commit": lambda folder: os.truncate(folder / COMMIT_NAME, 50),
    "commit is a list": lambda folder: (folder / COMMIT_NAME).write_text("[]"),
    "edited commit": lambda folder: edit(folder, lambda body: body | {"step": 5}),
    "no signature": lambda folder: edit(folder, lambda body: {k: v for k, v in body.items() if k != "hmac"}),
    "newer schema": lambda folder: edit(folder, lambda body: body | {"schema": 2}),
}


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)


def zero_tail(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1024] + bytes(1024))


def edit(folder: Path, change) -> None:
    path = folder / COMMIT_NAME
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_kind_of_damage_is_refused(committed: Path, damage: str) -> None:
    DAMAGES[damage](committed)
    with pytest.raises(RunError) as error:
        verify_commit(committed)
    assert error.value.hint
    assert committed.name in error.value.message


def test_a_foreign_commit_is_refused_unless_allowed(
    committed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "another install"))
    with pytest.raises(RunError, match="not written by this install"):
        verify_commit(committed)
    assert verify_commit(committed, require_own_signature=False)["step"] == 4
    flip(committed / "weights.safetensors")
    with pytest.raises(RunError, match="damaged"):
        verify_commit(committed, require_own_signature=False)


def test_a_newer_schema_is_named_as_such(committed: Path) -> None:
    edit(committed, lambda body: body | {"schema": 2})
    for own in (True, False):
        with pytest.raises(RunError, match="newer version"):
            verify_commit(committed, require_own_signature=own)


def test_the_key_is_created_once_and_readable_by_its_owner_only(state_dir: Path) -> None:
    first = load_install_key()
    assert load_install_key() == first
    assert len(first) == 32
    assert stat.S_IMODE((state_dir / "key").stat().st_mode) == 0o600
    assert [path.name for path in state_dir.iterdir()] == ["key"]
    (state_dir / "key").write_bytes(b"short")
    with pytest.raises(RunError, match="damaged"):
        load_install_key()


def test_a_symbolic_link_is_not_committed(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "link").symlink_to("/etc/passwd")
    with pytest.raises(RunError, match="symbolic link"):
        commit_dir(tmp_path / "staging", tmp_path / "final", {})
    assert not (tmp_path / "final").exists()


def test_an_older_directory_is_replaced_completely(committed: Path, tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "only").write_text("new")
    commit_dir(tmp_path / "next", committed, {"step": 8})
    assert verify_commit(committed)["step"] == 8
    assert {path.name for path in committed.iterdir()} == {"only", COMMIT_NAME}
    assert [path.name for path in tmp_path.iterdir()] == [committed.name]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    durable_write(path, "old")

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        durable_write(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_all_files_are_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    true_fsync, true_rename = os.fsync, Path.rename

    def fsync(handle: int) -> None:
        order.append("fsync " + Path(f"/proc/self/fd/{handle}").readlink().name)
        true_fsync(handle)

    def rename(self: Path, target: Path) -> Path:
        order.append(f"rename {self.name}")
        return true_rename(self, target)

    monkeypatch.setattr(module.os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "a").write_text("a")
    commit_dir(tmp_path / "staging", tmp_path / "final", {})
    last = order.index("rename staging")
    assert "fsync a" in order[:last]
    assert any(one.startswith("fsync .COMMIT.json") for one in order[:last])
    assert order[last - 1] == "fsync staging"
    assert order[last + 1] == f"fsync {tmp_path.name}"


def test_old_leftovers_are_removed(tmp_path: Path) -> None:
    for name in (".new-1", ".trash-2", "kept"):
        (tmp_path / name).mkdir()
    remove_leftover_dirs(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftover_dirs(tmp_path, older_than_seconds=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    remove_tree(tmp_path / "kept")
    remove_tree(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_list_of_files_is_refused_with_a_message(committed: Path) -> None:
    body = json.loads((committed / COMMIT_NAME).read_text())
    (committed / COMMIT_NAME).write_text(json.dumps({**body, "files": list(body["files"])}))
    with pytest.raises(RunError, match="can't be read"):
        verify_commit(committed, require_own_signature=False)


def test_a_copy_is_complete_and_independent(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 5000)
    durable_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").stat().st_ino != (tmp_path / "a").stat().st_ino


def test_no_link_is_followed_while_leftovers_are_removed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in (".new-a", ".trash-b"):
        (home / name).mkdir(parents=True)
        os.utime(home / name, (1, 1))
    (tmp_path / "save").mkdir()
    (tmp_path / "save" / "runs").symlink_to(home)
    remove_leftover_dirs(tmp_path / "save" / "runs")
    (tmp_path / "save" / ".new-link").symlink_to(home)
    os.utime(tmp_path / "save" / ".new-link", (1, 1), follow_symlinks=False)
    remove_leftover_dirs(tmp_path / "save")
    assert {path.name for path in home.iterdir()} == {".new-a", ".trash-b"}
    remove_leftover_dirs(home)
    assert not list(home.iterdir())
