"""Whether runs on a Ray cluster survive the loss of a node, and end as if nothing had happened.

    pip install -r requirements-cluster.txt && python -m benchmarks.cluster_kill [--runs 8] [--json FILE]

Two Ray nodes on this machine train runs of a tiny random model, with one thread each. When half of them have a
checkpoint, every process of the second node is killed at once (SIGKILL), as by a power cut: Ray's, the guards and the
trainings; nothing is left there that could report. Counted: finished runs, weights that equal those of the same run in
this process to the bit, runs that changed the node, and seconds from the kill until all of these trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}

from tests.conftest import make_tiny_model
from tests.fakes.ray_nodes import NODES, RayNodes, processes_of_runs, start_ray_nodes
from tests.fakes.training import draft, events_of, make_run, train_here
from toolkit.cluster.choice import choose_cluster
from toolkit.cluster.lease import begun_path
from toolkit.lifecycle.launcher import ClusterLauncher, LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import RunDir
from toolkit.runs.slots import save_slot_count
from toolkit.runs.status import read_run_status


@dataclass
class Score:
    """What came of it. moved: runs with attempts on both nodes."""

    runs: int = 0
    finished: int = 0
    same_weights: int = 0
    moved: int = 0
    on_both_nodes: int = 0
    killed_processes: int = 0
    seconds_to_train_again: float = 0.0
    minutes: float = 0.0


def nodes_of(run: RunDir) -> list[str]:
    attempts = sorted({event["attempt"] for event in events_of(run, "started")})
    return [begun_path(run.path, attempt).read_text() for attempt in attempts]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    score, began = Score(wanted.runs), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FTK_STATE_DIR"] = str(folder / "state")
        with start_ray_nodes(cpus=2) as cluster:
            measure(folder, cluster, score)
    score.minutes = round((time.monotonic() - began) / 60, 1)
    print(json.dumps(asdict(score), indent=1))
    if wanted.json:
        wanted.json.write_text(json.dumps(asdict(score), indent=1))


def measure(folder: Path, cluster: RayNodes, score: Score) -> None:
    model = make_tiny_model(folder / "model", chat=True)
    settings = {"num_train_epochs": 30, "save_steps": 5}
    runs, alone = (
        [make_run(draft(folder / place, model, **settings, seed=seed)) for seed in range(score.runs)]
        for place in ("save", "alone")
    )
    choose_cluster(folder / "save", cluster.address)
    save_slot_count(folder / "save", 4)
    supervisor = Supervisor(folder / "save", launcher=ClusterLauncher(folder / "save", LocalLauncher()))
    supervisor.start()
    while sum(read_run_status(run).saved_step > 0 for run in runs) < min(4, score.runs):
        time.sleep(0.2)
    hit = [run for run in runs if not read_run_status(run).explained and nodes_of(run)[-1:] == [NODES[1]]]
    score.on_both_nodes = len({name for run in runs for name in nodes_of(run)})
    score.killed_processes = cluster.kill_node(NODES[1], processes_of_runs(NODES[1]))
    killed = time.monotonic()
    waiting = list(hit)
    while not all(read_run_status(run).explained for run in runs):
        waiting = [run for run in waiting if not any(event["attempt"] > 1 for event in events_of(run, "plan"))]
        if not waiting and not score.seconds_to_train_again:
            score.seconds_to_train_again = round(time.monotonic() - killed, 1)
        time.sleep(0.2)
    supervisor.stop()
    for run, other in zip(runs, alone, strict=True):
        score.finished += read_run_status(run).state == "finished"
        score.moved += len(set(nodes_of(run))) > 1
        train_here(other)
        name = "adapter_model.safetensors"
        score.same_weights += (run.adapter_dir / name).read_bytes() == (other.adapter_dir / name).read_bytes()


if __name__ == "__main__":
    main()
