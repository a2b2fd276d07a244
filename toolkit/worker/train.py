"""python -m toolkit.worker.train RUN: train one run, alone or as one of the processes that `RUN --launch` starts.

The first process of each machine holds the run's lock as long as it lives and is the only writer of its events. The
last event says how the run ended, with a message for the user; the traceback goes to the log only. Nothing heavy is
imported before the `phase` event that announces it.
"""

from __future__ import annotations

import faulthandler
import importlib.metadata
import json
import logging
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.cluster.lease import check_lease, is_on_cluster, wait_for_earlier_attempts
from toolkit.errors import RunError, ToolkitError
from toolkit.lifecycle.memory_autopilot import is_autopilot_on
from toolkit.lifecycle.resume_policy import close_attempt
from toolkit.runs.checkpoints import newest_checkpoint_step
from toolkit.runs.end_reasons import Explanation, explain_exception
from toolkit.runs.events import EventWriter, read_events
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.runs.worker_process import LAUNCH_OPTION
from toolkit.system.durable import durable_write
from toolkit.system.locks import WorkerLock
from toolkit.system.private_files import restrict_new_files
from toolkit.worker.process import libraries
from toolkit.worker.process.limits import end_with_parent
from toolkit.worker.process.stop import StopRequested, StopSignal
from toolkit.worker.process.team import RunProcesses, read_run_processes

TRAINING_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")
TRACE_FRAMES = 6
"""Lines of a bug's traceback that are shown to the user: the error and the calls next to it."""
logger = logging.getLogger(__name__)
_PEER_LOST = re.compile(r"gloo|NCCL|TCPStore|c10d|Broken pipe|Connection (closed|reset) by peer", re.IGNORECASE)
_SEE_LOG = (
    "The log may show why. A common cause is a lack of memory: lower num_processes or the batch size, "
    "then start the run again."
)
_CORRECT_SETTINGS = "Correct this on the Configure page, then start the run again."
FAILURE_WAIT_SECONDS = 3.0
"""Seconds that the main process waits for the reason of a process that failed before it reports its own error."""


def main(run_id: str, refused: ToolkitError | None = None) -> int:
    """Train the run and return the exit code: 0 finished or stopped, 1 failed.

    The environment has FTK_SAVE_DIR and FTK_ATTEMPT (default 1), and from accelerate's launcher what
    `read_run_processes` reads. refused: why the training can't begin, which is recorded. Raises RunError for an unknown
    run.
    """
    faulthandler.enable()
    # idle threads sleep: spinning, they would take cores that the app and other processes need
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    attempt = int(os.environ.get("FTK_ATTEMPT", "1"))
    team = read_run_processes()
    stop = StopSignal(run.stop_path).listen()
    if not team.is_main_process:
        return _run_other_process(run, stop, attempt, team)
    if is_on_cluster():  # the worker process that gave this one to the cluster holds the lock
        with EventWriter(run.events_path, attempt, lambda: check_lease(run.path, attempt)) as events:
            return _run_main_process(run, stop, events, team, refused)
    with WorkerLock(run.lock_path, attempt, run.id), EventWriter(run.events_path, attempt) as events:
        wait_for_earlier_attempts(run.path, attempt)
        return _run_main_process(run, stop, events, team, refused)


def launch(run_id: str) -> int:
    """Start the run's processes through accelerate and return the exit code. Raises the launcher's error, or RunError.

    What keeps them from starting, a stop included, is recorded as if this process were the only one of the run.
    """
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    from toolkit.worker.process.launch import launch_processes, meet_other_machines

    try:
        meet_other_machines(run, StopSignal(run.stop_path))  # a signal ends the launcher, and the file is enough
    except StopRequested:
        return main(run_id)
    except RunError as error:
        return main(run_id, refused=error)
    launch_processes(run)
    return 0


def _run_main_process(
    run: RunDir, stop: StopSignal, events: EventWriter, team: RunProcesses, refused: ToolkitError | None
) -> int:
    for path in run.path.glob(".failed-rank-*"):  # of an earlier attempt
        path.unlink()
    events.append(
        "started", pid=os.getpid(), host=platform.node(), versions=read_training_versions(), processes=team.processes
    )
    try:
        events.reserve_space()
        if refused is not None:
            raise refused
        kind, step = _run_training(run, stop, events.append, events.attempt, team)
    except StopRequested:
        kind, step = "stopped", newest_checkpoint_step(run)
    except Exception as error:
        logger.exception("run %s", run.id)
        explanation = _other_failure(run, team.processes, error) or explain_training_error(error, team.processes)
        if explanation.reason == "bug":
            explanation = replace(explanation, trace=_last_frames(error))
        failed_step: int | None = getattr(error, "step", None)
        at = {} if failed_step is None else {"step": failed_step}
        close_attempt(events, read_events(run.events_path)[0], explanation, may_retry=is_autopilot_on(run), **at)
        return 1
    events.append(kind, step=step, **({"paused": True} if kind == "stopped" and stop.wants_pause else {}))
    return 0


