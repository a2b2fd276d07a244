"""Facts and curves of a run are read once, and only appended events after that."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.runs import event_facts
from toolkit.runs.event_facts import _cached_curves, _cached_logs, read_event_facts, read_run_curves
from toolkit.runs.events import EventWriter, read_events


def test_appended_events_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_run_curves(path) == {}
    with EventWriter(path) as writer:
        writer.append("log", step=1, loss=3.0)
        assert read_run_curves(path) == {"loss": [(1, 3.0)]}
        writer.append("log", step=2, loss=2.0)
        writer.append("eval", step=2, eval_loss=2.5)
        assert read_run_curves(path) == {"loss": [(1, 3.0), (2, 2.0)], "eval_loss": [(2, 2.5)]}
    path.write_bytes(b"")
    assert read_run_curves(path) == {}


def test_facts_and_curves_come_from_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[int, int]] = []

    def counted(path: Path, offset: int = 0) -> tuple[list[dict[str, object]], int]:
        found = read_events(path, offset)
        reads.append((offset, len(found[0])))
        return found

    monkeypatch.setattr(event_facts, "read_events", counted)
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.append("started")
        for step in range(1, 4):
            writer.append("log", step=step, loss=1.0 / step)
        assert read_run_curves(path)["loss"][-1] == (3, 1 / 3)
        assert (read_event_facts(path).step, read_event_facts(path).attempt) == (3, 1)
        writer.append("log", step=4, loss=0.25)
        assert read_event_facts(path).last["loss"] == 0.25
        assert len(read_run_curves(path)["loss"]) == 4
    assert [count for _, count in reads] == [4, 1]


def test_the_least_recently_used_curves_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cached_logs.clear()
    _cached_curves.clear()
    monkeypatch.setattr(event_facts, "MAX_CACHED_CURVES", 2)
    paths = [tmp_path / f"{number}.jsonl" for number in range(3)]
    for path in paths:
        with EventWriter(path) as writer:
            writer.append("log", step=1, loss=2.0)
        assert len(read_run_curves(path)) == 1
    kept = [log.curves is not None for (path, _), log in _cached_logs.items() if Path(path) in paths]
    assert sum(kept) == 2
    assert read_event_facts(paths[0]).step == 1
    assert read_run_curves(paths[0]) == {"loss": [(1, 2.0)]}  # read again


def test_answers_that_could_not_be_made_are_those_of_the_latest_attempt(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, 1) as writer:
        writer.append("warning", message="The warm-up is shortened.")
        writer.append("warning", message="The test rows could not be answered.", unanswered=True)
    facts = read_event_facts(path)
    assert facts.unanswered == ("The test rows could not be answered.",) and len(facts.warnings) == 2
    with EventWriter(path, 2) as writer:
        writer.append("started")
    assert read_event_facts(path).unanswered == ()
