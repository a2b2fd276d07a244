"""What other programs hold on the GPUs counts before a run is started beside others, as far as `nvidia-smi` says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes.run_fixtures import fake_gpus, queue, wait_for
from toolkit.config import Config
from toolkit.lifecycle import gpu_memory
from toolkit.lifecycle.gpu_memory import read_free_gpu_memory
from toolkit.lifecycle.slot_memory import MemoryShortage, find_memory_shortage
from toolkit.lifecycle.slots import explain_wait, read_slot_table
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import RunDir, kill_run
from toolkit.runs.status import read_run_status
from toolkit.settings.yaml_file import dump_config
from toolkit.system.machine import Gpu, Machine

GIB = 2**30


class Driver:
    """An `nvidia-smi` that says what the test wants."""

    def __init__(self, folder: Path) -> None:
        self.program, self._says = folder / "nvidia-smi", folder / "says"
        asked = "--query-gpu=uuid,memory.total,memory.free"
        self.program.write_text(f'#!/bin/sh\ntest "$1" = {asked} && cat "{self._says}"\n')
        self.program.chmod(0o700)

    def say(self, *free: int | str, total: int = 8192) -> None:
        """Let each GPU have so much free memory, in MiB."""
        self._says.write_text("".join(f"GPU-fake-{number}, {total}, {mib}\n" for number, mib in enumerate(free)))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver(tmp_path)
    monkeypatch.setattr(gpu_memory.shutil, "which", lambda name: str(found.program))
    monkeypatch.setattr(gpu_memory, "_KEPT_SECONDS", -1)
    monkeypatch.setattr(gpu_memory, "_last", None)
    return found


def queue_needing(save_dir: Path, gib: int, **settings: object) -> RunDir:
    """Queue a run that was forecast to need so much memory in each of its processes."""
    run = queue(save_dir, steps=10_000, step_seconds=0.02)
    run.config_path.write_text(dump_config(Config.model_validate({"save_dir": str(save_dir), **settings})))
    run.meta_path.write_text(json.dumps({**json.loads(run.meta_path.read_bytes()), "memory_bytes": gib * GIB}))
    return run


def choose(save_dir: Path, run: RunDir) -> tuple[int, ...]:
    table = read_slot_table(save_dir)
    return table.choose_slots(run, table.demand_of(run))


def test_a_gpu_with_room_is_taken_first(save_dir: Path, driver: Driver) -> None:
    fake_gpus(save_dir, 3)
    driver.say(1000, 8000, 6000)
    assert choose(save_dir, queue_needing(save_dir, 5)) == (1,)
    assert choose(save_dir, queue_needing(save_dir, 0)) == (0,), "without a forecast the order stays"
    assert choose(save_dir, queue_needing(save_dir, 5, accelerate=True, num_processes=2)) == (1, 2)
    assert choose(save_dir, queue_needing(save_dir, 7, accelerate=True, num_processes=2)) == (0, 1), "one of them waits"
    assert choose(save_dir, queue_needing(save_dir, 5, model={"device_map": "cuda:0"})) == (0,)
    assert choose(save_dir, queue_needing(save_dir, 5, model={"device_map": "cpu"})) == (0,)


@pytest.mark.parametrize(
    ("gib", "settings", "slots", "short"),
    [
        (5, {}, (0,), MemoryShortage(5 * GIB, 1000 << 20, 0)),
        (5, {}, (1,), None),
        (5, {"model": {"device_map": "cpu"}}, (0,), None),
        (5, {"accelerate": True, "num_processes": 2}, (1, 2), None),
        (7, {"accelerate": True, "num_processes": 2}, (1, 2), MemoryShortage(7 * GIB, 6000 << 20, 2)),
        (5, {"accelerate": True}, (0, 1, 2), MemoryShortage(5 * GIB, 1000 << 20, 0)),
        (12, {}, (1, 2), MemoryShortage(6 * GIB, 6000 << 20, 2)),
        (5, {}, (3,), None),
    ],
)
def test_each_gpu_of_a_run_needs_its_part(
    save_dir: Path, driver: Driver, gib: int, settings: dict[str, object], slots: tuple[int, ...], short: object
) -> None:
    fake_gpus(save_dir, 4)
    driver.say(1000, 8000, 6000, "[N/A]")
    run = queue_needing(save_dir, gib, **settings)
    assert find_memory_shortage(run, ["another"], slots) == short
    assert find_memory_shortage(run, [], slots) is None, "alone it starts: nothing would free the memory"


def test_a_run_waits_for_the_memory_of_its_gpu(save_dir: Path, supervisor: Supervisor, driver: Driver) -> None:
    fake_gpus(save_dir, 2)
    driver.say(8000, 3000)
    first, second = queue_needing(save_dir, 5), queue_needing(save_dir, 5)
    wait_for(first, lambda status: status.step >= 1, supervisor)
    for _ in range(3):
        supervisor.tick()
    assert read_run_status(second).state == "queued"
    said = "waits for memory of GPU 1: it needs 5.0 GiB, 2.9 GiB is free, other programs hold the rest"
    assert explain_wait(second) == said
    driver.say(8000, 7000)
    wait_for(second, lambda status: status.step >= 1, supervisor)
    assert (second.path / "slots").read_text() == "1 1\n"
    for run in (first, second):
        kill_run(run, 1)
    driver.say(100, 100)
    wait_for(queue_needing(save_dir, 5), lambda status: status.step >= 1, supervisor)


def test_a_driver_that_says_nothing_holds_no_run_back(
    save_dir: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = fake_gpus(save_dir, 2)
    run = queue_needing(save_dir, 5)
    for text in ("#!/bin/sh\nexit 9\n", "#!/bin/sh\necho Failed to initialize NVML\n", "no program"):
        driver.program.write_text(text)
        assert read_free_gpu_memory(machine) == {}
        assert find_memory_shortage(run, ["another"], (0,)) is None
    monkeypatch.setattr(gpu_memory.shutil, "which", lambda name: None)
    assert read_free_gpu_memory(machine) == {}


def test_parts_of_a_divided_gpu_and_unknown_ones_are_left_out(driver: Driver) -> None:
    driver.say(1000, 2000, 3000)
    divided, known = Gpu("part", GIB, (9, 0), "fake-0"), Gpu("whole", 8 * GIB, (9, 0), "fake-2")
    unknown, nameless = Gpu("new", 8 * GIB, (9, 0), "fake-9"), Gpu("earlier version", 8 * GIB, (9, 0))
    machine = Machine(2, 10**10, cuda=True, gpus=(divided, known, unknown, nameless))
    assert read_free_gpu_memory(machine) == {1: 3000 << 20}
