"""Two real processes under accelerate's launcher on a CPU: one writes events, each row is trained once, all end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.training import draft, events_of, make_run, rows, start_worker, train_here
from toolkit.evaluation.predictions import read_predictions
from toolkit.export.prompt_contract import CONTRACT_FILE
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, kill_run, read_run_config
from toolkit.runs.status import read_run_status
from toolkit.runs.worker_process import worker_command
from toolkit.system.durable import verify_commit

pytestmark = pytest.mark.worker


def make(save_dir: Path, model: Path, more: dict[str, Any] | None = None, **training: Any) -> RunDir:
    settings = {**draft(save_dir, model, **training), "accelerate": True, "num_processes": 2, **(more or {})}
    settings["data"] |= {"train_size": 21, "test_size": 6}
    return make_run(settings, rows(30))


def launch(run: RunDir) -> subprocess.Popen[bytes]:
    return start_worker(run, worker_command(run, read_run_config(run)))


def tree(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(launcher.pid).children(recursive=True)


def wait_for_log(run: RunDir, launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Wait until the processes train, and return them in the order of their ranks."""
    deadline = time.monotonic() + 120
    while not events_of(run, "log"):
        assert time.monotonic() < deadline, run.log_path.read_text()[-3000:]
        assert launcher.poll() is None, run.log_path.read_text()[-3000:]
        time.sleep(0.1)
    ranks = [process for process in tree(launcher) if "toolkit.worker.train" in process.cmdline()]
    assert len(ranks) == 2
    return ranks


