"""Choosing where the runs of a folder train: looks at a cluster in a process of its own, and saves the choice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from toolkit.cluster.resources import ClusterNode, count_cluster_slots
from toolkit.cluster.setting import MAX_CLUSTER_SLOTS, RayCluster, read_cluster, save_cluster
from toolkit.errors import RunError
from toolkit.system.machine import save_cluster_machine
from toolkit.system.paths import PROJECT_ROOT
from toolkit.system.printable import format_plural

LOOK_MODULE = "toolkit.worker.cluster.look"
LOOK_TIMEOUT_SECONDS = 300
MAX_ADDRESS = 300
SAME_ON_NODES = "The toolkit must be installed on every node, at the same path if it is a clone (docs/cluster.md)."
OPEN_CLUSTER_WARNING = (
    "This Ray cluster asks for no token. Whoever reaches its ports can run programs there: docs/cluster.md says how to "
    "set one."
)
_NODES = TypeAdapter(list[ClusterNode])


@dataclass(frozen=True)
class ClusterView:
    """What a look at a cluster found. asks_for_token: whoever connects must know its token."""

    nodes: Sequence[ClusterNode]
    probe: str
    asks_for_token: bool

    @property
    def summary(self) -> str:
        """ "2 nodes, 8 GPUs, 64 cores"."""
        gpus, cpus = sum(node.gpus for node in self.nodes), sum(node.cpus for node in self.nodes)
        parts = [format_plural(len(self.nodes), "node"), *([format_plural(gpus, "GPU")] if gpus else [])]
        return ", ".join([*parts, format_plural(cpus, "core")])


def choose_cluster(save_dir: Path, address: str) -> tuple[RayCluster, ClusterView]:
    """Let the runs of this folder train on the Ray cluster at `address` from now on; "auto": the one on this machine.

    Takes seconds to minutes: the largest node is examined. Raises RunError.
    """
    address = address.strip() or "auto"
    if len(address) > MAX_ADDRESS or not address.isprintable():
        raise RunError("The address of the Ray cluster is not a host and a port.", "Enter one such as 10.0.0.5:6379.")
    view = view_cluster(address)
    try:
        save_cluster_machine(save_dir, view.probe.encode())
    except (OSError, ValueError, IndexError) as error:
        raise RunError(f"A node of the Ray cluster could not be examined: {view.probe[:300]}", SAME_ON_NODES) from error
    before = read_cluster(save_dir)
    # the number that a user has set for this cluster stays
    keeps = before is not None and before.address == address
    slots = before.slots if before is not None and keeps else min(count_cluster_slots(view.nodes), MAX_CLUSTER_SLOTS)
    chosen = RayCluster(address, slots)
    save_cluster(save_dir, chosen)
    return chosen, view


def choose_this_machine(save_dir: Path) -> None:
    """Let the runs of this folder train on this machine from now on. Raises RunError."""
    save_cluster(save_dir, None)
    try:
        save_cluster_machine(save_dir, None)
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"machine.json can't be read: {error}.", "Delete it from the output folder.") from error


def view_cluster(address: str) -> ClusterView:
    """Look at a cluster. Raises RunError when it can't be used."""
    done = _run_look(address)
    try:
        body = json.loads((done.stdout.strip().splitlines() or ["{}"])[-1])
        if "message" in body:
            raise RunError(str(body["message"]), str(body["hint"]))
        return ClusterView(_NODES.validate_python(body["nodes"]), str(body["probe"]), bool(body["token"]))
    except (ValueError, KeyError, TypeError) as error:
        last = done.stderr.strip().splitlines()[-1:] or [str(error)]
        raise RunError(f"The Ray cluster at {address} can't be used: {last[0][:300]}", SAME_ON_NODES) from error


def _run_look(address: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", LOOK_MODULE]
    try:
        return subprocess.run(
            argv, cwd=PROJECT_ROOT, input=address, capture_output=True, text=True, timeout=LOOK_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"The Ray cluster at {address} does not answer.", "Check that it is running.") from error
