"""What a run does about running out of memory while nobody watches: half the rows at a time, the same experiment.

A step still learns from the same rows: they are computed in smaller parts whose gradients add up
(`worker/training/micro_batches.py`). How far that went is read from the run's events, so that every later attempt knows it. Pure,
but for one look at the run's settings. Whether a run goes on at all is `resume.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from toolkit.runs.events import Event, is_finite_number
from toolkit.runs.run_dir import RunDir

OUT_OF_MEMORY_REASONS = frozenset({"out_of_memory", "out_of_memory_gpu"})


def is_autopilot_on(run: RunDir) -> bool:
    """Whether the run may go on by itself; settings that can't be read do not keep it from that."""
    try:
        found = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return True
    return not isinstance(found, dict) or found.get("autopilot") is not False


def find_micro_batch_limit(events: Sequence[Event]) -> int | None:
    """Rows that an attempt may compute at once; None while the memory was enough for a whole batch."""
    found = [int(event["micro_batch"]) for event in events if _shrinks_micro_batch(event)]
    return min(found, default=None)


def halve_micro_batch(events: Sequence[Event], attempt: int) -> int | None:
    """Half of what this attempt computed at once, rounded up; None when it did not get so far, or it was one row."""
    plans = [event for event in events if event["kind"] == "plan" and event["attempt"] == attempt]
    now = plans[-1].get("micro_batch") if plans else None
    return (now + 1) // 2 if isinstance(now, int) and now > 1 else None


def last_shrunk_attempt(events: Sequence[Event]) -> int:
    """The last attempt after which the parts became smaller; 0 when none did."""
    return max((int(event["attempt"]) for event in events if _shrinks_micro_batch(event)), default=0)


def describe_micro_batch(rows: int) -> str:
    """What happens next, as a sentence."""
    return f"The run goes on with {rows} {'row' if rows == 1 else 'rows'} at a time: slower, and the same experiment."


def _shrinks_micro_batch(event: Event) -> bool:
    return event["kind"] == "interrupted" and is_finite_number(event.get("micro_batch"))
