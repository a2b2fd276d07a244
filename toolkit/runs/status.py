"""What state a run is in: a pure function of its events, its locks and two marker files. "running" is written nowhere.

`fold` is the whole truth in one call; `read_status` feeds it from a run's directory and remembers, per file, what it
has already read, so that looking again costs only what is new.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from toolkit.runs import events as log
from toolkit.runs.durable import COMMIT
from toolkit.runs.events import TERMINAL, Event, read_events
from toolkit.runs.rundir import RunDir, is_living

State = Literal[
    "queued", "starting", "running", "stopping", "finished", "stopped", "cancelled", "failed", "interrupted"
]
LIVING: frozenset[State] = frozenset({"starting", "running", "stopping"})
OVER: frozenset[State] = frozenset({"finished", "stopped", "cancelled", "failed", "interrupted"})
REMEMBERED = 1000  # runs whose facts are kept in memory, some kilobytes each
series = log.series


@dataclass(frozen=True)
class Facts:
    """What the events say, without a verdict on who lives. Each field holds the latest word on its matter."""

    phase: str = ""
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    epochs: float = 0.0
    began: float | None = None  # Unix seconds of the first `started`
    training_began: tuple[float, int] | None = None  # time and step at which this attempt's training began
    seen: float = 0.0  # time of the last event
    end: Event | None = None
    attempt: int = 0
    adapter: bool = False
    prepared: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment. Times are in seconds; remaining_s is None while it can't be known.

    last: the latest values of `log` and `eval` events. plan, prepared, scores: the fields of those events.
    """

    state: State
    phase: str = ""
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    epochs: float = 0.0
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    message: str = ""
    hint: str = ""
    reason: str = ""
    explained: bool = False  # its last event is there (or it was cancelled): nothing more will be written
    adapter_ready: bool = False
    attempt: int = 0
    prepared: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def living(self) -> bool:
        return self.state in LIVING

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def fraction(self) -> float:
        """Steps done, 0 to 1."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


def fold(
    events: Iterable[Event], *, lock_held: bool, claimed: bool, stop_requested: bool, now: float | None = None
) -> RunStatus:
    """The state of a run. lock_held: a process works on it (or is just being started). now: Unix seconds, to tell
    how long a living run has been going; without it, the time of the last event."""
    return conclude(
        advance(Facts(), events), lock_held=lock_held, claimed=claimed, stop_requested=stop_requested, now=now
    )


def advance(facts: Facts, events: Iterable[Event]) -> Facts:
    """The facts after some more events."""
    for event in events:
        facts = _after(facts, event)
    return facts


def _after(facts: Facts, event: Event) -> Facts:
    kind, new = event["kind"], dict[str, Any]()
    fields = {name: value for name, value in event.items() if name not in ("n", "attempt", "t", "kind", "c")}
    if event["attempt"] > facts.attempt:  # a new attempt: an earlier end no longer counts
        new |= {"attempt": event["attempt"], "end": None, "phase": "", "training_began": None}
    if kind == "started" and facts.began is None:
        new["began"] = event["t"]
    elif kind == "phase":
        new["phase"] = str(fields.get("phase", ""))
        if new["phase"] == "training" and (facts.training_began is None or "training_began" in new):
            new["training_began"] = (event["t"], facts.step)
    elif kind in ("prepared", "scores"):
        new[kind] = fields
    elif kind == "plan":
        new |= {"plan": fields, **_numbers(fields, "total_steps", "epochs")}
    elif kind in ("log", "eval"):
        new["last"] = {**facts.last, **fields}
    elif kind == "warning":
        new["warnings"] = (*facts.warnings, str(fields.get("message", "")))
    elif kind == "adapter":
        new["adapter"] = True
    elif kind in TERMINAL:
        new["end"] = event
    if kind in ("progress", "log", "saved", "finished", "stopped"):
        new |= _numbers(fields, "step", "epoch")
    return replace(facts, seen=event["t"], **new)


def _numbers(fields: Event, *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if log.is_number(fields.get(name))}


def conclude(
    facts: Facts, *, lock_held: bool, claimed: bool, stop_requested: bool, now: float | None = None
) -> RunStatus:
    """The verdict on the facts and on who lives."""
    state = _state(facts, lock_held, claimed, stop_requested)
    at = facts.seen if now is None or state not in LIVING else max(now, facts.seen)
    message, hint, reason = _words(state, facts)
    return RunStatus(
        state=state,
        phase=facts.phase if state in LIVING else "",
        step=facts.step,
        total_steps=facts.total_steps,
        epoch=facts.epoch,
        epochs=facts.epochs,
        elapsed_s=max(0.0, at - facts.began) if facts.began is not None else 0.0,
        remaining_s=_remaining(facts, at) if state == "running" else None,
        message=message,
        hint=hint,
        reason=reason,
        explained=facts.end is not None or state == "cancelled",
        adapter_ready=facts.adapter,
        attempt=facts.attempt,
        prepared=facts.prepared,
        plan=facts.plan,
        scores=facts.scores,
        last=facts.last,
        warnings=facts.warnings,
    )


def _state(facts: Facts, lock_held: bool, claimed: bool, stop_requested: bool) -> State:
    if facts.end is not None:
        if facts.end["kind"] == "failed":
            return "interrupted" if facts.end.get("reason") == "interrupted" else "failed"
        return "finished" if facts.end["kind"] == "finished" else "stopped"
    if lock_held:
        if stop_requested:
            return "stopping"
        return "running" if facts.began is not None else "starting"
    if claimed or facts.began is not None:
        return "interrupted"
    return "cancelled" if stop_requested else "queued"


def _words(state: State, facts: Facts) -> tuple[str, str, str]:
    if facts.end is not None and state in ("failed", "interrupted", "stopped"):
        return tuple(str(facts.end.get(name, "")) for name in ("message", "hint", "reason"))  # type: ignore[return-value]
    if state == "interrupted":
        return "The run ended without a word.", "It can be started again.", "interrupted"
    return "", "", ""


def _remaining(facts: Facts, at: float) -> float | None:
    if facts.training_began is None or not facts.total_steps:
        return None
    began, first = facts.training_began
    done = facts.step - first
    if done <= 0 or at <= began:
        return None
    # progress is written at most once a second: the time since then counts against the rest
    per_step = max(facts.seen - began, 1e-3) / done
    return max(0.0, per_step * (facts.total_steps - facts.step) - (at - facts.seen))


def read_status(run: RunDir, now: float | None = None) -> RunStatus:
    """The state of a run now. Raises OSError when its directory can't be read."""
    # who lives is asked first: a worker that ends in between has then written its last word before we read
    lock_held = is_living(run)
    claimed, stop_requested = run.claim_path.exists(), run.stop_path.exists()
    facts = _MEMORY.facts(run.events_path)
    status = conclude(
        facts, lock_held=lock_held, claimed=claimed, stop_requested=stop_requested, now=now or time.time()
    )
    return replace(status, adapter_ready=facts.adapter or (run.adapter_dir / COMMIT).is_file())


class _Memory:
    """Facts already read, by file: a pure cache, which may be emptied at any time."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Path, int], tuple[int, Facts]] = OrderedDict()
        self._guard = threading.Lock()

    def facts(self, path: Path) -> Facts:
        try:
            found = path.stat()
        except FileNotFoundError:
            return Facts()
        with self._guard:
            offset, facts = self._known.get((path, found.st_ino), (0, Facts()))
            if found.st_size < offset:  # a torn tail was cut off behind what we read: never below whole lines
                offset, facts = 0, Facts()
            if found.st_size > offset:
                new, offset = read_events(path, offset)
                facts = advance(facts, new)
            self._known[path, found.st_ino] = (offset, facts)
            self._known.move_to_end((path, found.st_ino))
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return facts


_MEMORY = _Memory()
