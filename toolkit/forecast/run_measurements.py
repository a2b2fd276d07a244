"""What a run took, read from its own events: memory, speed, and the seconds of its parts. Knows no prediction.

Reads the beginning and the end of an event file, never a whole long one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from toolkit.runs.events import Event, is_number, read_events
from toolkit.runs.run_dir import RunDir

TAIL_BYTES, HEAD_BYTES = 65_536, 16_384
FEWEST_LOGS = 4
OVER = ("finished", "stopped")
_TRAINS = ("answering pinned prompts", "training")


@dataclass(frozen=True)
class Taken:
    """tokens_per_second: of training steps, without the first. evaluation: seconds of one, film strip included.

    ending: from the last evaluation to the end. None is what the run's events don't say.
    """

    precision: str
    tokens_per_second: float
    process_bytes: float | None = None
    peak_bytes: float | None = None
    gpu_peak_bytes: float | None = None
    starting: float | None = None
    evaluation: float | None = None
    ending: float | None = None


def taken(run: RunDir) -> Taken | None:
    """The figures of a run that is over, or None when it was too short to say anything."""
    head, tail = ends(run.events_path)
    logs = [event for event in tail if event["kind"] == "log" and is_number(event.get("tokens_per_second"))]
    plan = next((event for event in head if event["kind"] == "plan"), None)
    if plan is None or len(logs) < FEWEST_LOGS:
        return None
    return Taken(
        precision=str(plan.get("precision", "")),
        tokens_per_second=_speed(logs),
        process_bytes=_number(plan.get("process_bytes")),
        peak_bytes=_most(logs, "peak_bytes"),
        gpu_peak_bytes=_most(logs, "gpu_peak_bytes"),
        starting=_starting(head),
        evaluation=_evaluation(tail),
        ending=_ending(tail),
    )


def is_over(run: RunDir) -> bool:
    """Whether the run came to an end that was wanted."""
    _, tail = ends(run.events_path)
    return bool(tail) and tail[-1]["kind"] in OVER


def ends(path: Path) -> tuple[list[Event], list[Event]]:
    """(the first events, the last ones); the same for a short file."""
    if not path.exists():
        return [], []
    size = path.stat().st_size
    tail, _ = read_events(path, max(0, size - TAIL_BYTES))
    if size <= TAIL_BYTES:
        return tail, tail
    with path.open("rb") as file:
        lines = file.read(HEAD_BYTES).split(b"\n")[:-1]
    return [json.loads(line) for line in lines if line], tail


def _speed(logs: Sequence[Event]) -> float:
    """Tokens of all logged steps but the first over their seconds."""
    counted = [(float(log["tokens"]), float(log["tokens_per_second"])) for log in logs if is_number(log.get("tokens"))]
    steps = [(now - before, speed) for (before, _), (now, speed) in pairwise(counted) if now > before and speed > 0]
    if not steps:
        return statistics.harmonic_mean([max(float(log["tokens_per_second"]), 1e-3) for log in logs[1:]])
    return sum(tokens for tokens, _ in steps) / sum(tokens / speed for tokens, speed in steps)


def _starting(head: Sequence[Event]) -> float | None:
    began = next((event for event in head if event["kind"] == "started"), None)
    first = next((event for event in head if event.get("phase") in _TRAINS), None)
    if began is None or first is None or first["attempt"] != began["attempt"] or began["attempt"] != 1:
        return None
    return float(first["t"]) - float(began["t"])


def _evaluation(tail: Sequence[Event]) -> float | None:
    phases = [event for event in tail if event["kind"] == "phase"]
    each = [float(after["t"]) - float(now["t"]) for now, after in pairwise(phases) if now["phase"] == "evaluating"]
    return statistics.fmean(each) if each else None


def _ending(tail: Sequence[Event]) -> float | None:
    saving = next((event for event in tail if event.get("phase") == "saving"), None)
    if saving is None or tail[-1]["kind"] != "finished":
        return None
    return float(tail[-1]["t"]) - float(saving["t"])


def _most(logs: Sequence[Event], name: str) -> float | None:
    return max((float(log[name]) for log in logs if is_number(log.get(name))), default=None)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and is_number(value) else None
