"""Where runs train, what they ask of a cluster, the lease, and how an end on a node is explained. No Ray is needed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.fakes.run_fixtures import queue
from toolkit.cli import launcher_options, main
from toolkit.cluster import choice, lease
from toolkit.cluster.choice import ClusterView, choose_cluster, choose_this_machine
from toolkit.cluster.lease import (
    LeaseHolder,
    LeaseWatch,
    NodeReport,
    check_lease,
    read_report,
    wait_for_earlier_attempts,
    wait_for_release,
)
from toolkit.cluster.resources import ClusterNode, TaskResources, count_cluster_slots, plan_resources
from toolkit.cluster.setting import RayCluster, read_cluster, save_cluster
from toolkit.config import Config
from toolkit.errors import ConfigError, RunError
from toolkit.lifecycle.claims import close_dead_attempt, take_claim
from toolkit.lifecycle.launcher import ClusterLauncher, LocalLauncher, default_launcher
from toolkit.lifecycle.slots import read_slot_table
from toolkit.runs.events import EventWriter, read_events
from toolkit.runs.slots import count_slots, save_slot_count, slot_limit
from toolkit.runs.status import read_run_status
from toolkit.system.machine import Gpu, Machine, read_known_machine

GB = 10**9
CPU_NODES = [ClusterNode(8, 0, 32 * GB), ClusterNode(4, 0, 16 * GB)]
GPU_NODES = [ClusterNode(16, 8, 64 * GB), ClusterNode(8, 0, 16 * GB)]


@pytest.mark.parametrize(
    ("settings", "nodes", "slots", "wanted"),
    [
        ({}, CPU_NODES, 2, TaskResources(4, 0, 5 * GB, 4)),
        ({}, CPU_NODES, 4, TaskResources(2, 0, 5 * GB, 2)),
        ({}, CPU_NODES, 60, TaskResources(1, 0, 5 * GB, 1)),
        ({"accelerate": True, "num_processes": 2}, CPU_NODES, 2, TaskResources(4, 0, 10 * GB, 2)),
        ({}, GPU_NODES, 8, TaskResources(2, 1, 0, 2)),
        ({"model": {"device_map": "cpu"}}, GPU_NODES, 8, TaskResources(2, 0, 5 * GB, 2)),
        ({"model": {"device_map": "balanced"}}, GPU_NODES, 8, TaskResources(16, 8, 0, 16)),
        ({"accelerate": True}, GPU_NODES, 8, TaskResources(16, 8, 0, 2)),
        ({"accelerate": True, "num_processes": 2}, GPU_NODES, 8, TaskResources(4, 2, 0, 2)),
        ({}, [], 1, TaskResources(1, 0, 0, 1)),
    ],
)
def test_a_run_asks_for_its_share_of_a_node(
    settings: dict[str, object], nodes: list[ClusterNode], slots: int, wanted: TaskResources
) -> None:
    assert plan_resources(Config.model_validate(settings), nodes, slots, 5 * GB) == wanted


def test_a_run_that_resumes_keeps_its_threads() -> None:
    assert plan_resources(Config(), CPU_NODES, 2, threads=3) == TaskResources(3, 0, 0, 3)


def test_one_run_for_each_gpu_or_each_node() -> None:
    assert [count_cluster_slots(nodes) for nodes in (CPU_NODES, GPU_NODES, [])] == [2, 8, 1]


def test_the_setting_counts_only_in_the_folder_and_installation_that_made_it(
    save_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = RayCluster("10.0.0.5:6379", 4)
    save_cluster(save_dir, cluster)
    assert read_cluster(save_dir) == cluster
    copied = tmp_path / "elsewhere"
    (copied / "runs").mkdir(parents=True)
    setting = save_dir / "runs" / "cluster.json"
    (copied / "runs" / "cluster.json").write_bytes(setting.read_bytes())
    assert read_cluster(copied) is None
    changed = json.loads(setting.read_text())
    changed["cluster"]["address"] = "198.51.100.7:6379"
    setting.write_text(json.dumps(changed))
    assert read_cluster(save_dir) is None
    save_cluster(save_dir, cluster)
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "other-state"))
    assert read_cluster(save_dir) is None


def test_slots_are_those_of_the_cluster(save_dir: Path) -> None:
    machine = Machine(2, 8 * GB, True, (Gpu("NVIDIA H200", 140 * GB, (9, 0)),))
    save_cluster(save_dir, RayCluster("auto", 6))
    run = queue(save_dir)
    assert count_slots(save_dir, machine) == 6
    table = read_slot_table(save_dir)
    assert len(table.free) == 6 and table.demand_of(run).count == 1
    held = table.hold(run, (3,))
    assert held is not None and held.share.gpus == ()  # Ray chooses them, not this machine
    held.close()
    save_slot_count(save_dir, 9)
    assert read_cluster(save_dir) == RayCluster("auto", 9)
    assert slot_limit(save_dir, machine) == 64
    with pytest.raises(RunError, match="65 runs at the same time"):
        save_slot_count(save_dir, 65)


def test_choosing_a_cluster_takes_over_its_largest_node(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = json.dumps({"cpu_count": 16, "memory_bytes": 64 * GB, "versions": {"torch": "2.13.0"}})
    monkeypatch.setattr(choice, "view_cluster", lambda address: ClusterView(CPU_NODES, probe, True))
    cluster, view = choose_cluster(save_dir, " 10.0.0.5:6379 ")
    assert cluster == RayCluster("10.0.0.5:6379", 2)
    assert view.summary == "2 nodes, 12 cores"
    known = read_known_machine(save_dir)
    assert known is not None and known.cpu_count == 16
    save_slot_count(save_dir, 7)
    assert choose_cluster(save_dir, "10.0.0.5:6379")[0].slots == 7, "what the user has set stays"
    choose_this_machine(save_dir)
    assert read_cluster(save_dir) is None and read_known_machine(save_dir) is None
    monkeypatch.setattr(choice, "view_cluster", lambda address: ClusterView(CPU_NODES, "No module named toolkit", True))
    with pytest.raises(RunError, match="No module named toolkit"):
        choose_cluster(save_dir, "auto")
    with pytest.raises(RunError, match="not a host and a port"):
        choose_cluster(save_dir, "10.0.0.5\n6379")


def test_the_command_line_says_what_it_found(
    save_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = (RayCluster("auto", 8), ClusterView(GPU_NODES, "", False))
    monkeypatch.setattr(launcher_options, "choose_cluster", lambda folder, address: found)
    launcher_options.make_launcher_choice("ray", None)(save_dir)
    printed = capsys.readouterr()
    assert "Ray cluster at auto: 2 nodes, 8 GPUs, 24 cores. 8 runs at the same time." in printed.out
    assert "asks for no token" in printed.err
    save_cluster(save_dir, RayCluster("10.0.0.5:6379", 8))
    ask = ["launcher", "--save-dir", str(save_dir)]
    assert "Runs train on the Ray cluster at 10.0.0.5:6379." in CliRunner().invoke(main.app, ask).output
    ask.insert(1, "local")
    assert "Runs train on this machine." in CliRunner().invoke(main.app, ask).output
    with pytest.raises(ConfigError, match="no effect without --launcher ray"):
        launcher_options.make_launcher_choice(None, "10.0.0.5:6379")
    assert isinstance(main.app, typer.Typer)
    assert "--launcher" in CliRunner().invoke(main.app, ["run", "--help"]).output


def test_the_folder_decides_at_each_start(save_dir: Path) -> None:
    launcher = default_launcher(save_dir)
    assert isinstance(launcher, ClusterLauncher)
    commands: list[str] = []
    run = queue(save_dir)

    class Recorder(LocalLauncher):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def start(self, *_: object) -> object:  # type: ignore[override]
            return commands.append(self.name)

    launcher.local, launcher.proxies = Recorder("here"), Recorder("cluster")
    for cluster in (None, RayCluster("auto", 2), None):
        save_cluster(save_dir, cluster)
        launcher.start(run, Config(), 1, None)  # type: ignore[arg-type]
        assert not (cluster and launcher.should_wait(Config()))
    assert commands == ["here", "cluster", "here"]


def test_a_lease_is_lost_when_it_is_not_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_CLUSTER_LEASE", "2")
    holder = LeaseHolder(tmp_path, 3)
    with LeaseWatch(tmp_path, 3) as watch:
        time.sleep(1.0)  # an old lease, which nobody renews, is none: its holder may be dead
        assert not watch.is_begun
        deadline = time.monotonic() + 60
        while not (watch.is_begun and watch.wants_end) and time.monotonic() < deadline:
            holder.renew(end=True)
            time.sleep(0.1)
        assert watch.is_begun and watch.wants_end
        while not watch.is_lost and time.monotonic() < deadline:
            time.sleep(0.1)
        assert watch.is_lost
    holder.close()


def test_a_lease_of_another_attempt_is_lost_at_once(tmp_path: Path) -> None:
    LeaseHolder(tmp_path, 2).close()
    with LeaseWatch(tmp_path, 1) as watch:
        deadline = time.monotonic() + 15
        while not watch.is_lost and time.monotonic() < deadline:
            time.sleep(0.05)
        assert watch.is_lost and not watch.is_begun
    check_lease(tmp_path, 2)
    with pytest.raises(RunError, match="Attempt 2"):
        check_lease(tmp_path, 1)


def test_the_next_attempt_waits_for_the_report_or_the_end_of_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(lease.time, "sleep", waited.append)
    monkeypatch.setattr(lease.time, "monotonic", lambda: sum(waited))
    assert wait_for_release(tmp_path, 1) is None
    assert sum(waited) > 1.5 * lease.DEFAULT_LEASE_SECONDS
    report = NodeReport(1, code=-9, oom=True, host="node-2")
    lease.write_report(tmp_path, report)
    assert read_report(tmp_path, 2) is None
    waited.clear()
    assert wait_for_release(tmp_path, 1) == report and not waited
    LeaseHolder(tmp_path, 2).close()
    wait_for_earlier_attempts(tmp_path, 2)
    assert not waited
    wait_for_earlier_attempts(tmp_path, 3)
    assert waited, "also for a training on this machine"


@pytest.mark.parametrize(
    ("report", "code", "reason"),
    [
        (NodeReport(1, code=-9, oom=True), 137, "out_of_memory"),
        (NodeReport(1, code=-11, oom=False), 139, "native_crash"),
        (NodeReport(1, reason="node_lost", message="It was lost.", outside=True), 1, "node_lost"),
        (NodeReport(1, reason="node_lost", message="It was lost.", outside=True), -9, "killed"),  # here, so lost there
        (None, 1, "node_lost"),  # Ray ends a process that has lost its cluster
        (None, -9, "killed"),
    ],
)
def test_the_end_on_a_node_is_explained(save_dir: Path, report: NodeReport | None, code: int, reason: str) -> None:
    run = queue(save_dir)
    take_claim(run)
    LeaseHolder(run.path, 1).close()
    with EventWriter(run.events_path) as events:
        events.append("started", pid=1)
    if report is not None:
        lease.write_report(run.path, report)
    # 0: the kernel's count of this machine says nothing about the node
    assert close_dead_attempt(run, code, earlier_oom_kills=0)
    status = read_run_status(run)
    assert (status.state, status.reason) == ("queued", reason)


def test_a_cut_off_node_writes_behind_no_last_event(save_dir: Path) -> None:
    run = queue(save_dir)
    take_claim(run)
    LeaseHolder(run.path, 1).close()
    far_away = EventWriter(run.events_path, 1, lambda: check_lease(run.path, 1))
    far_away.append("started", pid=1)
    assert close_dead_attempt(run, -9, earlier_oom_kills=0)
    far_away.append("log", step=4, loss=1.0)  # to the file that was open there, which is nobody's now
    assert [event["kind"] for event in read_events(run.events_path)[0]] == ["started", "interrupted"]
    LeaseHolder(run.path, 2).close()
    with pytest.raises(RunError, match="Attempt 2"):
        far_away.append("saved", step=4)
    far_away.close()
