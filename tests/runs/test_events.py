"""The event log holds complete lines only, and no content makes a reader raise."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.runs import events as module
from toolkit.runs.events import EventWriter, collect_series, encode_event, read_events
from toolkit.runs.status import run_status_from_events


def test_written_events_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, attempt=2) as writer:
        said = [writer.append("started", pid=1), writer.append("log", step=1, loss=0.5, note="ä\n\u2028")]
    found, offset = read_events(path)
    assert [{k: v for k, v in event.items() if k != "c"} for event in found] == said
    assert [event["n"] for event in found] == [1, 2]
    assert offset == path.stat().st_size
    assert read_events(path, offset) == ([], offset)


def test_an_incomplete_last_line_is_left_by_readers_and_removed_by_writers(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.append("started")
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"n":2,"kind":"lo')
    found, offset = read_events(path)
    assert len(found) == 1
    assert offset == whole
    with EventWriter(path) as writer:  # crash, recover, write, crash, recover
        writer.append("log", step=1)
    with path.open("ab") as file:
        file.write(b"\0" * 50)
    with EventWriter(path) as writer:
        writer.append("finished", step=1)
    found, _ = read_events(path)
    assert [(event["n"], event["kind"]) for event in found] == [(1, "started"), (2, "log"), (3, "finished")]


def test_a_damaged_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [encode_event({"n": n, "attempt": 1, "t": 0.0, "kind": "log", "loss": 0.25}) for n in (1, 2, 3)]
    path.write_bytes(lines[0] + lines[1].replace(b"0.25", b"0.26") + lines[2])
    assert [event["n"] for event in read_events(path)[0]] == [1, 3]
    with EventWriter(path) as writer:
        assert writer.append("log")["n"] == 4
    assert len(read_events(path)[0]) == 3


def test_a_missing_file_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none", 7) == ([], 0)


def test_nan_and_infinity_are_written_as_strings(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.append("log", step=1, loss=math.nan, inner={"a": [math.inf]})
    assert b"NaN" not in path.read_bytes()
    found = read_events(path)[0]
    assert found[0]["loss"] == "nan"
    assert collect_series(found) == {}


def test_a_full_disk_leaves_no_incomplete_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    true_write = os.write

    def short(handle: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return true_write(handle, bytes(data)[: len(data) - 20])

    with EventWriter(path) as writer:
        writer.append("started")
        monkeypatch.setattr(module.os, "write", short)
        with pytest.raises(OSError, match="No space"):
            writer.append("log", text="x" * 100)
        monkeypatch.undo()
        assert writer.append("log")["n"] == 2
    assert [event["kind"] for event in read_events(path)[0]] == ["started", "log"]


def test_the_last_event_is_flushed_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(module.os, "fsync", synced.append)
    with EventWriter(tmp_path / "events.jsonl") as writer:
        assert len(synced) == 1  # the folder, for the name of a new file
        synced.clear()
        writer.append("progress", step=1)
        assert synced == []
        for kind in ("started", "saved", "adapter", "finished", "stopped", "failed"):
            writer.append(kind)
    assert len(synced) == 6


def test_a_later_attempt_replaces_the_steps_that_it_replays() -> None:
    events = [
        {"n": n, "attempt": attempt, "t": 0.0, "kind": "log", "step": step, "loss": loss, "done": True}
        for n, (attempt, step, loss) in enumerate([(1, 1, 3.0), (1, 2, 2.0), (2, 2, 2.5), (2, 3, 1.0)])
    ]
    assert collect_series(events) == {"loss": [(1, 3.0), (2, 2.5), (3, 1.0)]}


@given(
    st.lists(st.binary(max_size=80) | st.sampled_from([b"\n", b'{"kind":"log"}\n', b'{"kind":1}\n', b"[[" * 50_000]))
)
def test_arbitrary_bytes_are_read_line_by_line(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    raw = b"".join(parts)
    path = tmp_path_factory.mktemp("any") / "events.jsonl"
    path.write_bytes(raw)
    found, offset = read_events(path)
    assert offset == raw.rfind(b"\n") + 1
    assert run_status_from_events(found, lock_held=False, claimed=False, stop_requested=False)
    collect_series(found)
    stepwise, at = [], 0
    for end in range(0, len(raw) + 1, max(1, len(raw) // 5)):
        path.write_bytes(raw[:end])
        new, at = read_events(path, at)
        stepwise += new
    path.write_bytes(raw)
    assert stepwise + read_events(path, at)[0] == found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["started", "phase", "prepared", "plan", "progress", "log", "eval", "saved", "adapter", "scores",
                 "warning", "finished", "stopped", "failed", "something new"]
            ),
            st.dictionaries(
                st.sampled_from(["step", "epoch", "epochs", "total_steps", "phase", "message", "reason", "loss"]),
                json_values,
            ),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_arbitrary_fields_survive_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, dict[str, object]]]
) -> None:
    path = tmp_path_factory.mktemp("fields") / "events.jsonl"
    with EventWriter(path) as writer:
        for kind, fields in said:
            writer.append(kind, **fields)
    found = read_events(path)[0]
    assert [event["kind"] for event in found] == [kind for kind, _ in said]
    for lock_held in (True, False):
        status = run_status_from_events(found, lock_held=lock_held, claimed=True, stop_requested=False, now=9e9)
        assert 0 <= status.fraction <= 1
        assert status.is_active or status.has_ended
