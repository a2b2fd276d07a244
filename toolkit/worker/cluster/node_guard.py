"""python -m toolkit.worker.cluster.node_guard RUN ATTEMPT: train a run on this node of a cluster, and watch over it.

Started by the run's Ray task, which holds the other end of this process's stdin: the pipe breaks when the task dies,
and so when its node leaves the cluster, or when the process that submitted it is gone. Then, and when the run's lease
is lost, all processes of the training are killed. What this process prints is the task's result: a JSON line.
"""

from __future__ import annotations

import json
import os
import platform
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil

from toolkit.cluster.lease import NODE_LOST, LeaseWatch, NodeReport, begun_path, lease_seconds, write_report
from toolkit.errors import RunError, ToolkitError
from toolkit.runs.end_reasons import START_AGAIN
from toolkit.runs.run_dir import RunDir, is_run_approved, open_run, read_run_config
from toolkit.runs.worker_process import spawn_training_worker, worker_command
from toolkit.system.locks import LockHolder, end_holder_processes
from toolkit.system.out_of_memory import count_oom_kills
from toolkit.system.private_files import restrict_new_files
from toolkit.worker.process.limits import adopt_orphans

POLL_SECONDS = 0.25
LOST_CONNECTION = "The node left the Ray cluster, or lost the connection to the machine that supervises the run."
SHARE_HINT = "Mount the same folder at the same path on every node, and put FTK_STATE_DIR there too (docs/cluster.md)."


def main(run_id: str, attempt: int) -> int:
    """Train the run on this node and print a NodeReport. Raises nothing that the submitting process need not know."""
    save_dir = Path(os.environ["FTK_SAVE_DIR"])
    try:
        run = _open_shared_run(save_dir, run_id)
        with LeaseWatch(run.path, attempt) as lease:
            report = _train(run, attempt, lease)
        write_report(run.path, report)
    except (ToolkitError, OSError) as error:
        message, hint = (error.message, error.hint) if isinstance(error, ToolkitError) else (str(error), SHARE_HINT)
        report = NodeReport(attempt, host=name_node(), reason="node_refused", message=message, hint=hint)
    with suppress(BrokenPipeError):  # the task is gone; the report in the run's folder says the same
        print(json.dumps(asdict(report)), flush=True)
    return 0


def name_node() -> str:
    """Return the node's address in the cluster, by which Ray lists it, or else the name of this machine."""
    return os.environ.get("FTK_NODE") or platform.node()


def _open_shared_run(save_dir: Path, run_id: str) -> RunDir:
    """Return the run. Raises RunError if this node does not see the folder, or has another key."""
    if not save_dir.is_dir():
        raise RunError(f"Node {name_node()} does not have the folder {save_dir}.", SHARE_HINT)
    run = open_run(save_dir, run_id)
    if not is_run_approved(run):
        message = f"Node {name_node()} has another key than the machine that queued this run."
        raise RunError(message, SHARE_HINT)
    return run


def _train(run: RunDir, attempt: int, lease: LeaseWatch) -> NodeReport:
    """Train the run, and return how it ended once no process of it is left."""
    adopt_orphans()
    host, kills = name_node(), count_oom_kills()
    # only a lease that is renewed now is one: its holder may have died since it submitted the task
    if not _wait_until_leased(lease):
        return _report_lost(attempt)
    begun = begun_path(run.path, attempt)
    begun.parent.mkdir(exist_ok=True)
    begun.write_text(host)
    argv = worker_command(run, read_run_config(run), begun.parent)
    process, holder = spawn_training_worker(run, argv, dict(os.environ), ())
    is_lost = _watch_training(process, holder, lease)
    if is_lost:
        end_holder_processes(holder, grace_seconds=0.0)
    code = process.wait()
    _end_leftovers()
    after = count_oom_kills()
    oom = None if kills is None or after is None else after > kills
    return _report_lost(attempt) if is_lost else NodeReport(attempt, code, oom, host)


def _report_lost(attempt: int) -> NodeReport:
    return NodeReport(
        attempt, host=name_node(), reason=NODE_LOST, message=LOST_CONNECTION, hint=START_AGAIN, outside=True
    )


def _wait_until_leased(lease: LeaseWatch) -> bool:
    deadline = time.monotonic() + lease_seconds()
    while not lease.is_begun:
        if time.monotonic() > deadline or _is_task_gone(POLL_SECONDS):
            return False
    return True


def _watch_training(process: subprocess.Popen[bytes], holder: LockHolder, lease: LeaseWatch) -> bool:
    """Wait for the end of the training; return True when it must be killed instead."""
    was_asked = False
    while process.poll() is None:
        if lease.is_lost or _is_task_gone(POLL_SECONDS):
            return True
        if lease.wants_end and not was_asked:
            was_asked = True
            with suppress(psutil.NoSuchProcess):  # it has ended a moment ago
                psutil.Process(holder.pid).terminate()
    return False


def _end_leftovers() -> None:
    """Kill what the training has left behind: processes of its own, such as data loaders."""
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=POLL_SECONDS)


def _is_task_gone(wait_seconds: float) -> bool:
    """Return whether the pipe to the Ray task has broken; nothing is ever written to it."""
    return bool(select.select([sys.stdin], [], [], wait_seconds)[0])


if __name__ == "__main__":
    restrict_new_files()
    if os.fork():  # Ray kills the children of its worker processes, this one has to outlive the training
        os._exit(0)
    os.setsid()
    raise SystemExit(main(sys.argv[1], int(sys.argv[2])))
