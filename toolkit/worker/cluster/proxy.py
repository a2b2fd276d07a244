"""python -m toolkit.worker.cluster.proxy RUN: the worker process of a run that trains on a Ray cluster.

It stands on this machine for the training on a node: it holds the run's lock and slot, submits one Ray task, renews
the lease without which the node ends the training, and passes on how it ended. It trains nothing.
When it dies, its task and the training die too; when the node dies, it reports that, and the supervisor starts the
next attempt, which Ray places on another node.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from toolkit.cluster.lease import (
    LEASE_VARIABLE,
    NODE_LOST,
    NODE_VARIABLE,
    RENEWAL_SECONDS,
    LeaseHolder,
    NodeReport,
    begun_path,
    lease_seconds,
    wait_for_earlier_attempts,
    wait_for_release,
    write_report,
)
from toolkit.cluster.resources import TaskResources, plan_resources
from toolkit.cluster.setting import RayCluster, read_cluster
from toolkit.errors import RunError, ToolkitError
from toolkit.runs.end_reasons import START_AGAIN
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, open_run, read_run_config, read_run_meta
from toolkit.runs.worker_process import earlier_threads, machine_count
from toolkit.system.locks import WorkerLock
from toolkit.system.out_of_memory import out_of_memory_message
from toolkit.system.printable import format_bytes, format_plural
from toolkit.system.private_files import restrict_new_files
from toolkit.worker import train
from toolkit.worker.cluster.ray_task import connect_to_ray, list_cluster_nodes, submit_program
from toolkit.worker.process.stop import StopRequested, StopSignal

GUARD_MODULE = "toolkit.worker.cluster.node_guard"
FORWARDED = (
    *("FTK_SAVE_DIR", "FTK_ATTEMPT", "FTK_STATE_DIR", LEASE_VARIABLE, "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"),
    *("USE_HUB_KERNELS", "TOKENIZERS_PARALLELISM", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
    *("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER"),
)
"""The variables that go to the node. None holds a secret: tokens are set where Ray is started."""
MOST_THREADS = 1024
SAME_INSTALLATION = "Install the toolkit in the same version, and the same packages, on every node (docs/cluster.md)."
logger = logging.getLogger(__name__)
_REPORT = TypeAdapter(NodeReport)


def main(run_id: str) -> int:
    """Let the run train on the cluster and return the exit code. Raises RunError for an unknown run."""
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    attempt = int(os.environ.get("FTK_ATTEMPT", "1"))
    stop = StopSignal(run.stop_path).listen()
    with WorkerLock(run.lock_path, attempt, run.id):
        wait_for_earlier_attempts(run.path, attempt)
        try:
            with closing(LeaseHolder(run.path, attempt)) as lease:
                report = _train_on_cluster(run, attempt, lease, stop)
        except StopRequested:
            os.environ[NODE_VARIABLE] = "1"  # the lock is held here
            return train.main(run_id)  # which sees the request and records it
        except ToolkitError as error:
            report = NodeReport(attempt, reason=error.reason or "refused", message=error.message, hint=error.hint)
        write_report(run.path, report)
    code = 1 if report.code is None else report.code
    return code if code >= 0 else 128 - code


def _train_on_cluster(run: RunDir, attempt: int, lease: LeaseHolder, stop: StopSignal) -> NodeReport:
    """Submit the run's task and follow it to its end. Raises StopRequested or ToolkitError before it has begun."""
    cluster = read_cluster(run.save_dir)
    if cluster is None:
        raise RunError("The output folder's runs do not train on a cluster any more.", "Press Resume.")
    with connect_to_ray(cluster.address) as ray:
        wanted = _plan_task(ray, run, cluster)
        with EventWriter(run.events_path, attempt) as events:
            events.append("phase", phase=_describe_wait(ray, wanted))
        variables = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        variables |= {NODE_VARIABLE: "1", "OMP_NUM_THREADS": str(wanted.threads)}
        arguments = [run.id, str(attempt)]
        options = {**wanted.options(), "scheduling_strategy": "SPREAD"}
        task = submit_program(ray, GUARD_MODULE, arguments, variables, **options)
        _follow_task(ray, task, lease, stop, begun_path(run.path, attempt))
        return _read_result(ray, task, run, attempt)


def _plan_task(ray: Any, run: RunDir, cluster: RayCluster) -> TaskResources:
    config = read_run_config(run)
    if machine_count(config) > 1:
        raise RunError(
            "A run on a Ray cluster trains on one node, but num_machines is more than 1.", "Set num_machines to 1."
        )
    memory = int(read_run_meta(run).get("memory_bytes") or 0)
    threads = earlier_threads(run, MOST_THREADS)
    return plan_resources(config, list_cluster_nodes(ray), cluster.slots, memory, threads)


def _describe_wait(ray: Any, wanted: TaskResources) -> str:
    """Return the phase of a run that waits for a node."""
    if any(wanted.fits(node) for node in list_cluster_nodes(ray)):
        return "waiting for the cluster"
    parts = [format_plural(wanted.gpus, "GPU")] if wanted.gpus else []
    parts += [format_plural(wanted.cpus, "core")]
    parts += [f"{format_bytes(wanted.memory)} of memory"] if wanted.memory else []
    return f"waiting for a node with {', '.join(parts)}, which the cluster does not have now"


def _follow_task(ray: Any, task: Any, lease: LeaseHolder, stop: StopSignal, begun: Path) -> None:
    """Renew the lease until the task has ended. Raises StopRequested if a stop is requested before it began."""
    while not ray.wait([task], timeout=RENEWAL_SECONDS)[0]:
        if stop.is_requested() and not begun.exists():
            ray.cancel(task)
            ray.wait([task], timeout=lease_seconds())
            raise StopRequested
        # the training sees the file itself; a signal to this process is passed on
        lease.renew(end=stop.was_signalled)


def _read_result(ray: Any, task: Any, run: RunDir, attempt: int) -> NodeReport:
    """Return how the task ended. If Ray does not know, wait until nothing of it can be left on its node."""
    try:
        printed: str = ray.get(task)
    except ray.exceptions.OutOfMemoryError:
        wait_for_release(run.path, attempt)
        message, hint = out_of_memory_message("host", "training_killed")
        return NodeReport(attempt, reason="out_of_memory", message=message, hint=hint)
    except ray.exceptions.RayError as error:
        logger.warning("%s", error)
        found = wait_for_release(run.path, attempt)
        if found is not None and found.reason != NODE_LOST:
            return found  # it ended just before
        message = "The node that trained this run was lost: it left the Ray cluster, or its machine failed."
        return NodeReport(attempt, reason=NODE_LOST, message=message, hint=START_AGAIN, outside=True)
    lines = printed.strip().splitlines()
    try:
        return _REPORT.validate_json(lines[-1])
    except (IndexError, ValueError) as error:
        last = lines[-1][:300] if lines else "nothing was printed"
        message = f"The node could not start the training: {last}"
        raise RunError(message, SAME_INSTALLATION, "node_refused") from error


if __name__ == "__main__":
    restrict_new_files()
    logging.basicConfig(format="%(message)s")
    try:
        raise SystemExit(main(sys.argv[1]))
    except RunError as error:
        raise SystemExit(str(error)) from error
