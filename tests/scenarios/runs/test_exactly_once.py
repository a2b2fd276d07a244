"""Of several processes that start the same run, one succeeds. A benchmark does 200 rounds of 32 processes."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.racing import race
from tests.fakes.run_fixtures import fake_command, queue


def test_sixteen_processes_start_one_worker(save_dir: Path) -> None:
    for _ in range(3):
        assert race(lambda: queue(save_dir, steps=1), fake_command, 16) == (1, 1)
