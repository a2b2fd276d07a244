"""The state of a run, derived from its events, its locks and two marker files.

No file says "running": a state that is derived anew at every read is never out of date after a crash.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from toolkit.errors import RunError
from toolkit.runs.event_facts import EventFacts, LoggedFacts, read_event_facts, update_event_facts
from toolkit.runs.events import TERMINAL_KINDS, Event, read_events
from toolkit.runs.kept_facts import FileStamp, is_there, keep_fact, recall_fact, stamp_file, write_kept_facts
from toolkit.runs.run_dir import RunDir, is_run_alive, read_stop_reason
from toolkit.system.durable import COMMIT_NAME

logger = logging.getLogger(__name__)
_ENDED: dict[str, tuple[EventFacts, RunStatus]] = {}
"""The status of each ended run that was read, with the facts that it was derived from, by the run's path."""
_ENDED_KIND = "ended"
_ENDED_LOGS: dict[str, FileStamp] = {}
"""The stamp of each log whose last event ends the run, by the log's path."""
LAST_EVENT_BYTES = 1024
RunState = Literal[
    "queued", "starting", "running", "stopping", "finished", "paused", "stopped", "cancelled", "failed", "interrupted"
]
ACTIVE: frozenset[RunState] = frozenset({"starting", "running", "stopping"})
ENDED: frozenset[RunState] = frozenset({"finished", "paused", "stopped", "cancelled", "failed", "interrupted"})
UNFINISHED: frozenset[RunState] = ACTIVE | {"queued"}


@dataclass(frozen=True)
class RunStatus(LoggedFacts):
    """A run at one moment. Times are in seconds; remaining_s is None while it is unknown.

    In state "queued" with attempt > 0 the run waits to resume; message says why it ended.
    """

    state: RunState
    phase: str = ""
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    message: str = ""
    hint: str = ""
    reason: str = ""
    trace: str = ""  # the end of the traceback
    broke_off: str = ""  # why the previous attempt ended, if nobody requested it
    broke_at: int | None = None  # the step at which training diverged
    explained: bool = False  # its last event is written (or it was cancelled): nothing will follow
    adapter_ready: bool = False
    coming: int = 1  # the attempt in progress, or the one that comes next

    @property
    def saved_step(self) -> int:
        """Step of the last checkpoint, or 0 when there is none."""
        return int(self.saved.get("step") or 0)

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def fraction(self) -> float:
        """Share of the steps that are done, 0 to 1."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


def run_status_from_events(
    events: Iterable[Event], *, lock_held: bool, claimed: bool, stop_requested: bool, now: float | None = None
) -> RunStatus:
    """Return the status of a run from all its events.

    lock_held: a process works on it or is just being started. claimed: the claim file of its next attempt exists.
    now: Unix seconds, for the elapsed time of an active run; None takes the time of the last event.
    """
    return derive_run_status(
        update_event_facts(EventFacts(), events),
        lock_held=lock_held,
        claimed=claimed,
        stop_requested=stop_requested,
        now=now,
    )


def derive_run_status(
    facts: EventFacts, *, lock_held: bool, claimed: bool, stop_requested: bool, now: float | None = None
) -> RunStatus:
    """Return the status of a run from its facts. The other arguments are those of `run_status_from_events`."""
    state = _derive_state(facts, lock_held, claimed, stop_requested)
    # a clock that was set back must not make an active run younger than its last event
    at = facts.seen if now is None or facts.waiting or state not in ACTIVE else max(now, facts.seen)
    message, hint, reason = _message_hint_reason(state, facts)
    return RunStatus(
        state=state,
        phase=facts.phase if state in ACTIVE else "",
        elapsed_s=facts.before + (max(0.0, at - facts.began) if facts.began is not None else 0.0),
        remaining_s=_remaining(facts, at) if state == "running" else None,
        message=message,
        hint=hint,
        reason=reason,
        trace=str(facts.end.get("trace", "")) if facts.end is not None else "",
        broke_off=str(facts.broke.get("message", "")) if facts.broke is not None else "",
        broke_at=_broke_at(facts.end),
        explained=facts.end is not None or state == "cancelled" or (facts.waiting and state == "stopped"),
        adapter_ready=facts.adapter,
        coming=facts.next_attempt,
        **{logged.name: getattr(facts, logged.name) for logged in fields(LoggedFacts)},
    )


def _derive_state(facts: EventFacts, lock_held: bool, claimed: bool, stop_requested: bool) -> RunState:
    if facts.end is not None:
        if facts.end["kind"] == "failed":
            return "interrupted" if facts.end.get("reason") == "interrupted" else "failed"
        if facts.end["kind"] == "stopped":
            return "paused" if facts.end.get("paused") else "stopped"
        return "finished"
    if lock_held:
        if stop_requested:
            return "stopping"
        return "running" if facts.began is not None and not facts.waiting else "starting"
    # started, or about to be, but no process is left and no last event says why
    if claimed or (facts.attempt and not facts.waiting):
        return "interrupted"
    if stop_requested:
        return "stopped" if facts.attempt else "cancelled"
    return "queued"


def _message_hint_reason(state: RunState, facts: EventFacts) -> tuple[str, str, str]:
    last = facts.end if facts.end is not None else facts.broke if facts.waiting and state == "queued" else None
    if last is not None and state != "finished":
        return tuple(str(last.get(name, "")) for name in ("message", "hint", "reason"))  # type: ignore[return-value]
    if state == "interrupted":
        return "The run ended without reporting a reason.", "It can be started again.", "interrupted"
    return "", "", ""


def _broke_at(end: Event | None) -> int | None:
    step = end.get("step") if end is not None and end.get("reason") == "diverged" else None
    return step if isinstance(step, int) else None


def _remaining(facts: EventFacts, at: float) -> float | None:
    if facts.training_began is None or not facts.total_steps:
        return None
    began, first = facts.training_began
    done = facts.step - first
    if done <= 0 or at <= began:
        return None
    # progress is written at most once a second: subtract the time since then from the estimate
    per_step = max(facts.seen - began, 1e-3) / done
    return max(0.0, per_step * (facts.total_steps - facts.step) - (at - facts.seen))


def read_run_status(run: RunDir, *, holds_lock: bool = False) -> RunStatus:
    """Return the status of a run. holds_lock: the caller itself holds the run's lock. Raises RunError."""
    try:
        return _read_run_status(run, holds_lock=holds_lock)
    except OSError as error:
        message = f"Run {run.id} can't be read: {error.strerror or error} ({error.filename})."
        raise RunError(message, "Delete the run's folder, or restore this file.") from error


