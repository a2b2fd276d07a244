"""Whether a run resumes by itself after its worker ended.

A run resumes when it was ended from outside, or for a lack of memory or disk space. It fails when its own settings,
data or code were the cause. Two attempts in a row without a new checkpoint stop it; an attempt that was killed from
outside before it began to train is not counted, because it says nothing about the run. Ten attempts in a row that
reach no new step stop it as well, whatever ended them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

from toolkit.cluster.lease import NODE_LOST
from toolkit.errors import RunError
from toolkit.lifecycle import memory_autopilot
from toolkit.runs.end_reasons import Explanation
from toolkit.runs.events import Event, EventWriter, is_finite_number
from toolkit.runs.run_dir import RunDir, approve_run, is_run_alive, is_run_starting
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.durable import fsync_dir
from toolkit.system.locks import hold_lock

RETRYABLE_REASONS = frozenset(
    {"killed", "interrupted", "native_crash", "process_died", "out_of_memory", "out_of_memory_gpu", "disk_full"}
) | {NODE_LOST}
"""Reasons after which another attempt can succeed although nothing was changed."""
MAX_ATTEMPTS_WITHOUT_CHECKPOINT = 2
"""The second failure before a checkpoint is no coincidence: a third attempt would only cost time."""
MAX_ATTEMPTS_WITHOUT_PROGRESS = 10
"""Bounds a run that is killed from outside again and again, which the limit above does not count."""
WORKER_EXIT_SECONDS = 10.0
"""Time that a worker may take to exit after its last event, before a resume is refused."""
_STEP_EVENTS = ("progress", "log", "saved")


def close_attempt(
    writer: EventWriter, events: Sequence[Event], explanation: Explanation, *, may_retry: bool = True, **more: Any
) -> Event:
    """Write the last event of an attempt that nobody ended: `interrupted` if the run resumes by itself, else `failed`.

    events: all events of the run so far. may_retry: Auto-recovery is on. more: further fields of the event.
    """
    fields = {name: value for name, value in vars(explanation).items() if value is not False}
    if explanation.reason not in RETRYABLE_REASONS:
        return writer.append("failed", **fields, **more)
    if not may_retry:
        advice = "Auto-recovery is off. Press Resume to continue from the last checkpoint."
        return writer.append("failed", **{**fields, "hint": f"{explanation.hint} {advice}"}, **more)
    rows = (
        memory_autopilot.halve_micro_batch(events, writer.attempt)
        if explanation.reason in memory_autopilot.OUT_OF_MEMORY_REASONS
        else None
    )
    # smaller parts change what the next attempt does: it is not held to the limits on attempts
    if rows is not None:
        smaller = {
            "message": f"{explanation.message} {memory_autopilot.describe_micro_batch(rows)}",
            "hint": "",
            "micro_batch": rows,
        }
        return writer.append("interrupted", **{**fields, **smaller}, **more)
    no_retry = _explain_no_retry(events, writer.attempt, explanation)
    if not no_retry:
        return writer.append("interrupted", **fields, **more)
    hint = f"{explanation.hint.removesuffix('.')}. The last checkpoint is kept: press Resume to continue from it."
    message = f"{explanation.message} {no_retry}"
    return writer.append("failed", reason=explanation.reason, message=message, hint=hint, **more)


def _explain_no_retry(events: Sequence[Event], attempt: int, explanation: Explanation) -> str:
    """Return why another attempt would not help, as a sentence, or "" if it may."""
    barren = count_attempts_without_checkpoint(events, attempt, ended_from_outside=explanation.outside)
    if barren >= MAX_ATTEMPTS_WITHOUT_CHECKPOINT:
        number = _ordinal(len(list_attempts_without_checkpoint(events, attempt)))
        return f"This was the {number} attempt in a row that ended before saving a new checkpoint."
    if count_attempts_without_progress(events, attempt) >= MAX_ATTEMPTS_WITHOUT_PROGRESS:
        return f"This was the {_ordinal(MAX_ATTEMPTS_WITHOUT_PROGRESS)} attempt in a row without a new step."
    return ""


def list_attempts_without_checkpoint(events: Sequence[Event], attempt: int) -> list[int]:
    """Return the latest attempts in a row that saved no checkpoint, from `attempt` backward."""
    saved = {event["attempt"] for event in events if event["kind"] == "saved"}
    return list(itertools.takewhile(lambda one: one not in saved, range(attempt, _last_reset_attempt(events), -1)))


def count_attempts_without_progress(events: Sequence[Event], attempt: int) -> int:
    """Return how many attempts in a row, ending with `attempt`, reached no step that the run had not reached before."""
    # compared with the furthest step of all attempts, not of the last one: a resume from an older checkpoint repeats
    # steps that are no progress
    furthest = 0
    in_a_row = 0
    for one in range(_last_reset_attempt(events) + 1, attempt + 1):
        steps = (event.get("step", 0) for event in events if event["attempt"] == one and event["kind"] in _STEP_EVENTS)
        reached = max(filter(is_finite_number, steps), default=0)
        in_a_row = 0 if reached > furthest else in_a_row + 1
        furthest = max(furthest, reached)
    return in_a_row


def _last_reset_attempt(events: Sequence[Event]) -> int:
    """Return the attempt after which counting starts: a user's Resume and a smaller micro-batch both reset it."""
    asked = max((event["attempt"] for event in events if event["kind"] == "requeued"), default=0)
    return max(asked, memory_autopilot.last_shrunk_attempt(events))


