"""The standby worker: runs are forked from it, and start as new processes if anything is wrong with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from tests.fakes.standby import standby_of
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.runs.status import read_run_status
from toolkit.runs.worker_process import worker_environment
from toolkit.services import fork_client, warm_client
from toolkit.services import spare_process as module
from toolkit.services.fork_client import LOST_EXIT_CODE, ForkedProcess, ForkServer
from toolkit.services.spare_process import SpareProcess
from toolkit.settings.validation import parse_draft
from toolkit.system.locks import is_lock_held, try_lock
from toolkit.system.machine import read_known_machine


@pytest.fixture
def spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpareProcess]:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(fork_client, "FORK_ANSWER_SECONDS", 120.0)  # a loaded machine is not what is tested
    found = SpareProcess(tmp_path)
    found._not_before = 0.0
    yield found
    found.end()
    warm_client.stop_warm_worker(tmp_path)
    del module._SPARES[tmp_path]


def wait_for(condition: Callable[[], object], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def queue(folder: Path, model: Path) -> tuple[RunDir, Config]:
    config = parse_draft({
        "save_dir": str(folder), "model": {"hf_model_ckpt": str(model)},
        "data": {"train_size": 16, "test_size": 2}, "inference": {"max_new_tokens": 2},
    })  # fmt: skip
    return create_run(config, open_table(config.data, folder)), config


def begin(spare: SpareProcess, folder: Path, model: Path, **more: str) -> tuple[RunDir, ForkedProcess]:
    run, config = queue(folder, model)
    slot = try_lock(run.slot_path)
    assert slot is not None
    taken = spare.fork_worker(run, config, {**worker_environment(run, config, 1), **more}, slot)
    assert taken is not None
    os.close(slot)
    assert taken[1].is_alive()
    return run, taken[0]


def pid_of(spare: SpareProcess) -> int:
    assert spare._server is not None
    return spare._server.process.pid


def ended(run: RunDir, process: ForkedProcess) -> None:
    assert is_lock_held(run.slot_path)  # by the fork only
    assert process.wait(300) == 0
    assert not is_lock_held(run.slot_path)
    events = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    assert (events[0]["kind"], events[0]["pid"], events[-1]["kind"]) == ("started", process.pid, "finished")
    assert "loss" in run.log_path.read_text()


@pytest.mark.worker
def test_runs_and_the_background_worker_are_forks(tmp_path: Path, tiny_model: Path, spare: SpareProcess) -> None:
    spare.maintain()
    wait_for(spare.ready_server)
    first_run, first = begin(spare, tmp_path, tiny_model)
    ended(first_run, first)
    # one after another, without a second import; the environment is larger than one read or write
    second_run, second = begin(spare, tmp_path, tiny_model, LARGE="x" * 1_000_000)
    adapters = [run.adapter_dir / "adapter_model.safetensors" for run in (first_run, second_run)]
    table = open_table(Config().data, tmp_path)
    data = {"prompt": "{message}", "prompt_stub": "{json}"}
    body = {"config": {"data": data, "model": {"hf_model_ckpt": str(tiny_model)}}, "table": str(table.path)}
    with pytest.raises(Exception, match="message"):  # the background worker answers that there is no such column
        warm_client.ask_warm_worker(tmp_path, "lengths", body)
    info = warm_client.find_warm_worker(tmp_path)
    assert info is not None
    assert psutil.Process(info.pid).ppid() == pid_of(spare)
    ended(second_run, second)
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    killed = begin(spare, tmp_path, tiny_model)[1]
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL


@pytest.mark.worker
def test_without_safe_forks_the_standby_worker_becomes_the_worker(
    tmp_path: Path, tiny_model: Path, spare: SpareProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(10_000,), daemon=True).start()\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(thread)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    spare.maintain()
    wait_for(spare.ready_server)
    assert module.wait_for_fork_server(tmp_path, 1.0) is None  # the background worker starts as a new process
    before = pid_of(spare)
    run, process = begin(spare, tmp_path, tiny_model)
    assert process.pid == before
    assert spare.ready_server() is None  # there is no second one yet
    ended(run, process)


def test_a_standby_worker_that_is_not_ready_is_ended_for_a_new_process(tmp_path: Path, spare: SpareProcess) -> None:
    spare.maintain()
    assert spare._server is not None
    process = spare._server.process
    assert spare.fork_worker(RunDir(tmp_path / "runs" / "r"), Config(), {}, 0) is None
    assert process.poll() is not None  # its imports would take a core from the run that starts now
    spare.maintain()
    assert spare._server is None


def test_a_run_waits_for_imports_unless_they_hang(
    tmp_path: Path, spare: SpareProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not spare.run_should_wait(Config()), "no supervisor maintains one, as on a command line"
    spare._not_before = time.monotonic() + module.START_DELAY_SECONDS
    spare.maintain()
    assert spare._server is None
    assert not spare.run_should_wait(parse_draft({"accelerate": True}))
    assert spare.run_should_wait(Config()), "it is started at once if a run waits"
    server = spare._server
    assert server is not None
    wait_for(lambda: spare.run_should_wait(Config()) and module.read_import_progress(tmp_path).done > 0)
    imports = module.read_import_progress(tmp_path)
    assert imports.done < imports.steps and imports.library, "a page names what is loaded"
    os.kill(pid_of(spare), signal.SIGSTOP)
    assert spare.run_should_wait(Config())
    monkeypatch.setattr(fork_client, "IMPORT_STALL_SECONDS", 0.5)
    wait_for(lambda: not spare.run_should_wait(Config()))
    assert server.process.poll() == -signal.SIGKILL
    assert module.read_import_progress(tmp_path) == fork_client.NO_IMPORTS
    assert spare.fork_worker(RunDir(tmp_path / "runs" / "r"), Config(), {}, 0) is None


def test_no_run_waits_for_a_standby_worker_that_died(spare: SpareProcess) -> None:
    spare.maintain()
    assert spare.run_should_wait(Config())
    os.kill(pid_of(spare), signal.SIGKILL)
    wait_for(lambda: not spare.run_should_wait(Config()))


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FTK_SPARE", "1")
    found = Supervisor(tmp_path)
    found.start()
    yield found
    found.stop()
    warm_client.stop_warm_worker(tmp_path)
    del module._SPARES[tmp_path]


def kinds(run: RunDir) -> list[str]:
    lines = run.events_path.read_text().splitlines() if run.events_path.exists() else []
    return [json.loads(line)["kind"] for line in lines]


@pytest.mark.worker
def test_the_first_run_uses_the_imports_in_progress(tmp_path: Path, tiny_model: Path, supervisor: Supervisor) -> None:
    run, _ = queue(tmp_path, tiny_model)
    supervisor.check_now()
    spare = standby_of(supervisor)
    assert spare is not None
    wait_for(lambda: module.read_import_progress(tmp_path).done > 0)
    assert read_run_status(run).state == "queued"
    assert not is_lock_held(run.slot_path), "another supervisor may start the run"
    wait_for(lambda: "started" in kinds(run))
    started = json.loads(run.events_path.read_text().splitlines()[0])
    assert psutil.Process(started["pid"]).ppid() == pid_of(spare)
    wait_for(lambda: read_run_status(run).explained)
    assert read_run_status(run).state == "finished"
    wait_for(lambda: read_known_machine(tmp_path) is not None)


@pytest.mark.worker
def test_a_late_answer_starts_no_second_worker(
    tmp_path: Path, tiny_model: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = standby_of(supervisor)
    assert spare is not None
    wait_for(spare.ready_server)
    server = spare.ready_server()
    assert server is not None
    given_up, config = queue(tmp_path, tiny_model)
    given_up.stop_path.touch()  # the supervisor must not start it
    ours, theirs = socket.socketpair()
    order = {"kind": "train", "arguments": [given_up.id], "environment": worker_environment(given_up, config, 1)}
    slot = try_lock(given_up.slot_path)
    assert slot is not None
    with ours, theirs, server._guard:
        server._send_order(
            json.dumps({**order, "log": str(given_up.log_path)}).encode() + b"\n", [slot, theirs.fileno()]
        )
        number = int(ours.recv(32))
        assert psutil.pid_exists(number)
    os.close(slot)
    wait_for(lambda: server.exit_code_of(number) is not None)  # it was not told to go on, so it exits
    assert server.exit_code_of(number) == 0
    assert not is_lock_held(given_up.slot_path)
    assert not kinds(given_up)
    # a server that does not answer at all
    monkeypatch.setattr(fork_client, "FORK_ANSWER_SECONDS", 0.5)
    os.kill(server.process.pid, signal.SIGSTOP)
    run, _ = queue(tmp_path, tiny_model)
    supervisor.check_now()
    wait_for(lambda: read_run_status(run).explained)
    assert kinds(run).count("started") == 1
    assert kinds(run)[-1] == "finished"
    assert server.process.poll() == -signal.SIGKILL


def answer_of_a_page(folder: Path, body: dict[str, Any], at_work: Callable[[], object]) -> dict[str, Any]:
    """Poll as a page does until there is a value; call `at_work` once while the question is in progress."""
    deadline, done = time.monotonic() + 300, False
    while (seen := warm_client.poll_warm_question(folder, "lengths", body, wait=0.1)).state != "done":
        assert seen.state in ("starting", "working"), seen
        if seen.state == "working" and not done:
            at_work()
            done = True
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    return seen.value


@pytest.mark.worker
def test_a_question_is_answered_although_processes_are_killed(
    tmp_path: Path, tiny_model: Path, supervisor: Supervisor
) -> None:
    table = open_table(Config().data, tmp_path)
    column = table.columns[0]
    data = {"prompt": f"{{{column}}}", "prompt_stub": f"{{{column}}}"}
    body = {"config": {"data": data, "model": {"hf_model_ckpt": str(tiny_model)}}, "table": str(table.path)}
    spare = standby_of(supervisor)
    assert spare is not None

    def kill_server() -> None:
        os.kill(pid_of(spare), signal.SIGKILL)

    def kill_worker() -> None:
        info = warm_client.find_warm_worker(tmp_path)
        assert info is not None
        os.kill(info.pid, signal.SIGKILL)

    wait_for(lambda: spare._server is not None)
    warm_client.poll_warm_question(tmp_path, "lengths", body)  # it waits for the imports
    kill_server()
    first = answer_of_a_page(tmp_path, body, kill_worker)  # while it is asked
    kill_worker()  # between two questions
    spare._not_before = 0.0
    wait_for(spare.ready_server)
    run, _ = queue(tmp_path, tiny_model)
    supervisor.check_now()
    wait_for(lambda: kinds(run))  # while a run is a fork
    assert answer_of_a_page(tmp_path, body, kill_server) == first
    warm_client._STARTERS.clear()  # more deaths within half a minute would be reported
    kill_worker()
    assert answer_of_a_page(tmp_path, body, lambda: None) == first
    wait_for(lambda: read_run_status(run).explained)
    assert read_run_status(run).state == "finished"


def test_a_dead_standby_worker_is_replaced(spare: SpareProcess) -> None:
    spare.maintain()
    first = pid_of(spare)
    psutil.Process(first).kill()
    wait_for(lambda: spare._server is None or not spare._server.is_alive)
    spare.maintain()
    assert spare._server is None
    spare._not_before = 0.0
    spare.maintain()
    assert pid_of(spare) != first


def test_a_standby_worker_with_old_code_is_replaced(spare: SpareProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    spare.maintain()
    first = spare._server
    assert first is not None
    monkeypatch.setattr(module, "build_id", lambda: "another")
    assert spare.ready_server() is None
    spare._build_checked = spare._not_before = -1000.0
    spare.maintain()
    assert spare._server is None
    assert first.process.wait(120) == 0  # none of its forks trains
    spare.maintain()
    assert spare._server is not None


def test_it_exits_with_the_process_that_started_it(spare: SpareProcess) -> None:
    spare.maintain()
    assert spare._server is not None
    spare._server._socket.shutdown(socket.SHUT_RDWR)
    assert spare._server.process.wait(120) == 0


def test_an_unknown_exit_code_is_reported_as_lost(spare: SpareProcess) -> None:
    spare.maintain()
    server = spare._server
    assert server is not None
    forked = ForkedProcess(server, 2**22 + 1, 0.0)  # no process has this pid
    assert forked.poll() is None
    server.kill()
    assert forked.poll() == LOST_EXIT_CODE


@pytest.mark.parametrize(("late", "code"), [(0, 0), (3, 3), (None, LOST_EXIT_CODE)])
def test_an_exit_code_that_arrives_late_is_kept(late: int | None, code: int) -> None:
    """The server reports the exit code between the read of the socket and the check of the process."""

    codes = [None, late]
    server = SimpleNamespace(is_alive=False, exit_code_of=lambda pid: codes.pop(0))
    forked = ForkedProcess(cast(ForkServer, server), 2**22 + 1, 0.0)  # no process has this pid
    assert forked.poll() == code


def test_no_standby_worker_is_started_when_memory_is_short(
    spare: SpareProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory_bytes", lambda: 10**9)
    spare.maintain()
    assert spare._server is None
    assert module.wait_for_fork_server(spare._save_dir, 60.0) is None


@pytest.mark.parametrize(
    "settings", [{"accelerate": True}, {"model": {"hf_model_ckpt": "owner/name"}}], ids=["several processes", "hub"]
)
def test_runs_that_need_another_environment_start_as_new_processes(
    settings: dict[str, object], spare: SpareProcess
) -> None:
    assert not spare._fits(parse_draft(dict(settings)))
