"""Slots: as many runs at a time as the user wants or as there are GPUs, each with its share of the machine."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.run_fixtures import fake_gpus, queue, wait_for
from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.lifecycle import slot_memory
from toolkit.lifecycle.claims import read_claim, take_claim
from toolkit.lifecycle.slots import (
    SlotDemand,
    SlotTable,
    explain_wait,
    find_slot_demand,
    list_slot_holders,
    read_slot_table,
)
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs import slots as module
from toolkit.runs.events import EventWriter, read_events
from toolkit.runs.run_dir import RunDir, delete_run, is_run_starting, kill_run
from toolkit.runs.slots import SlotShare, count_slots, list_slot_paths, save_slot_count, slot_path
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.runs.worker_process import worker_environment
from toolkit.settings.yaml_file import dump_config
from toolkit.system.locks import describe_self, is_lock_held, try_lock, write_lock_holder
from toolkit.system.machine import Gpu, Machine, training_cores


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "training_cores", lambda: 4)


def held(save_dir: Path) -> list[tuple[int, str]]:
    return [(number, holder.run) for number, holder in list_slot_holders(save_dir)]


def training(status: RunStatus) -> bool:
    return status.state == "running" and status.step >= 1


def over(status: RunStatus) -> bool:
    return status.explained


def queue_long(save_dir: Path, **settings: Any) -> RunDir:
    run = queue(save_dir, steps=10_000, step_seconds=0.02)
    config = Config.model_validate({"save_dir": str(save_dir), **settings})
    run.config_path.write_text(dump_config(config))
    return run


def test_without_a_setting_one_run_trains_and_every_file_is_as_before(save_dir: Path, supervisor: Supervisor) -> None:
    runs = [queue(save_dir, steps=3) for _ in range(3)]
    supervisor.run_to_end(runs[-1], lambda status: None)
    spans = [[event["t"] for event in read_events(run.events_path)[0]] for run in runs]
    assert all(before[-1] <= after[0] for before, after in itertools.pairwise(spans))
    assert set(json.loads(runs[0].claim_path.read_bytes())) == {"schema", "supervisor", "oom_kills", "at", "log_bytes"}
    assert {path.name for path in (save_dir / "runs").iterdir()} == {"slot.lock", *(run.id for run in runs)}
    assert not (runs[0].path / "slots").exists(), "no variable tells the worker of slots"
    environment = worker_environment(runs[0], Config(), 1)
    assert environment == worker_environment(runs[0], Config(), 1, SlotShare())
    assert environment["OMP_NUM_THREADS"] == str(training_cores())


def test_two_slots_train_two_runs_and_a_third_waits(save_dir: Path, supervisor: Supervisor) -> None:
    save_slot_count(save_dir, 2)
    first, second, third = (queue_long(save_dir) for _ in range(3))
    for run in (first, second):
        wait_for(run, training, supervisor)
    for _ in range(3):
        supervisor.tick()
    assert read_run_status(third).state == "queued"
    assert explain_wait(third) == "waits for 1 free slot"
    assert held(save_dir) == [(0, first.id), (1, second.id)]
    claims = [read_claim(run) for run in (first, second)]
    assert [(claim.slots, claim.where) for claim in claims if claim] == [((0,), "slot 1 of 2"), ((1,), "slot 2 of 2")]
    kill_run(first, 1)
    wait_for(third, training, supervisor)
    assert held(save_dir) == [(0, third.id), (1, second.id)]
    assert read_run_status(second).state == "running"


def test_a_run_in_any_slot_is_found_by_other_programs(save_dir: Path, supervisor: Supervisor) -> None:
    save_slot_count(save_dir, 2)
    first = queue_long(save_dir)
    second = queue(save_dir, steps=3, before_lock=1.0)
    wait_for(first, training, supervisor)
    supervisor.tick()
    assert is_run_starting(second)
    with pytest.raises(RunError, match="still running"):
        delete_run(second)
    supervisor.stop()
    assert read_run_status(second).state in ("starting", "running")
    assert is_lock_held(slot_path(save_dir, 1))


def test_a_lower_number_of_slots_waits_for_the_runs_beyond_it(save_dir: Path, supervisor: Supervisor) -> None:
    save_slot_count(save_dir, 3)
    runs = [queue_long(save_dir) for _ in range(3)]
    for run in runs:
        wait_for(run, training, supervisor)
    save_slot_count(save_dir, 1)
    after = queue_long(save_dir)
    for run in runs[:2]:
        kill_run(run, 1)
        wait_for(run, over, supervisor)
        supervisor.tick()
        assert read_run_status(after).state == "queued"
    kill_run(runs[2], 1)
    wait_for(after, training, supervisor)
    assert held(save_dir) == [(0, after.id)]


def test_a_run_whose_worker_died_resumes_before_those_behind_it(save_dir: Path, supervisor: Supervisor) -> None:
    save_slot_count(save_dir, 2)
    dies = queue(save_dir, steps=10_000, step_seconds=0.02, die="kill", die_at=3, dying=1, save_every=1)
    beside, behind = queue_long(save_dir), queue_long(save_dir)
    wait_for(beside, training, supervisor)
    wait_for(dies, lambda status: status.state == "running" and status.attempt == 2, supervisor)
    assert read_run_status(behind).state == "queued"


def test_each_slot_of_a_machine_with_gpus_is_a_gpu(save_dir: Path, supervisor: Supervisor) -> None:
    fake_gpus(save_dir, 3)
    runs = [queue_long(save_dir), queue_long(save_dir), queue_long(save_dir, model={"device_map": "cuda:1"})]
    late = queue_long(save_dir)
    for run in (*runs[:2], late):
        wait_for(run, training, supervisor)
    told = {run.id: (run.path / "slots").read_text() for run in (*runs[:2], late)}
    assert list(told.values()) == ["0 0\n", "1 1\n", "2 2\n"]
    claim = read_claim(late)
    assert claim is not None
    assert claim.where == "GPU 2 (fake GPU)"
    # the one that asks for GPU 1 waits for it, and lets others use the free ones
    assert explain_wait(runs[2]) == "waits for GPU 1"
    kill_run(runs[1], 1)
    wait_for(runs[2], training, supervisor)
    assert (runs[2].path / "slots").read_text() == "1 -\n", "the worker follows device_map itself"


def test_a_run_that_was_started_without_a_choice_of_gpus_may_use_all(save_dir: Path, supervisor: Supervisor) -> None:
    earlier, late = queue_long(save_dir), queue_long(save_dir)
    wait_for(earlier, training, supervisor)  # by a version without slots, or before the machine was examined
    fake_gpus(save_dir, 2)
    for _ in range(3):
        supervisor.tick()
    assert read_run_status(earlier).state == "running"
    assert read_run_status(late).state == "queued"
    assert explain_wait(late) == "waits for 1 free GPU"
    kill_run(earlier, 1)
    wait_for(late, training, supervisor)


def test_a_run_on_two_gpus_takes_two_slots_and_is_not_overtaken(save_dir: Path, supervisor: Supervisor) -> None:
    fake_gpus(save_dir, 3)
    alone = [queue_long(save_dir), queue_long(save_dir)]
    for run in alone:
        wait_for(run, training, supervisor)
    wide = queue_long(save_dir, accelerate=True, num_processes=2)
    behind = queue_long(save_dir)
    for _ in range(3):
        supervisor.tick()
    assert [read_run_status(run).state for run in (wide, behind)] == ["queued", "queued"]
    assert explain_wait(wide) == "waits for 2 free GPUs"
    kill_run(alone[0], 1)
    wait_for(wide, training, supervisor)
    assert (wide.path / "slots").read_text() == "0 0,2\n2 0,2\n"
    assert read_run_status(behind).state == "queued"
    kill_run(wide, 1)
    wait_for(behind, training, supervisor)


def test_the_visible_gpus_are_counted_among_those_that_the_app_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    share = SlotShare((0, 2), 3, (0, 2))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert share.environment() == {"FTK_SLOTS": "0,2", "CUDA_VISIBLE_DEVICES": "0,2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-6a")
    assert share.environment()["CUDA_VISIBLE_DEVICES"] == "4,GPU-6a"
    assert SlotShare().environment() == {}


@pytest.mark.parametrize(
    ("settings", "memory", "wanted"),
    [
        ({}, 0, SlotDemand(1)),
        ({}, 15 * 2**30, SlotDemand(2)),  # auto, and the model does not fit one GPU of 8 GiB
        ({}, 10**14, SlotDemand(4)),
        ({"model": {"device_map": "balanced"}}, 0, SlotDemand(4)),
        ({"model": {"device_map": "cuda:3"}}, 10**14, SlotDemand(1, 3)),
        ({"model": {"device_map": "cuda:9"}}, 0, SlotDemand(1)),  # more GPUs than slots: it sees all of them
        ({"model": {"device_map": "cpu"}}, 10**14, SlotDemand(1)),
        ({"accelerate": True}, 0, SlotDemand(4)),
        ({"accelerate": True, "num_processes": 2}, 0, SlotDemand(2)),
        ({"accelerate": True, "num_processes": 64}, 0, SlotDemand(4)),
    ],
)
def test_a_run_asks_for_as_many_slots_as_it_uses_gpus(
    settings: dict[str, Any], memory: int, wanted: SlotDemand
) -> None:
    machine = Machine(2, 10**10, cuda=True, gpus=(Gpu("fake GPU", 8 * 2**30, (9, 0)),) * 4)
    assert find_slot_demand(Config.model_validate(settings), machine, 4, memory) == wanted


def test_a_run_with_more_processes_than_slots_uses_every_gpu(save_dir: Path) -> None:
    machine = Machine(2, 10**10, cuda=True, gpus=(Gpu("fake GPU", 8 * 2**30, (9, 0)),) * 4)
    for processes, gpus in ((2, (0, 1)), (4, ())):
        run = queue_long(save_dir, accelerate=True, num_processes=processes)
        held = SlotTable(save_dir, 2, [0, 1], machine).hold(run, (0, 1))
        assert held is not None and held.share.gpus == gpus
        held.close()


def test_cores_are_shared_out_and_a_resumed_run_keeps_its_threads(
    save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.system.spawn.training_cores", lambda: 8)
    monkeypatch.setattr("toolkit.runs.worker_process.usable_cores", lambda: 8)
    run = queue(save_dir)

    def threads(share: SlotShare, attempt: int = 1, **settings: Any) -> str:
        return worker_environment(run, Config.model_validate(settings), attempt, share)["OMP_NUM_THREADS"]

    assert threads(SlotShare()) == "8"
    assert threads(SlotShare((1,), 2)) == "4"
    assert threads(SlotShare((1,), 16)) == "1"
    assert threads(SlotShare((0, 1), 2), accelerate=True, num_processes=2) == "4"
    with EventWriter(run.events_path, 1) as events:
        events.append("started", pid=1)
        events.append("plan", total_steps=1, epochs=1, threads=3)
    assert threads(SlotShare((1,), 2), attempt=2) == "3"
    monkeypatch.setattr("toolkit.runs.worker_process.usable_cores", lambda: 2)
    assert threads(SlotShare((1,), 2), attempt=2) == "4", "a machine with fewer cores has no three"


def test_a_run_starts_beside_another_only_with_enough_memory(
    save_dir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_slot_count(save_dir, 2)
    small, large = queue_long(save_dir), queue_long(save_dir)
    for run, needed in ((small, 2 * 10**9), (large, 5 * 10**9)):
        run.meta_path.write_text(json.dumps({**json.loads(run.meta_path.read_bytes()), "memory_bytes": needed}))
    monkeypatch.setattr(slot_memory, "free_memory_bytes", lambda: 6 * 10**9)
    wait_for(small, training, supervisor)
    for _ in range(3):
        supervisor.tick()
    assert read_run_status(large).state == "queued", "the first one has not yet loaded what it will take"
    assert explain_wait(large).startswith("waits for memory: it needs 4.7 GiB beside the runs that train, 3.")
    monkeypatch.setattr(slot_memory, "free_memory_bytes", lambda: 10**10)
    wait_for(large, training, supervisor)
    kill_run(small, 1)
    kill_run(large, 1)
    # alone it starts as it always did: the forecast may be wrong, and nothing else will free memory
    monkeypatch.setattr(slot_memory, "free_memory_bytes", lambda: 0)
    alone = queue_long(save_dir)
    alone.meta_path.write_text(json.dumps({**json.loads(alone.meta_path.read_bytes()), "memory_bytes": 10**12}))
    wait_for(alone, training, supervisor)


def test_settings_that_cannot_be_read_free_the_slot_again(save_dir: Path, supervisor: Supervisor) -> None:
    save_slot_count(save_dir, 2)
    broken, good = queue(save_dir), queue(save_dir, steps=1)
    broken.config_path.write_text("# finetuning-toolkit config, schema 99\n")
    assert supervisor.run_to_end(good, lambda status: None).state == "finished"
    assert wait_for(broken, over, supervisor).state == "failed"
    assert read_slot_table(save_dir).free == [0, 1]


def test_a_worker_that_outlived_its_slot_keeps_others_out_of_it(save_dir: Path, supervisor: Supervisor) -> None:
    save_slot_count(save_dir, 2)
    lives = queue(save_dir)
    assert take_claim(lives, 1, (1,), "slot 2 of 2")
    lock = try_lock(lives.lock_path)  # its launcher, which held the slot, has died
    assert lock is not None
    try:
        write_lock_holder(lock, describe_self(1, lives.id))
        first, second = queue_long(save_dir), queue_long(save_dir)
        wait_for(first, training, supervisor)
        for _ in range(3):
            supervisor.tick()
        assert read_run_status(second).state == "queued"
    finally:
        os.close(lock)
    wait_for(second, lambda status: status.state != "queued", supervisor)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"schema": 1}', b'{"schema": 1, "slots": "2"}',
    b'{"schema": 1, "slots": 0}', b'{"schema": 1, "slots": true}', b'{"schema": 9, "slots": 3}'])  # fmt: skip
def test_a_setting_that_cannot_be_read_means_one_run(save_dir: Path, body: bytes) -> None:
    (save_dir / "runs").mkdir(parents=True)
    (save_dir / "runs" / "slots.json").write_bytes(body)
    assert count_slots(save_dir) == 1


def test_more_runs_than_cores_or_gpus_are_refused(save_dir: Path) -> None:
    with pytest.raises(RunError, match="5 runs at the same time are not possible: this machine has 4 cores"):
        save_slot_count(save_dir, 5)
    save_slot_count(save_dir, 4)
    assert count_slots(save_dir) == 4
    fake_gpus(save_dir, 2)
    assert count_slots(save_dir) == 2
    with pytest.raises(RunError, match="this machine has 2 GPUs"):
        save_slot_count(save_dir, 3)


def test_files_in_the_folder_of_the_slots_that_are_no_locks_are_ignored(save_dir: Path) -> None:
    folder = save_dir / "runs" / ".slots"
    folder.mkdir(parents=True)
    for name in ("slot-2.lock", "slot-.lock", "slot-9999.lock", "notes.txt"):
        (folder / name).touch()
    assert list_slot_paths(save_dir) == [save_dir / "runs" / "slot.lock", folder / "slot-2.lock"]
