"""What an evaluation is doing: a pure function of its events and its lock; and the process that does it, started.

An evaluation that was killed or stopped is started again on the same directory and goes on where it was. Knows no
model and no Streamlit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit.errors import RunError
from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.runs.events import Event, read_events
from toolkit.runs.run_dir import read_run_config
from toolkit.runs.worker_process import worker_environment
from toolkit.system.locks import LockHolder, end_holder_processes, hold_lock, is_lock_held, read_lock_holder
from toolkit.system.spawn import reap_in_background, start_detached_process

EvaluationState = Literal["new", "running", "finished", "stopped", "failed", "interrupted"]
EVALUATION_START_TIMEOUT_S = 30.0
EVALUATION_WORKER = "toolkit.worker.evaluate"
START_LOCK_FILE = "start.lock"


@dataclass(frozen=True)
class EvaluationProgress:
    """done and total: answers. remaining_s: None while it can't be known. message and hint: why it failed.

    attempts: how often its process has been started.
    """

    state: EvaluationState
    phase: str = ""
    done: int = 0
    total: int = 0
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    message: str = ""
    hint: str = ""
    attempts: int = 0
    warnings: tuple[str, ...] = field(default=())

    @property
    def going(self) -> bool:
        return self.state == "running"

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


def fold_evaluation_events(events: Iterable[Event], *, held: bool, now: float | None = None) -> EvaluationProgress:
    """The state after these events. held: a process works on it. now: Unix seconds, for a living one."""
    seen: dict[str, Any] = {}
    last: Event | None = None
    warnings: list[str] = []
    attempts = 0
    for event in events:
        last = event
        if event["kind"] == "started":
            seen, warnings, attempts = {"began": event["t"]}, [], attempts + 1
        elif event["kind"] == "warning":
            warnings.append(str(event.get("message", "")))
        else:
            seen.update({name: value for name, value in event.items() if name not in ("n", "kind", "c", "attempt")})
    over = last is not None and last["kind"] in ("finished", "stopped", "failed")
    state: EvaluationState = "running" if held else last["kind"] if last and over else "interrupted" if last else "new"
    until = now if held and now is not None else seen.get("t", seen.get("began", 0.0))
    return EvaluationProgress(
        state=state, phase=str(seen.get("phase", "")), done=int(seen.get("done", 0)), total=int(seen.get("total", 0)),
        elapsed_s=max(0.0, until - seen.get("began", until)), remaining_s=seen.get("remaining_s") if held else None,
        message=str(seen.get("message", "")) if state == "failed" else "",
        hint=str(seen.get("hint", "")) if state == "failed" else "", attempts=attempts, warnings=tuple(warnings),
    )  # fmt: skip


def read_evaluation_progress(evaluation: Evaluation) -> EvaluationProgress:
    """The state of an evaluation now; one whose process is just being started is going too."""
    # before the events: one that ends in between has written its last
    held = is_lock_held(evaluation.path / START_LOCK_FILE) or is_lock_held(evaluation.lock_path)
    return fold_evaluation_events(read_events(evaluation.events_path)[0], held=held, now=time.time())


def start_evaluation(evaluation: Evaluation) -> None:
    """Start its process, or start it again; returns once it lives. Does nothing while one lives. Raises RunError."""
    with hold_lock(evaluation.path / START_LOCK_FILE) as free:
        if not free or is_lock_held(evaluation.lock_path):
            return
        evaluation.stop_path.unlink(missing_ok=True)
        before = len(read_events(evaluation.events_path)[0])
        process = _spawn(evaluation)
        reap_in_background(process, "evaluation")
        deadline = time.monotonic() + EVALUATION_START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if is_lock_held(evaluation.lock_path):
                return
            time.sleep(0.05)
        if len(read_events(evaluation.events_path)[0]) == before:
            raise RunError("The evaluation could not be started.", f"Its log is {evaluation.log_path}.")


def _spawn(evaluation: Evaluation) -> subprocess.Popen[bytes]:
    environment = worker_environment(evaluation.run, read_run_config(evaluation.run), attempt=1)
    try:
        with evaluation.log_path.open("ab") as log:
            argv = [sys.executable, "-m", EVALUATION_WORKER, evaluation.run.id, evaluation.id]
            return start_detached_process(argv, environment, log)
    except OSError as error:
        raise RunError(f"The evaluation can't be started: {error}.", "Free memory or disk space.") from error


def kill_evaluation(evaluation: Evaluation, grace_seconds: float = 5.0) -> bool:
    """End its process now; what was answered stays. False when none lived."""
    holder: LockHolder | None = read_lock_holder(evaluation.lock_path) if is_lock_held(evaluation.lock_path) else None
    return holder is not None and holder.pid != os.getpid() and end_holder_processes(holder, grace_seconds)