def ended_from_outside(events: Sequence[Event], attempt: int) -> bool:
    """Return whether another process ended this attempt and the run is to resume."""
    return any(_was_ended_from_outside(event) for event in events if event["attempt"] == attempt)


def _was_ended_from_outside(event: Event) -> bool:
    return event["kind"] == "interrupted" and event.get("outside") is True


def count_attempts_without_checkpoint(
    events: Sequence[Event], attempt: int, *, ended_from_outside: bool = False
) -> int:
    """Return how many of the latest attempts without a checkpoint count against the run.

    ended_from_outside: another process ended `attempt`. An attempt that was ended from outside before it began to
    train does not count. One that never started counts only if the one before it did not start either: an app that
    died between the claim and the start of a worker is no fault of the run.
    """
    began = {event["attempt"] for event in events if event["kind"] == "started"}
    trained = {event["attempt"] for event in events if event["kind"] == "plan"}
    killed = {event["attempt"] for event in events if _was_ended_from_outside(event)}
    # an attempt that was killed while it trained counts: its training may be what draws the kill
    excused = ((killed | {attempt}) if ended_from_outside else killed) - trained
    counting = (one for one in list_attempts_without_checkpoint(events, attempt) if one not in excused)
    return sum(one in began or one - 1 not in began for one in counting)


def can_resume(status: RunStatus) -> bool:
    """Return whether a user may resume the run: it has ended, but not with its last step."""
    return status.explained and status.state in ("stopped", "paused", "failed", "interrupted", "cancelled")


def request_resume(run: RunDir) -> None:
    """Put an ended run back into the queue, to continue from its last checkpoint. Raises RunError or OSError."""
    _wait_for_worker_exit(run)
    with hold_lock(run.lock_path) as free:
        if not free or is_run_starting(run):
            raise RunError(f"Run {run.id} is still running.", "Stop or pause it first.")
        status = read_run_status(run, holds_lock=True)
        if status.state == "finished":
            raise RunError(f"Run {run.id} is finished.", "Continue it for more epochs, which creates a new run.")
        approve_run(run)
        # the stop request first: a crash before the event leaves the run as it was, not queued and stopped at once
        run.stop_path.unlink(missing_ok=True)
        fsync_dir(run.path)
        if status.attempt and status.explained:
            with EventWriter(run.events_path, status.attempt) as events:
                events.append("requeued", step=status.saved_step)


def _wait_for_worker_exit(run: RunDir) -> None:
    """Wait for a worker that has written its last event to exit."""
    deadline = time.monotonic() + WORKER_EXIT_SECONDS
    while time.monotonic() < deadline and is_run_alive(run) and read_run_status(run).explained:
        time.sleep(0.05)


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
