"""Run directories are complete or absent, sort by time, and no name becomes part of a path."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.disk import watched
from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.runs import run_dir as module
from toolkit.runs.run_dir import (
    PAUSE_REQUEST,
    RunDir,
    create_run,
    delete_run,
    list_runs,
    open_run,
    read_run_config,
    read_run_meta,
    request_run_stop,
    save_dir_of,
)
from toolkit.system.durable import load_install_key
from toolkit.system.ids import make_timed_id


@dataclass(frozen=True)
class Source:
    path: Path
    sha256: str = "ab" * 32
    label: str = "orders"
    rows: int = 7


def test_a_pause_is_at_no_moment_taken_for_a_stop(save_dir: Path) -> None:
    run, seen = create_run(Config(save_dir=str(save_dir)), None), set()
    with watched(run.path, lambda _: seen.add(run.stop_path.read_text() if run.stop_path.exists() else None)):
        request_run_stop(run, pause=True)
    assert seen == {None, PAUSE_REQUEST}
    request_run_stop(run)
    assert run.stop_path.read_text() == PAUSE_REQUEST, "a later stop leaves the pause"


def test_a_run_contains_its_config_data_and_label(save_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    config = Config(save_dir=str(save_dir))
    settings = {"lora.r": 8}
    run = create_run(config, Source(tmp_path / "table.parquet"), name=" first ", study="ranks", settings=settings)
    assert read_run_config(run) == config
    meta = read_run_meta(run)
    assert (meta["id"], meta["name"], meta["study"], meta["settings"]) == (run.id, "first", "ranks", settings)
    assert meta["dataset"] == {"sha256": "ab" * 32, "label": "orders", "rows": 7}
    assert abs(meta["created"] - time.time()) < 60
    assert run.source_path.read_bytes() == b"PAR1"
    assert run.save_dir == save_dir == save_dir_of(config)
    assert {path.name for path in run.path.iterdir()} == {"config.yml", "run.json", "data"}


def test_the_data_survives_the_deletion_of_the_upload(
    save_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.parquet"
    table.write_bytes(b"PAR1")
    load_install_key()  # it is created with a link

    def no_links(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(module.os, "link", no_links)
    run = create_run(Config(save_dir=str(save_dir)), Source(table))
    table.unlink()
    assert run.source_path.read_bytes() == b"PAR1"


def test_ids_sort_by_creation_time(save_dir: Path) -> None:
    runs = [create_run(Config(save_dir=str(save_dir)), None) for _ in range(10)]
    assert [run.id for run in list_runs(save_dir)] == sorted((run.id for run in runs), reverse=True)
    assert [run.id for run in runs] == sorted(run.id for run in runs)
    ids = [make_timed_id(1e9 + step / 40_000) for step in range(0, 80_000, 97)]
    assert [one[:-1] for one in ids] == sorted(one[:-1] for one in ids)
    assert len({one[:-1] for one in ids}) == len(ids)


def test_the_same_id_twice_gives_two_runs(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["20260101-000000-aaaa", "20260101-000000-aaaa", "20260101-000000-aaab"])
    monkeypatch.setattr(module, "make_timed_id", lambda now: next(ids))
    first, second = (create_run(Config(save_dir=str(save_dir)), None, name=name) for name in "ab")
    assert (first.id, second.id) == ("20260101-000000-aaaa", "20260101-000000-aaab")
    assert read_run_meta(first)["name"] == "a"
    assert len(list((save_dir / "runs").iterdir())) == 2


@pytest.mark.parametrize("name", ["../../x", "/etc", "CON", ".", "x" * 300, "a\0b", "a\nb", "🙂", "‮x", "-rf"])
def test_a_name_never_becomes_part_of_a_path(save_dir: Path, name: str) -> None:
    run = create_run(Config(save_dir=str(save_dir)), None, name=name, study=name)
    assert module.ID_PATTERN.fullmatch(run.id)
    assert run.path.parent == save_dir / "runs"
    assert read_run_meta(run)["name"] == name.strip()[:200]


@pytest.mark.parametrize("run_id", ["..", "../runs", "", "A", "a/b", "a" * 41, "nothing-there"])
def test_only_valid_ids_are_opened(save_dir: Path, run_id: str) -> None:
    create_run(Config(save_dir=str(save_dir)), None)
    with pytest.raises(RunError, match="There is no run"):
        open_run(save_dir, run_id)


def test_incomplete_and_foreign_entries_are_not_listed(save_dir: Path, tmp_path: Path) -> None:
    run = create_run(Config(save_dir=str(save_dir)), None)
    (save_dir / "runs" / ".new-x").mkdir()
    (save_dir / "runs" / "file").write_text("")
    (save_dir / "runs" / "link").symlink_to(tmp_path)
    assert list_runs(save_dir) == [run]
    assert list_runs(tmp_path / "nowhere") == []
    with pytest.raises(RunError):
        open_run(save_dir, "link")
    assert open_run(save_dir, run.id) == run


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "x"}', '{"schema": 99, "id": "a"}'])
def test_an_unreadable_run_is_an_error(save_dir: Path, content: str) -> None:
    run = create_run(Config(save_dir=str(save_dir)), None)
    run.meta_path.write_text(content)
    with pytest.raises(RunError) as error:
        read_run_meta(run)
    assert run.id in error.value.message
    assert error.value.hint


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be written"):
        create_run(Config(save_dir=str(tmp_path / "file")), None)


def test_a_run_is_deleted(save_dir: Path) -> None:
    run = create_run(Config(save_dir=str(save_dir)), None)
    run.checkpoints_dir.mkdir()
    (run.checkpoints_dir / "x").write_text(json.dumps({}))
    delete_run(run)
    assert not run.path.exists()
    with pytest.raises(RunError, match="There is no run"):
        delete_run(RunDir(run.path))
