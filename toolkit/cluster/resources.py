"""What a run asks of a Ray cluster: GPUs, cores and memory of one node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.config import Config

SPREADING_DEVICE_MAPS = frozenset({"balanced", "balanced_low_0", "sequential"})
"""Device maps that spread a model over all GPUs; auto does so only where the model does not fit one."""
USABLE_NODE_MEMORY = 0.95


@dataclass(frozen=True)
class ClusterNode:
    """A living node. memory: bytes that Ray gives to tasks."""

    cpus: int
    gpus: int
    memory: int


@dataclass(frozen=True)
class TaskResources:
    """What one run takes of a node. threads: of each of its processes."""

    cpus: int
    gpus: int
    memory: int
    threads: int

    def fits(self, node: ClusterNode) -> bool:
        return self.cpus <= node.cpus and self.gpus <= node.gpus and self.memory <= node.memory

    def options(self) -> dict[str, Any]:
        """Return the options of the Ray task."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **({"memory": self.memory} if self.memory else {})}


def count_cluster_slots(nodes: Sequence[ClusterNode]) -> int:
    """Return how many runs train at the same time by default: one for each GPU, or one for each node without any."""
    return max(1, sum(node.gpus for node in nodes) or sum(node.cpus > 0 for node in nodes))


def plan_resources(
    config: Config, nodes: Sequence[ClusterNode], slots: int, memory_bytes: int = 0, threads: int | None = None
) -> TaskResources:
    """Return what a run takes of one node.

    slots: runs that train at the same time. memory_bytes: the run's forecast, 0 without one. threads: those of its
    earlier attempts, on which the last bit of a sum may depend.
    """
    with_gpus = [node for node in nodes if node.gpus] if config.model.device_map != "cpu" else []
    usable = with_gpus or [node for node in nodes if node.cpus]
    if not usable:
        return TaskResources(1, 0, 0, threads or 1)
    gpus = _count_gpus(config, max(node.gpus for node in usable)) if with_gpus else 0
    processes = (config.num_processes or gpus or 2) if config.accelerate else 1
    if with_gpus:
        share = min(node.cpus // node.gpus for node in with_gpus) * gpus
    else:
        # as many runs as slots on the smallest node's share of them
        per_node = -(-slots // len(usable))
        share = min(node.cpus for node in usable) // per_node
    each = threads or max(1, share // processes)
    # of a GPU's memory Ray keeps no account
    memory = 0 if gpus else min(memory_bytes * processes, int(USABLE_NODE_MEMORY * max(n.memory for n in usable)))
    return TaskResources(max(1, each * processes), gpus, memory, each)


def _count_gpus(config: Config, most: int) -> int:
    if config.accelerate:
        return config.num_processes or most
    return most if config.model.device_map in SPREADING_DEVICE_MAPS else 1
