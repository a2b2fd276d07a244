"""What is kept of many runs: a new start of the app reads one file, and believes it only as long as it is true."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.runs import event_facts, kept_facts, run_dir, status
from toolkit.runs.events import EventWriter
from toolkit.runs.kept_facts import KEPT_FACTS_FILE, forget_kept_facts
from toolkit.runs.run_dir import RunDir, create_run, delete_run, list_runs
from toolkit.runs.status import RunStatus, has_last_event, read_open_statuses, read_run_statuses
from toolkit.ui.workspace import run_entries, run_facts, workspace
from toolkit.ui.workspace.run_entries import read_run_entries


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunDir]:
    """Six finished runs and a queued one, in a folder in which six values are many."""
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(kept_facts, "MIN_NEW_VALUES", 6)
    config = Config(save_dir=str(tmp_path))
    table = open_table(config.data, tmp_path)
    for number in range(6):
        run = create_run(config, table, name=f"run {number}")
        run.claim_path.touch()
        with EventWriter(run.events_path) as events:
            events.append("started")
            events.append("log", step=number + 1, loss=0.5)
            events.append("finished", step=number + 1)
    create_run(config, table, name="queued")
    return list_runs(tmp_path)


def start_again(runs: list[RunDir]) -> None:
    """Forget everything that this process has read of the runs."""
    forget_kept_facts()
    event_facts._cached_logs.clear()
    event_facts._cached_curves.clear()
    status._ENDED.clear()
    status._ENDED_LOGS.clear()
    run_facts._SUMMARIES.clear()
    assert runs


def read_all(runs: list[RunDir]) -> tuple[dict[str, RunStatus], dict[str, str]]:
    statuses = {run.id: one for run, one in read_run_statuses(runs)}
    entries, errors = read_run_entries(runs)
    assert not errors
    return statuses, {entry.run.id: repr(entry.facts) for entry in entries}


def kept_file(runs: list[RunDir]) -> Path:
    return runs[0].path.parent / KEPT_FACTS_FILE


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the id of each run whose log or config is read."""
    read: list[str] = []
    for module, name in ((event_facts, "read_events"), (run_facts, "read_config_text")):
        original = getattr(module, name)

        def noted(path: Path, *more: Any, original: Any = original) -> Any:
            read.append(path.parent.name)
            return original(path, *more)

        monkeypatch.setattr(module, name, noted)
    return read


