"""A full disk: committed files stay complete, the reason is reported, and the run resumes when there is space."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.run_fixtures import fake_command, queue, wait_for
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import EventWriter, read_events
from toolkit.runs.run_dir import RunDir, kill_run, list_runs
from toolkit.runs.status import read_run_status


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A volume of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no small volume could be mounted here: {done.stderr.strip()}")
    yield folder
    for run in list_runs(folder):
        kill_run(run, 0.2)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)


def test_the_last_event_has_reserved_space(small_disk: Path) -> None:
    path = small_disk / "events.jsonl"
    with EventWriter(path) as events:
        events.append("started")
        events.reserve_space()
        fill(small_disk)
        with pytest.raises(OSError, match="No space left") as error:
            for _ in range(1000):
                events.append("log", step=1, loss=1.0)
        assert error.value.errno == errno.ENOSPC
        events.append("failed", reason="disk_full", message="The disk is full.", hint="")
    found, whole = read_events(path)
    assert found[-1]["kind"] == "failed"
    assert whole == path.stat().st_size, "no incomplete line"
    assert not list(small_disk.glob(".*ballast"))


def test_a_run_on_a_full_disk_resumes_when_there_is_space(small_disk: Path) -> None:
    run = queue(small_disk, steps=6, save_every=2, die="fill", die_at=4, dying=1)
    own = Supervisor(small_disk, launcher=LocalLauncher(fake_command), poll_seconds=0.02)
    try:
        status = wait_for(run, lambda status: status.reason == "disk_full", own)
        assert status.state == "queued", "it waits"
        assert "disk is full" in status.message
        assert "Free space" in status.hint
        for _ in range(5):
            own.tick()
        assert read_run_status(run).attempt == 1, "it is not retried while there is no space"
        (small_disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
        assert wait_for(run, lambda status: status.explained, own).state == "finished"
    finally:
        own.stop()
    assert [event["step"] for event in read_events(run.events_path)[0] if event["kind"] == "resumed"] == [2]


def test_another_run_does_not_wait_for_space(small_disk: Path) -> None:
    full = queue(small_disk, steps=6, die="fill", die_at=2, dying=1)
    own = Supervisor(small_disk, launcher=LocalLauncher(fake_command), poll_seconds=0.02)
    try:
        wait_for(full, lambda status: status.reason == "disk_full", own)
        os.truncate(small_disk / "filler", 4096 * 64)  # some space: for a small run, not for a checkpoint
        other: RunDir = queue(small_disk, steps=2)
        assert wait_for(other, lambda status: status.explained, own).state == "finished"
        assert read_run_status(full).state == "queued"
    finally:
        own.stop()