@pytest.fixture(scope="module")
def both(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run of two processes."""
    place = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        run = make(place / "save", tiny_model)
        assert launch(run).wait(180) == 0, run.log_path.read_text()[-3000:]
        verify_commit(run.adapter_dir)
    return run


def test_two_processes_train_each_row_once_and_one_writes_events(both: RunDir) -> None:
    events = events_of(both)
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    counts = {kind: len(events_of(both, kind)) for kind in ("started", "plan", "prepared", "adapter", "finished")}
    assert counts == dict.fromkeys(counts, 1)
    prepared, plan = events_of(both, "prepared")[0], events_of(both, "plan")[0]
    # 21 rows in batches of 2 x 4 leave 5, which both processes share
    assert (prepared["train_rows"], plan["steps_per_epoch"], plan["total_steps"]) == (21, 3, 6)
    assert (plan["batch_size"], plan["processes"]) == (8, 2)
    assert events_of(both, "log")[-1]["tokens"] == 2 * prepared["train_tokens"]
    assert events_of(both, "scores")[0]["rows"] == 6


def load_adapter(run: RunDir) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run.adapter_dir / "adapter_model.safetensors")


def test_two_processes_train_the_same_as_one(both: RunDir, tiny_model: Path, save_dir: Path) -> None:
    def losses(run: RunDir) -> list[float]:
        return [event["loss"] for event in events_of(run, "log")]

    settings = draft(save_dir, tiny_model, per_device_train_batch_size=8)
    settings["data"] |= {"train_size": 21, "test_size": 6}
    one = make_run(settings, rows(30))
    assert train_here(one)[0] == 0
    assert losses(both) == pytest.approx(losses(one), rel=1e-3)
    tested = [[event["eval_loss"] for event in events_of(run, "eval")] for run in (both, one)]
    assert tested[0] == pytest.approx(tested[1], rel=1e-3), "6 rows fill no batch of 2 x 8: none counts twice"
    assert tested[0]
    alone, shared = load_adapter(one), load_adapter(both)
    assert max((alone[name] - shared[name]).abs().max().item() for name in alone) < 2e-3


def test_a_stop_ends_both_and_keeps_the_adapter(tiny_model: Path, save_dir: Path) -> None:
    run = make(save_dir, tiny_model, num_train_epochs=3000, eval_steps=100000)
    launcher = launch(run)
    ranks = wait_for_log(run, launcher)
    run.stop_path.touch()
    assert launcher.wait(60) == 0
    assert not psutil.wait_procs(ranks, timeout=30)[1]
    assert events_of(run)[-1]["kind"] == "stopped"
    verify_commit(run.adapter_dir)


def test_a_kill_ends_the_whole_tree(tiny_model: Path, save_dir: Path) -> None:
    run = make(save_dir, tiny_model, num_train_epochs=3000, eval_steps=100000)
    launcher = launch(run)
    ranks = wait_for_log(run, launcher)
    assert kill_run(run)
    launcher.wait(30)
    assert not psutil.wait_procs(ranks, timeout=30)[1]
    assert not read_run_status(run).is_active


def test_a_killed_process_is_explained(tiny_model: Path, save_dir: Path) -> None:
    run = make(save_dir, tiny_model, num_train_epochs=3000, eval_steps=100000)
    launcher = launch(run)
    ranks = wait_for_log(run, launcher)
    leader = events_of(run, "started")[0]["pid"]
    (other,) = [process for process in ranks if process.pid != leader]
    os.kill(other.pid, signal.SIGKILL)
    assert launcher.wait(60) != 0
    assert not psutil.wait_procs(ranks, timeout=30)[1]
    last = events_of(run)[-1]
    assert last["kind"] == "interrupted"  # the run continues without a new start by the user
    assert last["reason"] == "process_died"
    assert last["hint"]
    assert not run.adapter_dir.exists()


LONG: dict[str, Any] = {"num_train_epochs": 10, "save_steps": 2, "eval_steps": 100}


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of two processes that nothing disturbed, with the settings of the runs that are killed."""
    run = make(tmp_path_factory.mktemp("whole"), tiny_model, **LONG)
    assert launch(run).wait(240) == 0, run.log_path.read_text()[-3000:]
    return run


def wait_for_checkpoint(*started: tuple[RunDir, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + 240
    for run, launcher in started:
        while not events_of(run, "saved"):
            assert time.monotonic() < deadline and launcher.poll() is None, run.log_path.read_text()[-3000:]
            time.sleep(0.01)


def adapter_bytes(run: RunDir) -> bytes:
    return (run.adapter_dir / "adapter_model.safetensors").read_bytes()


def kill_and_resume(run: RunDir) -> None:
    """Kill a process of the run after a checkpoint, and train the run to its end from there."""
    launcher = launch(run)
    wait_for_checkpoint((run, launcher))
    os.kill(events_of(run, "started")[0]["pid"], signal.SIGKILL)
    assert launcher.wait(60) != 0
    again = start_worker(run, worker_command(run, read_run_config(run)), FTK_ATTEMPT="2")
    assert again.wait(240) == 0, run.log_path.read_text()[-3000:]
    assert events_of(run, "resumed")[0]["step"] >= 2
    assert all(event["exact"] for event in events_of(run, "verified"))


def test_two_processes_resume_bit_for_bit(whole: RunDir, tiny_model: Path, save_dir: Path) -> None:
    run = make(save_dir, tiny_model, **LONG)
    kill_and_resume(run)
    names = {path.name for path in (run.checkpoints_dir / "step-000030").iterdir()}
    assert {"rank-0.safetensors", "rank-1.safetensors", "rank-0.json", "rank-1.json"} <= names
    assert adapter_bytes(run) == adapter_bytes(whole)


def test_a_sharded_model_trains_the_same_and_resumes(whole: RunDir, tiny_model: Path, save_dir: Path) -> None:
    run = make(save_dir, tiny_model, {"shard_model": True}, **LONG)
    kill_and_resume(run)
    plan = events_of(run, "plan")[-1]
    frozen = plan["total_parameters"] - plan["trainable_parameters"]
    assert plan["held_parameters"] == plan["trainable_parameters"] + frozen / 2, "each process holds half of the base"
    one, sharded = load_adapter(whole), load_adapter(run)
    assert max((one[name] - sharded[name]).abs().max().item() for name in one) < 2e-3
    assert [event["rows"] for event in events_of(run, "scores")] == [6]
    assert read_predictions(run) == read_predictions(whole), "the whole model answers after training"
    assert (run.adapter_dir / CONTRACT_FILE).exists()


def test_a_sharded_model_in_4_bits_computes_batches_in_parts(both: RunDir, tiny_model: Path, save_dir: Path) -> None:
    quantized = {"hf_model_ckpt": str(tiny_model), "quantize": True, "bitsandbytes": {"load_in_4bit": True}}
    run = make(save_dir, tiny_model, {"shard_model": True, "model": quantized})
    # 21 rows in batches of 2 x 4 leave 3 for one process and 2 for the other: two parts and one
    with EventWriter(run.events_path) as events:
        events.append("interrupted", reason="out_of_memory", message="", hint="", micro_batch=2)
    worker = start_worker(run, worker_command(run, read_run_config(run)), FTK_ATTEMPT="2")
    assert worker.wait(240) == 0, run.log_path.read_text()[-3000:]
    assert events_of(run, "plan")[0]["micro_batch"] == 2
    losses = [[event["loss"] for event in events_of(done, "log")] for done in (run, both)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_two_machines_train_the_same_and_resume_together(whole: RunDir, tiny_model: Path, save_dir: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": port}
    runs = []
    for rank in (0, 1):
        settings = draft(save_dir / f"machine-{rank}", tiny_model, **LONG)
        settings["data"] |= {"train_size": 21, "test_size": 6}
        team = {"accelerate": True, "num_processes": 1, "machine_rank": rank, **meeting}
        runs.append(make_run({**settings, **team}, rows(30)))
    launchers = [launch(run) for run in reversed(runs)][::-1]
    wait_for_checkpoint(*zip(runs, launchers, strict=True))
    os.kill(events_of(runs[1], "started")[0]["pid"], signal.SIGKILL)
    assert all(launcher.wait(240) != 0 for launcher in launchers)
    last = events_of(runs[0])[-1]
    assert (last["kind"], last["reason"]) == ("interrupted", "process_died")
    again = [start_worker(run, worker_command(run, read_run_config(run)), FTK_ATTEMPT="2") for run in runs]
    for run, launcher in zip(runs, again, strict=True):
        assert launcher.wait(240) == 0, run.log_path.read_text()[-3000:]
        assert adapter_bytes(run) == adapter_bytes(whole), "each machine has the whole adapter"
        assert (events_of(run, "plan")[0]["processes"], events_of(run, "plan")[0]["batch_size"]) == (2, 8)
        assert all(event["exact"] for event in events_of(run, "verified"))
    steps = [events_of(run, "resumed")[0]["step"] for run in runs]
    assert steps[0] == steps[1] >= 2
    assert events_of(runs[0], "eval") and [e["eval_loss"] for e in events_of(runs[0], "eval")] == [
        e["eval_loss"] for e in events_of(runs[1], "eval")
    ]
