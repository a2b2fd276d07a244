"""python -m toolkit.worker.train RUN: one training run, alone or as one of the processes that accelerate started.

The first process holds the run's lock for life and is the one writer of its events; the last of them says how the run
ended, in words for the user, while the trace goes to the log alone. Imports nothing heavy before it has said so.
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
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.errors import RunError, ToolkitError
from toolkit.lifecycle.memory_autopilot import is_autopilot_on
from toolkit.lifecycle.resume_policy import close_attempt
from toolkit.runs.checkpoints import newest_checkpoint_step
from toolkit.runs.end_reasons import Explanation, explain_exception
from toolkit.runs.events import EventWriter, read_events
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.system.durable import durable_write
from toolkit.system.locks import WorkerLock
from toolkit.worker.process import libraries
from toolkit.worker.process.stop import StopRequested, StopSignal

TRAINING_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")
TRACE_FRAMES = 6
logger = logging.getLogger(__name__)
_PEER_LOST = re.compile(r"gloo|NCCL|Connection (closed|reset) by peer", re.IGNORECASE)
_SEE_LOG = "The log may say why; often it is memory: lower num_processes or the batch size, then start again."
_CORRECT_SETTINGS = "Correct this on the Configure page, then start the run again."
FAILURE_WAIT_SECONDS = 3.0  # a process that failed has so long to leave its reason before the first one reports its own


def main(run_id: str) -> int:
    """Carry the run out; returns the exit code: 0 finished or stopped, 1 failed. Raises RunError for an unknown run."""
    faulthandler.enable()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    attempt = int(os.environ.get("FTK_ATTEMPT", "1"))
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    stop = StopSignal(run.stop_path).listen()
    if rank:
        return _run_other_process(run, stop, attempt, rank, processes)
    with WorkerLock(run.lock_path, attempt, run.id), EventWriter(run.events_path, attempt) as events:
        return _run_main_process(run, stop, events, processes)


def _run_main_process(run: RunDir, stop: StopSignal, events: EventWriter, processes: int) -> int:
    for path in run.path.glob(".failed-rank-*"):
        path.unlink()
    events.append(
        "started", pid=os.getpid(), host=platform.node(), versions=read_training_versions(), processes=processes
    )
    try:
        events.reserve_space()
        kind, step = _run_training(run, stop, events.append, events.attempt, 0, processes)
    except StopRequested:
        kind, step = "stopped", newest_checkpoint_step(run)
    except Exception as error:
        logger.exception("run %s", run.id)
        why = _other_failure(run, processes, error) or explain_training_error(error, processes)
        why = replace(why, trace=_trace(error)) if why.reason == "bug" else why
        step = getattr(error, "step", None)
        at = {} if step is None else {"step": step}
        close_attempt(events, read_events(run.events_path)[0], why, may_retry=is_autopilot_on(run), **at)
        return 1
    events.append(kind, step=step, **({"paused": True} if kind == "stopped" and stop.wants_pause else {}))
    return 0


def _run_other_process(run: RunDir, stop: StopSignal, attempt: int, rank: int, processes: int) -> int:
    """One of the other processes: it works, tells nothing, and leaves its reason behind when it fails."""
    try:
        _run_training(run, stop, _ignore_event, attempt, rank, processes)
    except StopRequested:
        return 0
    except Exception as error:
        logger.exception("run %s, process %d", run.id, rank)
        why = explain_training_error(error)
        durable_write(_failure_path(run, rank), json.dumps({"type": type(error).__name__, **vars(why)}))
        return 1
    return 0


def _run_training(run: RunDir, stop: StopSignal, tell: Any, attempt: int, rank: int, processes: int) -> tuple[str, int]:
    config = read_run_config(run)
    _choose_gpu(config.model.device_map, processes)
    stop.check()
    tell("phase", phase="loading libraries")
    libraries.import_libraries()
    from toolkit.worker.training.session import run_training_session
    from toolkit.worker.training.session_context import RunProcesses, TrainingSession

    end = run_training_session(
        TrainingSession(run, config, tell, stop, RunProcesses(processes, rank), attempt, read_training_versions())
    )
    return end.kind, end.step


def _choose_gpu(device_map: str | None, processes: int) -> None:
    """One GPU visible unless the model shall be spread: the trainer refuses to drive several from one process.

    Where some are hidden from this process already, the number counts among the others.
    """
    if processes == 1 and (device_map is None or device_map.startswith("cuda")):
        number = int((device_map or "cuda:0").partition(":")[2] or 0)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = visible.split(",") if visible is not None else [*map(str, range(number + 1))]
        if number < len(seen):
            os.environ["CUDA_VISIBLE_DEVICES"] = seen[number]


def explain_training_error(error: Exception, processes: int = 1) -> Explanation:
    """What a user reads about an exception: its own words if it was raised for them, else explain.py's."""
    if processes > 1 and _PEER_LOST.search(str(error)):
        message = "Another process of this run ended suddenly, and the rest can't go on without it."
        return Explanation("process_died", message, _SEE_LOG)
    known = explain_exception(type(error).__name__, str(error))
    if isinstance(error, ToolkitError):
        reason = error.reason or (known.reason if known.reason != "bug" else "refused")
        return Explanation(reason, error.message, error.hint or _CORRECT_SETTINGS)
    return known


def _trace(error: Exception) -> str:
    """The last frames of a bug, for whoever reports it."""
    return "".join(traceback.format_exception(error)[-TRACE_FRAMES:]).rstrip()


def _other_failure(run: RunDir, processes: int, error: Exception) -> Explanation | None:
    """The reason of the process that failed first: this one may only have noticed that it was left alone."""
    if processes == 1 or isinstance(error, ToolkitError):
        return None
    deadline = time.monotonic() + FAILURE_WAIT_SECONDS
    while time.monotonic() < deadline:
        for path in sorted(run.path.glob(".failed-rank-*")):
            found = json.loads(path.read_text(encoding="utf-8"))
            return Explanation(found["reason"], found["message"], found["hint"])
        time.sleep(0.1)
    return None


def _failure_path(run: RunDir, rank: int) -> Path:
    return run.path / f".failed-rank-{rank}"


@cache
def read_training_versions() -> dict[str, str]:
    """Of Python and the libraries that decide a training's numbers."""
    installed = {name: importlib.metadata.version(name) for name in TRAINING_LIBRARIES}
    return {"python": platform.python_version(), **installed}


def _ignore_event(kind: str, **fields: Any) -> None:
    del kind, fields


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m toolkit.worker.train RUN (FTK_SAVE_DIR names the folder of its runs)")
    try:
        raise SystemExit(main(sys.argv[1]))
    except RunError as error:
        raise SystemExit(str(error)) from error
