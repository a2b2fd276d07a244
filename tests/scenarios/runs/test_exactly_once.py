"""Of several processes that start the same runs, one succeeds with each. A benchmark has 200 rounds of 32."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fakes.racing import race, race_for_slots
from tests.fakes.run_fixtures import fake_command, fake_gpus, queue


def test_sixteen_processes_start_one_worker(save_dir: Path) -> None:
    for _ in range(3):
        assert race(lambda: queue(save_dir, steps=1), fake_command, 16) == (1, 1)


@pytest.mark.parametrize("slots", [2, 8])
def test_each_run_starts_once_in_a_slot_of_its_own_whoever_is_killed(save_dir: Path, slots: int) -> None:
    fake_gpus(save_dir, slots)
    runs = [queue(save_dir, steps=4, save_every=1) for _ in range(slots + 2)]
    found = race_for_slots(save_dir, runs, fake_command, 12, 4, random.Random(slots), poll_seconds=0.05)
    assert found.pop("killed") >= 1
    assert found == {"lost": 0, "doubled": 0, "shared": 0}
    used = {line for run in runs for line in (run.path / "slots").read_text().splitlines()}
    assert used <= {f"{number} {number}" for number in range(slots)}
