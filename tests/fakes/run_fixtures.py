"""Fixtures: a save_dir whose supervisor starts the fake worker, and functions to create and watch runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import Config
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import RunDir, create_run, kill_run, list_runs
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.machine import Gpu, Machine, probe_machine

FAKE = Path(__file__).resolve().parent.parent / "fakes" / "worker.py"


def fake_command(run: RunDir, config: Config) -> list[str]:
    return [sys.executable, str(FAKE), run.id]


def queue(save_dir: Path, name: str = "", **script: Any) -> RunDir:
    """Create a queued run whose fake worker follows `script`."""
    run = create_run(Config(save_dir=str(save_dir)), None, name=name)
    (run.path / "fake.json").write_text(json.dumps(script))
    return run


def fake_gpus(save_dir: Path, count: int) -> Machine:
    """Let the probe of this machine find so many GPUs."""
    gpus = tuple(Gpu("fake GPU", 8 * 2**30, (9, 0), f"fake-{number}") for number in range(count))
    found = Machine(cpu_count=2, memory_bytes=16 * 2**30, cuda=True, gpus=gpus)
    return probe_machine(save_dir, lambda: json.dumps(asdict(found)).encode())


def wait_for(run: RunDir, wanted: Callable[[RunStatus], bool], supervisor: Supervisor | None = None) -> RunStatus:
    """Poll (and tick `supervisor`, if given) until `wanted` holds; fail after 2 minutes."""
    deadline = time.monotonic() + 120
    while True:
        if supervisor is not None:
            supervisor.tick()
        status = read_run_status(run)
        if wanted(status):
            return status
        assert not status.explained, f"the run has ended: {status}"
        assert time.monotonic() < deadline, f"timed out; the run is {status}"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def state_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the installation's key in a temporary folder, not in the home of the user."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("FTK_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def save_dir(tmp_path: Path) -> Iterator[Path]:
    """An empty save_dir. Runs that are still active when the test ends are killed."""
    yield tmp_path / "experiments"
    for run in list_runs(tmp_path / "experiments"):
        kill_run(run, 0.2)


@pytest.fixture
def supervisor(save_dir: Path) -> Iterator[Supervisor]:
    """A supervisor that is not started: the test ticks or starts it."""
    supervisor = Supervisor(save_dir, launcher=LocalLauncher(fake_command), poll_seconds=0.02)
    yield supervisor
    supervisor.stop()