def _run_other_process(run: RunDir, stop: StopSignal, attempt: int, team: RunProcesses) -> int:
    """Train as another process than the main one: emit no events, and write the reason of a failure to a file."""
    try:
        _run_training(run, stop, _ignore_event, attempt, team)
    except StopRequested:
        return 0
    except Exception as error:
        logger.exception("run %s, process %d", run.id, team.rank)
        explanation = explain_training_error(error)
        durable_write(_failure_path(run, team.rank), json.dumps({"type": type(error).__name__, **vars(explanation)}))
        return 1
    return 0


def _run_training(
    run: RunDir, stop: StopSignal, emit: Callable[..., Any], attempt: int, team: RunProcesses
) -> tuple[str, int]:
    """Train, and return how the session ended (a SessionEnd's kind and step)."""
    config = read_run_config(run)
    # before torch is imported, which reads the visible GPUs once
    _choose_gpu(config.model.device_map, team.processes)
    stop.raise_if_requested()
    emit("phase", phase="loading libraries")
    libraries.import_libraries()
    from toolkit.worker.training.session import run_training_session
    from toolkit.worker.training.session_context import TrainingSession

    end = run_training_session(TrainingSession(run, config, emit, stop, team, attempt, read_training_versions()))
    return end.kind, end.step


def _choose_gpu(device_map: str | None, processes: int) -> None:
    """Hide all GPUs but one from this process, unless the model is to be spread over several.

    The trainer refuses to drive several GPUs from one process. If some are hidden already, the number in `device_map`
    counts among the visible ones.
    """
    if processes == 1 and (device_map is None or device_map.startswith("cuda")):
        number = int((device_map or "cuda:0").partition(":")[2] or 0)
        variable = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = variable.split(",") if variable is not None else [*map(str, range(number + 1))]
        if number < len(visible):
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[number]


def explain_training_error(error: Exception, processes: int = 1) -> Explanation:
    """Return the user's explanation of an exception: its own message if it is a ToolkitError, else a general one."""
    if processes > 1 and _PEER_LOST.search(str(error)):
        message = "Another process of this run ended unexpectedly, and the others can't continue without it."
        return Explanation("process_died", message, _SEE_LOG)
    known = explain_exception(type(error).__name__, str(error))
    if isinstance(error, ToolkitError):
        reason = error.reason or (known.reason if known.reason != "bug" else "refused")
        return Explanation(reason, error.message, error.hint or _CORRECT_SETTINGS)
    return known


def _last_frames(error: Exception) -> str:
    """Return the last frames of an exception's traceback, for a bug report."""
    return "".join(traceback.format_exception(error)[-TRACE_FRAMES:]).rstrip()


def _other_failure(run: RunDir, processes: int, error: Exception) -> Explanation | None:
    """Return the reason of another process that failed first, or None if there is none."""
    # a ToolkitError is this process's own failure; any other error may only mean that its peer is gone
    if processes == 1 or isinstance(error, ToolkitError):
        return None
    deadline = time.monotonic() + FAILURE_WAIT_SECONDS
    while time.monotonic() < deadline:
        for path in sorted(run.path.glob(".failed-rank-*")):
            failure = json.loads(path.read_text(encoding="utf-8"))
            return Explanation(failure["reason"], failure["message"], failure["hint"])
        time.sleep(0.1)
    return None


def _failure_path(run: RunDir, rank: int) -> Path:
    return run.path / f".failed-rank-{rank}"


@cache
def read_training_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a training's numbers depend on."""
    installed = {name: importlib.metadata.version(name) for name in TRAINING_LIBRARIES}
    return {"python": platform.python_version(), **installed}


def _ignore_event(kind: str, **fields: Any) -> None:
    del kind, fields


if __name__ == "__main__":
    restrict_new_files()
    if len(sys.argv) < 2 or sys.argv[2:] not in ([], [LAUNCH_OPTION]):
        usage = f"usage: python -m toolkit.worker.train RUN [{LAUNCH_OPTION}]"
        raise SystemExit(f"{usage} (FTK_SAVE_DIR names the folder of its runs)")
    if is_on_cluster():
        end_with_parent()  # the guard of the node, or the launcher that is its child
    try:
        raise SystemExit((launch if sys.argv[2:] else main)(sys.argv[1]))
    except RunError as error:
        raise SystemExit(str(error)) from error