def _read_run_status(run: RunDir, *, holds_lock: bool) -> RunStatus:
    # The order matters: the claim, the lock, then the events. A worker that starts or ends in between leaves a later
    # sign, which overrules the earlier one.
    facts = read_event_facts(Path(f"{run.path}/events.jsonl"))
    # of thousands of runs nearly all have ended, and neither lock nor claim says more about these
    if facts.end is not None:
        return _describe_ended(run, facts)
    coming = facts.next_attempt
    claimed = run.claim_of(coming).exists()
    stop_requested = run.stop_path.exists()
    lock_held = not holds_lock and is_run_alive(run)
    facts = read_event_facts(run.events_path)
    claimed = claimed and facts.next_attempt == coming  # the claim was for an attempt that has ended since
    status = derive_run_status(
        facts, lock_held=lock_held, claimed=claimed, stop_requested=stop_requested, now=time.time()
    )
    if stop_requested and status.state in ("cancelled", "stopped") and not status.message:
        status = replace(status, message=read_stop_reason(run))
    return replace(status, adapter_ready=facts.adapter or (run.adapter_dir / COMMIT_NAME).is_file())


def _describe_ended(run: RunDir, facts: EventFacts) -> RunStatus:
    """Return the status of a run with a last event, which only another event changes."""
    name = str(run.path)
    known = _ENDED.get(name)
    ready = facts.adapter or is_there(f"{name}/adapter/{COMMIT_NAME}")
    if known is None or known[0] is not facts or known[1].adapter_ready is not ready:
        found = derive_run_status(facts, lock_held=False, claimed=False, stop_requested=False)
        known = _ENDED[name] = (facts, replace(found, adapter_ready=ready))
    return known[1]


def has_last_event(run: RunDir) -> bool:
    """Return whether the end of a run's log shows that the run has ended; if not, only its status says.

    Of thousands of runs nearly all have ended, and reading their whole logs takes a minute.
    """
    name = f"{run.path}/events.jsonl"
    try:
        stamp = stamp_file(name)
        if _ENDED_LOGS.get(name) == stamp:
            return True
        folder = str(run.path.parent)
        if not recall_fact(folder, run.id, _ENDED_KIND, stamp):
            last, _ = read_events(Path(name), max(0, stamp[1] - LAST_EVENT_BYTES))
            if not last or last[-1]["kind"] not in TERMINAL_KINDS:
                return False
            keep_fact(folder, run.id, _ENDED_KIND, stamp, True)
    except (OSError, RunError):  # no log yet, or one that can't be read, which reading the status explains
        return False
    _ENDED_LOGS[name] = stamp
    return True


def read_open_statuses(runs: Iterable[RunDir]) -> list[tuple[RunDir, RunStatus]]:
    """Return what `read_run_statuses` returns, without most of the ended runs, whose logs are not read."""
    runs = [*runs]
    found = read_run_statuses(run for run in runs if not has_last_event(run))
    if runs:
        write_kept_facts(str(runs[0].path.parent))
    return found


def read_run_statuses(runs: Iterable[RunDir]) -> list[tuple[RunDir, RunStatus]]:
    """Return each run whose files can be read with its status; the list of runs shows why the others can't be."""
    found = []
    for run in runs:
        try:
            found.append((run, read_run_status(run)))
        except RunError as error:
            logger.warning("Run %s can't be read: %s", run.id, error)
    if found:
        write_kept_facts(str(found[0][0].path.parent))
    return found
