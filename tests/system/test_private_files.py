"""What other users of this machine may read: new files, existing folders, and the installation's key."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.runs.run_dir import list_runs
from toolkit.system import private_files
from toolkit.system.durable import durable_write, load_install_key
from toolkit.system.paths import PROJECT_ROOT
from toolkit.system.private_files import find_privacy_problem, tighten_save_dir


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def loose_folder(place: Path) -> Path:
    """A save_dir as earlier versions left it."""
    run = place / "save" / "runs" / "20260101-000000-aaaa"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text("")
    (run / "script").write_text("")
    (run / "script").chmod(0o755)
    return place / "save"


def test_an_existing_save_dir_is_tightened_when_it_is_opened(tmp_path: Path) -> None:
    folder = loose_folder(tmp_path)
    assert len(list_runs(folder)) == 1
    modes = {path.name: mode_of(path) for path in (folder, *folder.rglob("*"))}
    assert modes.pop("events.jsonl") == 0o600
    assert set(modes.values()) == {0o700} and len(modes) == 4


def test_links_are_not_followed_and_the_outside_keeps_its_modes(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("")
    folder = loose_folder(tmp_path)
    (folder / "uploads").symlink_to(outside)
    (folder / "runs" / "link").symlink_to(outside / "file")
    tighten_save_dir(folder)
    assert (mode_of(outside), mode_of(outside / "file"), mode_of(folder)) == (0o755, 0o644, 0o700)


def test_a_shared_folder_and_the_home_folder_keep_their_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, home = loose_folder(tmp_path), tmp_path / "home"
    shared.chmod(0o1777)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for folder in (shared, home):
        before = mode_of(folder)
        tighten_save_dir(folder)
        assert mode_of(folder) == before


def test_files_that_others_own_or_can_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    durable_write(file, "x")
    assert find_privacy_problem(file) == ""
    for mode in (0o666, 0o640, 0o604, 0o620, 0o601):
        file.chmod(mode)
        assert f"{mode:04o}" in find_privacy_problem(file)
    file.chmod(0o600)
    (tmp_path / "link").symlink_to(file)
    assert "regular file" in find_privacy_problem(tmp_path / "link")
    monkeypatch.setattr(private_files.os, "geteuid", lambda: os.getuid() + 1)
    assert "another user" in find_privacy_problem(file)


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o640, 0o602])
def test_an_installation_key_that_others_can_reach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    key = load_install_key()
    assert (mode_of(tmp_path / "state"), mode_of(tmp_path / "state" / "key")) == (0o700, 0o600)
    (tmp_path / "state" / "key").chmod(mode)
    with pytest.raises(RunError) as refused:
        load_install_key()
    assert f"{mode:04o}" in refused.value.message and "chmod 600" in refused.value.hint
    (tmp_path / "state" / "key").chmod(0o600)
    assert load_install_key() == key


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse file", "folder"])
def test_a_key_that_is_no_small_file_is_refused_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path))
    path = tmp_path / "key"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "sparse file":
            path.touch(0o600)
            os.truncate(path, 2**40)
        case _:
            path.mkdir()
    with pytest.raises(RunError) as refused:
        load_install_key()
    assert str(path) in refused.value.message and refused.value.hint


def test_every_entry_point_restricts_what_it_creates() -> None:
    """A module that is run as a process restricts it itself, or through the main function that its kind shares."""
    entries = [
        file
        for file in sorted((PROJECT_ROOT / "toolkit").rglob("*.py"))
        if 'if __name__ == "__main__":' in file.read_text() and file.parent.name != "demo_data"
    ]
    assert len(entries) >= 17
    shared = re.compile(r"restrict_new_files\(\)|run_task\(|run_and_exit\(|from toolkit\.cli\.main import main")
    assert [file.name for file in entries if not shared.search(file.read_text())] == ["pretrain_demo.py"]
    assert "restrict_new_files()" in (PROJECT_ROOT / "app.py").read_text()


def test_what_a_data_task_and_the_command_line_write_is_private(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(10)))
    script = (
        "import sys; from pathlib import Path; from toolkit.cli import main; from toolkit.config import Config;"
        "from toolkit.system import private_files; from toolkit.data.storage.open_table import open_table;"
        "from toolkit.runs.run_dir import create_run; private_files.restrict_new_files();"
        "config = Config.model_validate({'save_dir': sys.argv[1], 'data': {'path': sys.argv[2], 'prompt': '{question}',"
        " 'prompt_stub': '{answer}'}}); create_run(config, open_table(config.data, Path(sys.argv[1])))"
    )
    save_dir = tmp_path / "save"
    done = subprocess.run(
        [sys.executable, "-c", script, str(save_dir), str(rows)], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [save_dir, *save_dir.rglob("*")]
    assert len(found) > 8
    assert {path: oct(mode_of(path)) for path in found if mode_of(path) & 0o077} == {}
