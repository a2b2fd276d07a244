"""The spare worker: it becomes a run's worker, and whatever is wrong with it is replaced by a cold start."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolkit.config import Config
from toolkit.data.sources import open_table
from toolkit.runs import spare as module
from toolkit.runs.lock import is_held, try_lock
from toolkit.runs.rundir import RunDir, create_run
from toolkit.runs.spare import Spare
from toolkit.runs.spawn import worker_environment
from toolkit.validation import parse


@pytest.fixture
def spare(tmp_path: Path) -> Iterator[Spare]:
    found = Spare(tmp_path)
    found._not_before = 0.0
    yield found
    found.end()


def wait_for(condition: Callable[[], object], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ready(spare: Spare) -> bool:
    return spare._line is not None and bool(select.select([spare._line], [], [], 0)[0])


def queue(folder: Path, model: Path) -> tuple[RunDir, Config]:
    config = parse({
        "save_dir": str(folder), "model": {"hf_model_ckpt": str(model)},
        "data": {"train_size": 16, "test_size": 2}, "inference": {"max_new_tokens": 2},
    })  # fmt: skip
    return create_run(config, open_table(config.data, folder)), config


@pytest.mark.worker
def test_the_spare_carries_out_the_next_run(tmp_path: Path, tiny_model: Path, spare: Spare) -> None:
    spare.keep(busy=False)
    run, config = queue(tmp_path, tiny_model)
    wait_for(lambda: ready(spare))
    slot = try_lock(run.slot_path)
    assert slot is not None
    taken = spare.take(run, config, worker_environment(run, config, 1), slot)
    assert taken is not None
    process, holder = taken
    os.close(slot)
    assert is_held(run.slot_path)  # by the spare alone
    assert holder.alive()
    assert process.wait(300) == 0
    assert not is_held(run.slot_path)
    events = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    assert (events[0]["kind"], events[0]["pid"], events[-1]["kind"]) == ("started", process.pid, "finished")
    assert "loss" in run.log_path.read_text()
    assert spare.take(run, config, {}, 0) is None  # there is no second one yet


def test_one_that_is_not_ready_gives_way_to_a_cold_start(tmp_path: Path, spare: Spare) -> None:
    spare.keep(busy=False)
    process = spare._process
    assert process is not None
    assert spare.take(RunDir(tmp_path / "runs" / "r"), Config(), {}, 0) is None
    assert process.poll() is not None  # it takes no core from the run that starts now
    spare.keep(busy=True)
    assert spare._process is None


def test_a_dead_one_is_replaced(spare: Spare) -> None:
    spare.keep(busy=False)
    first = spare._process
    assert first is not None
    first.kill()
    first.wait()
    spare.keep(busy=False)
    spare._not_before = 0.0
    spare.keep(busy=False)
    assert spare._process is not None
    assert spare._process.pid != first.pid


def test_it_leaves_with_its_starter(spare: Spare) -> None:
    spare.keep(busy=False)
    assert spare._process is not None
    assert spare._line is not None
    spare._line.close()
    spare._line = None
    assert spare._process.wait(120) == 0


def test_none_is_started_when_memory_is_short(spare: Spare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORT_BYTES", 10**15)
    spare.keep(busy=False)
    assert spare._process is None


@pytest.mark.parametrize(
    "settings", [{"accelerate": True}, {"model": {"hf_model_ckpt": "owner/name"}}], ids=["several processes", "hub"]
)
def test_runs_of_another_environment_start_cold(settings: dict[str, object], spare: Spare) -> None:
    spare._ready, spare._stamp = True, module.code_stamp()
    assert not spare._usable(parse(dict(settings)))


def test_older_code_is_not_used(spare: Spare) -> None:
    spare._ready, spare._stamp = True, module.code_stamp() - 1
    assert not spare._usable(Config())
