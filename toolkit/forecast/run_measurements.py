"""Measurements of a finished run from its event log: memory, speed, and the seconds of its phases.

Only the beginning and the end of a long event log are read.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from toolkit.runs.events import Event, is_finite_number, read_events
from toolkit.runs.run_dir import RunDir

EVENTS_TAIL_BYTES, EVENTS_HEAD_BYTES = 65_536, 16_384  # about 200 and 50 events
MIN_LOG_EVENTS = 4  # with fewer steps, the slow first one decides the mean
COMPLETED_KINDS = ("finished", "stopped")
_TRAINING_PHASES = ("answering pinned prompts", "training")


@dataclass(frozen=True)
class RunMeasurements:
    """Measurements of one run; None for what its events do not contain.

    tokens_per_second: of the training steps without the first. process_bytes: before it had a model. starting: seconds
    until the first step. evaluation: seconds of one evaluation, with its sample outputs. ending: seconds from the last
    evaluation to the end.
    """

    precision: str
    tokens_per_second: float
    process_bytes: float | None = None
    peak_bytes: float | None = None
    gpu_peak_bytes: float | None = None
    starting: float | None = None
    evaluation: float | None = None
    ending: float | None = None


def read_run_measurements(run: RunDir) -> RunMeasurements | None:
    """Return the measurements of a run that has ended, or None if it was too short."""
    head, tail = read_first_and_last_events(run.events_path)
    logs = [event for event in tail if event["kind"] == "log" and is_finite_number(event.get("tokens_per_second"))]
    plan = next((event for event in head if event["kind"] == "plan"), None)
    if plan is None or len(logs) < MIN_LOG_EVENTS:
        return None
    return RunMeasurements(
        precision=str(plan.get("precision", "")),
        tokens_per_second=_tokens_per_second(logs),
        process_bytes=_number(plan.get("process_bytes")),
        peak_bytes=_max_value(logs, "peak_bytes"),
        gpu_peak_bytes=_max_value(logs, "gpu_peak_bytes"),
        starting=_startup_seconds(head),
        evaluation=_mean_evaluation_seconds(tail),
        ending=_final_phase_seconds(tail),
    )


def run_has_completed(run: RunDir) -> bool:
    """Return whether the run finished or was stopped by the user."""
    _, tail = read_first_and_last_events(run.events_path)
    return bool(tail) and tail[-1]["kind"] in COMPLETED_KINDS


def read_first_and_last_events(path: Path) -> tuple[list[Event], list[Event]]:
    """Return (first events, last events); both are all events of a short file."""
    if not path.exists():
        return [], []
    size = path.stat().st_size
    tail, _ = read_events(path, max(0, size - EVENTS_TAIL_BYTES))
    if size <= EVENTS_TAIL_BYTES:
        return tail, tail
    head, _ = read_events(path, limit=EVENTS_HEAD_BYTES)
    return head, tail


def _tokens_per_second(logs: Sequence[Event]) -> float:
    """Return the tokens of all logged steps except the first, divided by their seconds."""
    counted = [
        (float(log["tokens"]), float(log["tokens_per_second"])) for log in logs if is_finite_number(log.get("tokens"))
    ]
    steps = [(now - before, speed) for (before, _), (now, speed) in pairwise(counted) if now > before and speed > 0]
    if not steps:
        return statistics.harmonic_mean([max(float(log["tokens_per_second"]), 1e-3) for log in logs[1:]])
    return sum(tokens for tokens, _ in steps) / sum(tokens / speed for tokens, speed in steps)


def _startup_seconds(head: Sequence[Event]) -> float | None:
    began = next((event for event in head if event["kind"] == "started"), None)
    first = next((event for event in head if event.get("phase") in _TRAINING_PHASES), None)
    if began is None or first is None or first["attempt"] != began["attempt"] or began["attempt"] != 1:
        return None
    return float(first["t"]) - float(began["t"])


def _mean_evaluation_seconds(tail: Sequence[Event]) -> float | None:
    phases = [event for event in tail if event["kind"] == "phase"]
    each = [float(after["t"]) - float(now["t"]) for now, after in pairwise(phases) if now["phase"] == "evaluating"]
    return statistics.fmean(each) if each else None


def _final_phase_seconds(tail: Sequence[Event]) -> float | None:
    saving = next((event for event in tail if event.get("phase") == "saving"), None)
    if saving is None or tail[-1]["kind"] != "finished":
        return None
    return float(tail[-1]["t"]) - float(saving["t"])


def _max_value(logs: Sequence[Event], name: str) -> float | None:
    return max((float(log[name]) for log in logs if is_finite_number(log.get(name))), default=None)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and is_finite_number(value) else None
