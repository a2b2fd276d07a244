"""python -m toolkit.worker.cluster.look: look at the Ray cluster whose address is on stdin, and print a JSON line.

Its fields: `nodes`, `probe` (what the probe of the largest node printed, which becomes the machine of the folder) and
`token` (whether the cluster asks for one); or `message` and `hint` of what is wrong.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from toolkit.errors import RunError
from toolkit.system.private_files import restrict_new_files
from toolkit.worker.cluster.ray_task import asks_for_token, connect_to_ray, list_cluster_nodes, submit_program

PROBE_MODULE = "toolkit.worker.probe"
PROBE_WAIT_SECONDS = 180.0
_NO_NODE = "The Ray cluster has no node with cores or GPUs."
_ADD_NODE = "Start one with `ray start --address ...` on a machine that shares the output folder (docs/cluster.md)."


def main() -> int:
    """Print what the cluster has; return 1 if it can't be used."""
    try:
        found = look_at_cluster(sys.stdin.read().strip())
    except RunError as error:
        print(json.dumps({"message": error.message, "hint": error.hint}))
        return 1
    print(json.dumps(found))
    return 0


def look_at_cluster(address: str) -> dict[str, Any]:
    """Return the fields that this module prints. Raises RunError."""
    with connect_to_ray(address) as ray:
        nodes = list_cluster_nodes(ray)
        if not nodes:
            raise RunError(_NO_NODE, _ADD_NODE)
        most = max(node.gpus for node in nodes)
        task = submit_program(ray, PROBE_MODULE, [], {}, num_cpus=1 if not most else 0, num_gpus=most)
        if not ray.wait([task], timeout=PROBE_WAIT_SECONDS)[0]:
            ray.cancel(task)
            message = f"No node of the Ray cluster became free within {PROBE_WAIT_SECONDS:.0f} s, to be examined."
            raise RunError(message, "Try again when the cluster is less busy.")
        printed = str(ray.get(task)).strip().splitlines()
        return {
            "nodes": [asdict(node) for node in nodes],
            "probe": printed[-1] if printed else "",
            "token": asks_for_token(),
        }


if __name__ == "__main__":
    restrict_new_files()
    raise SystemExit(main())
