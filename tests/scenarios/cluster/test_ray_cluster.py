"""Runs on a real Ray cluster of two nodes on this machine: spread over both, one node killed, worker killed, paused."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.ray_nodes import NODES, RayNodes, start_ray_nodes
from tests.fakes.training import draft, events_of, make_run, train_here
from toolkit.cluster.choice import choose_cluster
from toolkit.cluster.lease import begun_path
from toolkit.cluster.setting import RayCluster, read_cluster, save_cluster
from toolkit.errors import RunError
from toolkit.lifecycle.launcher import ClusterLauncher, LocalLauncher
from toolkit.lifecycle.resume_policy import request_resume
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import RunDir, find_run_holder, list_runs, request_run_stop
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.machine import read_known_machine

pytestmark = [pytest.mark.worker, pytest.mark.cluster]
LONG = {"num_train_epochs": 30, "save_steps": 5}
"""120 steps: some seconds, in which a node can be killed."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the state, the token and the runs; the environment says so, and that a token is needed."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "token").write_text("0123456789abcdef" * 4)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "FTK_STATE_DIR": str(folder / "state"),
            "FTK_CLUSTER_LEASE": "60",  # nothing here waits for its end, and a slow machine must not lose one
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }.items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[RayNodes]:
    with start_ray_nodes() as found:
        yield found


@pytest.fixture(scope="module")
def supervisor(place: Path, cluster: RayNodes) -> Iterator[Supervisor]:
    save_dir = place / "save"
    save_cluster(save_dir, RayCluster(cluster.address, len(NODES)))
    found = Supervisor(save_dir, launcher=ClusterLauncher(save_dir, LocalLauncher()), poll_seconds=0.1)
    found.start()
    yield found
    found.stop()
    for run in list_runs(save_dir):
        if (holder := find_run_holder(run)) is not None and holder.is_alive():
            psutil.Process(holder.pid).kill()


def wait_until(run: RunDir, wanted: Callable[[RunStatus], bool]) -> RunStatus:
    deadline = time.monotonic() + 400
    while not wanted(status := read_run_status(run)):
        assert time.monotonic() < deadline and (not status.explained or wanted(status)), f"{status}\n{log_of(run)}"
        time.sleep(0.05)
    return status


def wait_for_saving_on(node: str, runs: list[RunDir]) -> RunDir:
    """Return the run that has saved a checkpoint on a node."""
    deadline = time.monotonic() + 400
    while not (found := [run for run in runs if read_run_status(run).saved_step > 0 and nodes_of(run) == [node]]):
        assert time.monotonic() < deadline, "\n".join(map(log_of, runs))
        time.sleep(0.05)
    return found[0]


def log_of(run: RunDir) -> str:
    return run.log_path.read_text(errors="replace")[-3000:] if run.log_path.exists() else "no log"


def weights_of(run: RunDir) -> bytes:
    return (run.adapter_dir / "adapter_model.safetensors").read_bytes()


def nodes_of(run: RunDir) -> list[str]:
    """The node of each attempt."""
    attempts = sorted({event["attempt"] for event in events_of(run, "started")})
    return [begun_path(run.path, attempt).read_text() for attempt in attempts]


def ended_by(run: RunDir) -> list[str]:
    """Why its attempts ended that nobody had asked to."""
    return [event["reason"] for event in events_of(run, "interrupted")]


def test_choosing_a_cluster_looks_at_its_nodes(place: Path, cluster: RayNodes) -> None:
    folder = place / "chosen"
    with pytest.raises(RunError, match=r"No Ray cluster answers at 127\.0\.0\.9:6399"):
        choose_cluster(folder, "127.0.0.9:6399")
    assert read_cluster(folder) is None
    chosen, view = choose_cluster(folder, cluster.address)
    assert view.asks_for_token and chosen == read_cluster(folder) == RayCluster(cluster.address, len(NODES))
    assert [(node.cpus, node.gpus) for node in view.nodes] == [(1, 0)] * len(NODES)
    machine = read_known_machine(folder)
    assert machine is not None and machine.versions["torch"]


def test_runs_survive_their_node_their_worker_and_a_pause(
    supervisor: Supervisor, cluster: RayNodes, place: Path, tiny_model: Path
) -> None:
    seeds = range(3)
    runs = [make_run(draft(supervisor.save_dir, tiny_model, **LONG, seed=seed)) for seed in seeds]
    alone = [make_run(draft(place / "alone", tiny_model, **LONG, seed=seed)) for seed in seeds]
    both, third = runs[:2], runs[2]
    doomed = wait_for_saving_on(NODES[1], both)
    cluster.kill_node(NODES[1])
    had_ended = read_run_status(doomed).explained  # a slow machine may have looked too late
    other = both[1 - both.index(doomed)]
    wait_until(other, lambda status: status.saved_step > 0)
    request_run_stop(other, pause=True)
    assert wait_until(other, lambda status: status.explained).state in ("paused", "finished"), log_of(other)
    wait_until(third, lambda status: status.saved_step > 0)
    was_killed = (holder := find_run_holder(third)) is not None and holder.is_alive()
    if holder is not None and was_killed:
        os.kill(holder.pid, signal.SIGKILL)
    if read_run_status(other).state == "paused":
        assert read_run_status(other).saved_step == read_run_status(other).step
        request_resume(other)
    for run in runs:
        assert wait_until(run, lambda status: status.explained).state == "finished", log_of(run)
    assert nodes_of(other) == [NODES[0]] * len(nodes_of(other)) and ended_by(other) == []
    assert had_ended or (nodes_of(doomed) == [NODES[1], NODES[0]] and ended_by(doomed) == ["node_lost"])
    assert ended_by(third).count("node_lost") == nodes_of(third).count(NODES[1]) <= had_ended
    assert ended_by(third).count("killed") <= was_killed  # it may just have finished
    for run, undisturbed in zip(runs, alone, strict=True):
        assert train_here(undisturbed)[0] == 0
        assert weights_of(run) == weights_of(undisturbed)


def test_a_run_that_no_node_can_hold_says_so_and_can_be_stopped(supervisor: Supervisor, tiny_model: Path) -> None:
    run = make_run({**draft(supervisor.save_dir, tiny_model), "accelerate": True, "num_processes": 64})
    waiting = wait_until(run, lambda status: status.phase.startswith("waiting for a node"))
    assert "64 cores" in waiting.phase and waiting.phase.endswith("which the cluster does not have now")
    request_run_stop(run)
    assert wait_until(run, lambda status: status.explained).state == "stopped"
