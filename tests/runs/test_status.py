"""The state of a run for every combination of events, locks and marker files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.run_fixtures import queue
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import request_run_stop
from toolkit.runs.status import ACTIVE, ENDED, read_run_status, run_status_from_events
from toolkit.system.durable import COMMIT_NAME
from toolkit.system.locks import WorkerLock


def log(*said: tuple[str, dict[str, Any]] | str, attempt: int = 1, began: float = 100.0) -> list[dict[str, Any]]:
    """Return events one second apart."""
    pairs = [(one, {}) if isinstance(one, str) else one for one in said]
    return [
        {"n": n, "attempt": attempt, "t": began + n, "kind": kind, **fields} for n, (kind, fields) in enumerate(pairs)
    ]


FINISHED = log("started", ("finished", {"step": 5}))
FAILED = log("started", ("failed", {"reason": "bug", "message": "m", "hint": "h"}))
CUT = log("started", ("failed", {"reason": "interrupted", "message": "m", "hint": "h"}))
PAUSED = log("started", ("stopped", {"step": 2, "paused": True}))
BROKE = log("started", ("interrupted", {"reason": "killed", "message": "m", "hint": "h"}))
ASKED = [*PAUSED, *log(("requeued", {"step": 2}))]
GOES_ON = [*BROKE, *log("started", attempt=2, began=200)]
AGAIN = [*CUT, *log("started", attempt=2, began=200)]

CASES = [
    # events, lock held, claimed, stop asked -> state
    ([], False, False, False, "queued"),
    ([], False, False, True, "cancelled"),
    ([], False, True, False, "interrupted"),
    ([], False, True, True, "interrupted"),
    ([], True, True, False, "starting"),
    ([], True, False, False, "starting"),
    ([], True, True, True, "stopping"),
    (log("started"), True, True, False, "running"),
    (log("started"), True, True, True, "stopping"),
    (log("started"), False, True, False, "interrupted"),
    (log("started"), False, False, False, "interrupted"),
    (FINISHED, False, True, False, "finished"),
    (FINISHED, True, True, False, "finished"),
    (FINISHED, False, True, True, "finished"),
    (log("started", ("stopped", {"step": 2})), False, True, True, "stopped"),
    (FAILED, False, True, False, "failed"),
    (FAILED, True, True, False, "failed"),
    (CUT, False, True, False, "interrupted"),
    (AGAIN, True, True, False, "running"),
    (AGAIN, False, True, False, "interrupted"),
    (PAUSED, False, True, True, "paused"),
    (BROKE, False, False, False, "queued"),
    (BROKE, False, True, False, "interrupted"),
    (BROKE, True, True, False, "starting"),
    (BROKE, True, True, True, "stopping"),
    (BROKE, False, False, True, "stopped"),
    (ASKED, False, False, False, "queued"),
    (GOES_ON, True, True, False, "running"),
    (GOES_ON, False, True, False, "interrupted"),
]


@pytest.mark.parametrize(("events", "lock_held", "claimed", "stop_requested", "state"), CASES)
def test_the_state_follows_from_events_and_locks(
    events: Any, lock_held: bool, claimed: bool, stop_requested: bool, state: str
) -> None:
    status = run_status_from_events(events, lock_held=lock_held, claimed=claimed, stop_requested=stop_requested)
    assert status.state == state
    assert status.is_active == (state in ACTIVE)
    assert status.has_ended == (state in ENDED)
    assert status.is_active or status.has_ended or state == "queued"


def test_every_state_is_in_the_table() -> None:
    assert {case[4] for case in CASES} == ACTIVE | ENDED | {"queued"}


def test_an_ended_run_has_message_and_hint() -> None:
    status = run_status_from_events(FAILED, lock_held=False, claimed=True, stop_requested=False)
    assert (status.message, status.hint, status.reason, status.explained) == ("m", "h", "bug", True)
    status = run_status_from_events(log("started"), lock_held=False, claimed=True, stop_requested=False)
    assert "started again" in status.hint
    assert not status.explained, "its supervisor may still record the reason"


def test_the_status_of_a_running_run() -> None:
    events = log(
        "started",
        ("plan", {"total_steps": 100, "epochs": 4}),
        ("phase", {"phase": "training"}),
        ("log", {"step": 10, "epoch": 0.4, "loss": 2.0}),
        ("eval", {"step": 10, "eval_loss": 1.5}),
        ("phase", {"phase": "training"}),
        ("warning", {"message": "careful"}),
        ("progress", {"step": 20, "epoch": 0.8}),
    )
    status = run_status_from_events(events, lock_held=True, claimed=True, stop_requested=False, now=107.0)
    assert (status.step, status.total_steps, status.epoch, status.epochs) == (20, 100, 0.8, 4)
    assert (status.phase, status.warnings, status.fraction) == ("training", ("careful",), 0.2)
    assert status.last["loss"] == 2.0
    assert status.last["eval_loss"] == 1.5
    assert status.elapsed_s == 7.0
    assert status.remaining_s == pytest.approx(80 * 5 / 20)  # 20 steps took the 5 s since training began
    later = run_status_from_events(events, lock_held=True, claimed=True, stop_requested=False, now=109.0)
    assert later.remaining_s == pytest.approx(80 * 5 / 20 - 2)
    over = run_status_from_events(
        [*events, *FINISHED[1:]], lock_held=False, claimed=True, stop_requested=False, now=1e9
    )
    assert over.remaining_s is None
    assert over.elapsed_s < 100


def test_fields_of_the_wrong_type_are_ignored() -> None:
    events = log("started", ("plan", {"total_steps": None}), ("progress", {"step": "many", "epoch": True}))
    status = run_status_from_events(events, lock_held=True, claimed=True, stop_requested=False)
    assert (status.step, status.total_steps, status.epoch) == (0, 0, 0.0)


def test_reading_the_status_reads_only_new_events(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = queue(save_dir)
    assert read_run_status(run).state == "queued"
    with WorkerLock(run.lock_path, 1, run.id), EventWriter(run.events_path) as events:
        assert read_run_status(run).state == "starting"
        events.append("started")
        events.append("progress", step=3)
        assert (read_run_status(run).state, read_run_status(run).step) == ("running", 3)
        request_run_stop(run)
        assert read_run_status(run).state == "stopping"
        events.append("stopped", step=4)
    assert (read_run_status(run).state, read_run_status(run).step) == ("stopped", 4)
    offsets: list[int] = []
    monkeypatch.setattr(
        "toolkit.runs.event_facts.read_events", lambda path, offset: offsets.append(offset) or ([], offset)
    )
    assert read_run_status(run).step == 4
    assert offsets == [], "an unchanged file is not opened"


def test_a_committed_adapter_counts_without_its_event(save_dir: Path) -> None:
    run = queue(save_dir)
    assert not read_run_status(run).adapter_ready
    run.adapter_dir.mkdir()
    assert not read_run_status(run).adapter_ready
    (run.adapter_dir / COMMIT_NAME).write_text("{}")
    assert read_run_status(run).adapter_ready
