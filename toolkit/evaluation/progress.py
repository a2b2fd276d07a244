"""What an evaluation is doing, from its events and its locks, and starting the process that carries it out.

An evaluation that was killed or stopped is started again in the same folder and continues after the last answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.runs.events import Event, read_events
from toolkit.runs.run_dir import read_run_config
from toolkit.runs.worker_process import worker_environment
from toolkit.system.background_job import is_job_running, start_job

EvaluationState = Literal["new", "running", "finished", "stopped", "failed", "interrupted"]
EVALUATION_WORKER = "toolkit.worker.evaluate"
_EVENT_FIELDS = ("n", "kind", "c", "attempt")
"""Fields of every event that say nothing about the evaluation."""


@dataclass(frozen=True)
class EvaluationProgress:
    """An evaluation at one moment.

    done, total: answers. elapsed_s: of this attempt. remaining_s: None while unknown. message, hint: why it failed.
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
    def is_running(self) -> bool:
        return self.state == "running"

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


def fold_evaluation_events(
    events: Iterable[Event], *, is_running: bool, now: float | None = None
) -> EvaluationProgress:
    """Return the state after these events. is_running: whether a process is alive. now: Unix seconds, if one is."""
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
            seen.update({name: value for name, value in event.items() if name not in _EVENT_FIELDS})
    ended = last is not None and last["kind"] in ("finished", "stopped", "failed")
    state: EvaluationState = (
        "running" if is_running else last["kind"] if last and ended else "interrupted" if last else "new"
    )
    until = now if is_running and now is not None else seen.get("t", seen.get("began", 0.0))
    return EvaluationProgress(
        state=state,
        phase=str(seen.get("phase", "")),
        done=int(seen.get("done", 0)),
        total=int(seen.get("total", 0)),
        elapsed_s=max(0.0, until - seen.get("began", until)),
        remaining_s=seen.get("remaining_s") if is_running else None,
        message=str(seen.get("message", "")) if state == "failed" else "",
        hint=str(seen.get("hint", "")) if state == "failed" else "",
        attempts=attempts,
        warnings=tuple(warnings),
    )


def read_evaluation_progress(evaluation: Evaluation) -> EvaluationProgress:
    """Return the state of an evaluation now; it is running as soon as its process is being started."""
    is_running = is_job_running(
        evaluation.job
    )  # before the events: a process that ends in between has written its last
    return fold_evaluation_events(read_events(evaluation.events_path)[0], is_running=is_running, now=time.time())


def start_evaluation(evaluation: Evaluation) -> None:
    """Start the evaluation, or continue it; return once its process is at work. Does nothing while it is running.

    Raises RunError when it can't be started.
    """
    if is_job_running(evaluation.job):
        return
    evaluation.stop_path.unlink(missing_ok=True)
    environment = worker_environment(evaluation.run, read_run_config(evaluation.run), attempt=1)
    arguments = [evaluation.run.id, evaluation.id]
    start_job(evaluation.job, EVALUATION_WORKER, arguments, environment, keep_log=True)
