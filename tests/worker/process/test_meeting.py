"""The machines of a run meet before they train, in threads here: all start together, or each says why it does not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.training import draft, events_of, make_run, own_signals
from toolkit.errors import RunError
from toolkit.runs.run_dir import read_run_config
from toolkit.runs.worker_process import worker_command
from toolkit.system.machine import Machine
from toolkit.worker import train
from toolkit.worker.process import meeting as module
from toolkit.worker.process.meeting import Meeting
from toolkit.worker.process.stop import StopRequested, StopSignal


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


def machine(port: int, rank: int, folder: Path, machines: int = 2, processes: int = 6) -> Meeting:
    return Meeting("127.0.0.1", port, rank, machines, processes, StopSignal(folder / f"stop-{rank}"))


def test_all_machines_start_together_and_the_port_is_free(port: int, pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    late = [pool.submit(machine(port, rank, tmp_path, 3).hold) for rank in (2, 1, 0)]
    assert [one.result(120) for one in late] == [None] * 3
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=30)


def test_a_stop_ends_the_wait_and_the_machine_may_come_again(
    port: int, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    main = pool.submit(machine(port, 0, tmp_path, 3).hold)
    (tmp_path / "stop-1").touch()
    with pytest.raises(StopRequested):
        machine(port, 1, tmp_path, 3).hold()
    (tmp_path / "stop-1").unlink()
    second = pool.submit(machine(port, 2, tmp_path, 3).hold)
    assert not main.done() and not second.done(), "a machine that has left does not count"
    machine(port, 1, tmp_path, 3).hold()
    assert (main.result(120), second.result(120)) == (None, None)
    (tmp_path / "stop-0").touch()
    with pytest.raises(StopRequested):
        machine(port, 0, tmp_path).hold()


def test_another_number_of_processes_is_named(port: int, pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    main = pool.submit(machine(port, 0, tmp_path, processes=4).hold)
    with pytest.raises(RunError, match="2 processes by the settings here, 4 by those of the main one") as error:
        machine(port, 1, tmp_path, processes=2).hold()
    assert error.value.reason == "machines_differ"
    with pytest.raises(RunError, match="machine 1 has settings for 2 processes of this run, the main one for 4"):
        main.result(120)


def test_a_machine_that_does_not_come_is_named(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    for rank, named in (
        (0, "Machine 1 of this run did not report"),
        (1, "The main machine .* did not answer"),
    ):
        with pytest.raises(RunError, match=named) as error:
            machine(port, rank, tmp_path).hold()
        assert error.value.reason == "machines_apart"
    with socket.socket() as other:
        other.bind(("0.0.0.0", port))
        other.listen()
        with pytest.raises(RunError, match=f"can't listen at 127.0.0.1:{port}"):
            machine(port, 0, tmp_path).hold()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_whose_machines_do_not_meet_says_so(
    port: int, save_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    from accelerate.commands.config.config_args import ClusterConfig  # which imports torch: seconds

    team = {"accelerate": True, "num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": port}
    run = make_run({**draft(save_dir, tmp_path), **team, "num_processes": 1})
    monkeypatch.setattr("toolkit.runs.worker_process.probe_machine", lambda save_dir: Machine(2, 10**10))
    assert worker_command(run, read_run_config(run))[-2:] == [run.id, "--launch"]
    monkeypatch.setenv("FTK_SAVE_DIR", str(save_dir))
    monkeypatch.setattr(module, "WAIT_SECONDS", 60.0 if stopped else 0.0)
    if stopped:
        run.stop_path.touch()
    with own_signals():
        assert train.launch(run.id) == (0 if stopped else 1)
    assert ClusterConfig.from_yaml_file(str(run.accelerate_path)).num_machines == 2
    last = events_of(run)[-1]
    assert last["kind"] == ("stopped" if stopped else "failed")
    if not stopped:
        assert last["reason"] == "machines_apart"
        assert "Machine 1 of this run did not report" in last["message"] and "press Resume" in last["hint"]
