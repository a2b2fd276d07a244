"""Where the runs of a save_dir train: on this machine, or on a Ray cluster.

`runs/cluster.json` is signed by this installation: a folder from elsewhere must not make this program connect to
somebody's cluster. Without the file, and with one of another installation, runs train on this machine.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from toolkit.errors import RunError
from toolkit.system.durable import durable_write, sign_body
from toolkit.system.foreign_files import read_foreign_json

CLUSTER_SCHEMA = 1
MAX_CLUSTER_SLOTS = 64
CLUSTER_MODULE = "toolkit.worker.cluster.proxy"
"""The worker process of a run on a cluster: it stands for the one that trains on a node."""


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster. address: as `ray.init` takes it. slots: runs that it trains at the same time."""

    address: str
    slots: Annotated[int, Field(ge=1, le=MAX_CLUSTER_SLOTS)]


_CLUSTER = TypeAdapter(RayCluster)


def read_cluster(save_dir: Path) -> RayCluster | None:
    """Return the cluster on which the runs of this folder train; None: on this machine."""
    try:
        body = read_foreign_json(_cluster_path(save_dir))
        found = _CLUSTER.validate_python(body["cluster"])
        is_own = body["schema"] == CLUSTER_SCHEMA and hmac.compare_digest(
            str(body["hmac"]).encode(), _sign_cluster(save_dir, found).encode()
        )
    except (OSError, ValueError, KeyError, TypeError, RunError):
        return None
    return found if is_own else None


def save_cluster(save_dir: Path, cluster: RayCluster | None) -> None:
    """Let the runs of this folder train on a cluster from now on, or on this machine. Raises RunError."""
    path = _cluster_path(save_dir)
    try:
        if cluster is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {"schema": CLUSTER_SCHEMA, "cluster": asdict(cluster), "hmac": _sign_cluster(save_dir, cluster)}
        durable_write(path, json.dumps(body))
    except OSError as error:
        raise RunError(
            f"The choice of the cluster can't be saved: {error}.", "Free space in the output folder."
        ) from error


def save_cluster_slots(save_dir: Path, cluster: RayCluster, count: int) -> None:
    """Let `count` runs train on the cluster at the same time. Raises RunError."""
    if not 1 <= count <= MAX_CLUSTER_SLOTS:
        message = f"{count} runs at the same time are not possible on a cluster."
        raise RunError(message, f"Choose a number from 1 to {MAX_CLUSTER_SLOTS}.")
    save_cluster(save_dir, replace(cluster, slots=count))


def _cluster_path(save_dir: Path) -> Path:
    return save_dir / "runs" / "cluster.json"


def _sign_cluster(save_dir: Path, cluster: RayCluster) -> str:
    return sign_body({"folder": str(save_dir.absolute()), **asdict(cluster)})