def test_a_new_start_reads_no_log_and_no_config_of_an_ended_run(
    runs: list[RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_all(runs)
    assert kept_file(runs).stat().st_mode & 0o777 == 0o600
    start_again(runs)
    read = count_reads(monkeypatch)
    assert read_all(runs) == before
    queued = [run_id for run_id, one in before[0].items() if one.state == "queued"]
    assert set(read) <= set(queued)


def test_what_has_changed_is_read_again(runs: list[RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    read_all(runs)
    start_again(runs)
    renamed, resumed = runs[1], runs[2]
    meta = json.loads(renamed.meta_path.read_text())
    renamed.meta_path.write_text(json.dumps({**meta, "name": "another name"}))
    with EventWriter(resumed.events_path) as events:
        events.append("requeued")
    read = count_reads(monkeypatch)
    statuses, summaries = read_all(runs)
    assert "another name" in summaries[renamed.id]
    assert statuses[resumed.id].state == "queued"
    assert {renamed.id, resumed.id} <= set(read)


@pytest.mark.parametrize("fault", ["changed", "no signature", "another folder", "another build", "empty"])
def test_a_file_that_this_installation_has_not_written_is_not_believed(
    runs: list[RunDir], monkeypatch: pytest.MonkeyPatch, fault: str, tmp_path: Path
) -> None:
    before = read_all(runs)
    file = kept_file(runs)
    content = file.read_text()
    assert "finished" in content
    if fault == "changed":
        file.write_text(content.replace('"step":1', '"step":9'))
    elif fault == "no signature":
        file.write_text(content.split("\n", 1)[1])
    elif fault == "empty":
        file.write_text("")
    elif fault == "another build":
        monkeypatch.setattr(kept_facts, "build_id", lambda: "another")
    else:
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(runs[0].path.parent, elsewhere / "runs")
        runs = list_runs(elsewhere)
    start_again(runs)
    read = count_reads(monkeypatch)
    assert {run_id: one.step for run_id, one in read_all(runs)[0].items()} == {
        run_id: one.step for run_id, one in before[0].items()
    }
    assert len(set(read)) >= 6


def test_the_open_runs_are_found_without_reading_an_ended_run(
    runs: list[RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, waiting = runs[2], runs[3]
    with EventWriter(failed.events_path, attempt=2) as events:
        events.append("failed", message="it was too large", trace="x" * 5000)  # too long for the look at the end
    with EventWriter(waiting.events_path, attempt=2) as events:
        events.append("interrupted", message="the power failed")
    read: list[str] = []
    original = event_facts.read_events
    monkeypatch.setattr(event_facts, "read_events", lambda path, *more: read.append(path) or original(path, *more))
    for _ in range(2):
        assert [(run.id, one.state) for run, one in read_open_statuses(runs)] == [
            (runs[0].id, "queued"),
            (failed.id, "failed"),
            (waiting.id, "queued"),
        ]
    assert set(read) <= {failed.events_path, waiting.events_path}
    with EventWriter(runs[4].events_path, attempt=2) as events:
        events.append("requeued")
    assert not has_last_event(runs[4])
    with runs[5].events_path.open("ab") as file:
        file.write(b'{"kind":"requeued","c":1}\n{"kind":"fin')  # a damaged line, and one that is being written
    assert has_last_event(runs[5])


def test_a_new_start_opens_no_log_of_an_ended_run(runs: list[RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_open_statuses(runs)
    start_again(runs)
    opened: list[Path] = []
    original = status.read_events
    monkeypatch.setattr(status, "read_events", lambda path, *more: opened.append(path) or original(path, *more))
    assert read_open_statuses(runs) == before and [one.state for _, one in before] == ["queued"]
    assert opened == []
    with EventWriter(runs[1].events_path, attempt=2) as events:
        events.append("requeued")
    assert not has_last_event(runs[1]) and opened == [runs[1].events_path]


def test_a_folder_of_runs_is_listed_again_when_it_has_changed(
    runs: list[RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, save_dir = runs[0].path.parent, runs[0].save_dir
    listed: list[Path] = []
    original = os.scandir
    monkeypatch.setattr(run_dir.os, "scandir", lambda path: listed.append(path) or original(path))

    def list_settled() -> list[RunDir]:
        """Return what is listed twice, when the last change is some time ago."""
        os.utime(folder, (0, len(listed)))
        found = list_runs(save_dir)
        assert list_runs(save_dir) == found
        return found

    assert list_settled() == runs and listed == [folder]
    delete_run(runs[3])
    copy = folder / "20200101-000000-aaaa"
    shutil.copytree(runs[1].path, copy)
    assert [run.id for run in list_runs(save_dir)] == [run.id for run in runs if run != runs[3]] + [copy.name]
    monkeypatch.setattr(run_dir, "LIST_SETTLED_S", 1e12)
    os.utime(folder, (0, len(listed)))
    known = len(listed)
    assert list_runs(save_dir) == list_runs(save_dir)
    assert len(listed) == known + 2, "a change of a moment ago may be followed by another one at the same time"
    monkeypatch.setattr(run_dir, "LIST_SETTLED_S", 2.0)
    found = list_settled()
    found.clear()
    assert len(list_runs(save_dir)) == len(runs)


def test_of_many_runs_the_newest_are_offered_with_the_open_and_the_chosen_one(
    runs: list[RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_entries, "MAX_OFFERED_RUNS", 2)
    monkeypatch.setattr(workspace, "current_save_dir", lambda: runs[0].save_dir)
    monkeypatch.setattr(workspace, "chosen_run_id", lambda: runs[4].id)
    state: dict[str, bool] = {}
    monkeypatch.setattr(run_entries.st, "session_state", state)
    with EventWriter(runs[6].events_path, attempt=2) as events:
        events.append("requeued")
    assert run_entries.list_offered_runs() == [runs[0], runs[1], runs[4], runs[6]]
    assert run_entries.read_runs_with_adapter() == ([], run_entries.read_run_entries(runs)[0])
    (runs[5].adapter_dir).mkdir()
    (runs[5].adapter_dir / "COMMIT.json").write_text("{}")  # none of the offered ones has an adapter
    assert [entry.run for entry in run_entries.read_runs_with_adapter()[0]] == [runs[5]]
    state[run_entries.ALL_RUNS] = True
    assert run_entries.list_offered_runs() == runs


def test_a_folder_with_few_runs_has_no_such_file(runs: list[RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_facts, "MIN_NEW_VALUES", 200)
    start_again(runs)
    kept_file(runs).unlink(missing_ok=True)
    read_all(runs)
    assert not kept_file(runs).exists()


def test_deleted_runs_leave_the_file(runs: list[RunDir]) -> None:
    read_all(runs)
    shutil.rmtree(runs[-1].path)
    start_again(runs)
    os.utime(runs[1].meta_path, ns=(1, 1))
    for run in runs[1:6]:
        os.utime(run.events_path, ns=(1, 1))
    read_all(list_runs(runs[0].save_dir))
    assert runs[-1].id not in kept_file(runs).read_text()
