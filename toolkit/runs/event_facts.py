"""What the events of a run say, without a verdict on who lives: a fold over the log, attempt after attempt.

Pure. Each fact is the latest word on its matter; what state follows from them is `status.py`'s.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from toolkit.data.conversations import Message
from toolkit.runs.curve import Curve
from toolkit.runs.events import TERMINAL_KINDS, Event, collect_series_columns, is_finite_number, read_events

_WRITTEN_BY_OTHERS = ("interrupted", "requeued")  # written by others, perhaps much later


@dataclass(frozen=True)
class PinnedPrompt:
    """A prompt that a run answers before training and at every evaluation.

    expected: the completion of the row with this prompt, None when unknown. row: that row's 0-based number in the run's
    table. turns: the whole conversation, where the row is one; not recorded in the log of sample outputs.
    """

    prompt: str
    expected: str | None = None
    row: int | None = None
    turns: tuple[Message, ...] = ()

    def event_fields(self) -> dict[str, Any]:
        """Return the fields that a `pinned` event records."""
        return {"prompt": self.prompt, "expected": self.expected, "row": self.row}


@dataclass(frozen=True)
class EventFacts:
    """Each field holds the latest word on its matter."""

    phase: str = ""
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    epochs: float = 0.0
    began: float | None = None  # Unix seconds of this attempt's `started`
    before: float = 0.0  # seconds that earlier attempts lived
    training_began: tuple[float, int] | None = None  # time and step at which this attempt's training began
    seen: float = 0.0  # time of the last event
    end: Event | None = None
    waiting: bool = False  # for its next attempt
    broke: Event | None = None  # why the attempt before this one ended, when nobody asked for it
    saved: dict[str, Any] = field(default_factory=dict)  # the last checkpoint
    verified: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)  # the lowest test loss so far, and its step
    early: dict[str, Any] = field(default_factory=dict)  # why training ended before its last step
    attempt: int = 0
    adapter: bool = False
    prepared: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def next_attempt(self) -> int:
        """The attempt that goes on or comes next."""
        return self.attempt + 1 if self.waiting or not self.attempt else self.attempt


def update_event_facts(facts: EventFacts, events: Iterable[Event]) -> EventFacts:
    """The facts after some more events."""
    now = SimpleNamespace(**vars(facts))  # one record at the end, not one for each of fifty thousand events
    for event in _merge_log_events(events):
        vars(now).update(_changed_fields(now, event))
    return EventFacts(**vars(now))


def _merge_log_events(events: Iterable[Event]) -> Iterator[Event]:
    """Consecutive `log` events of one attempt as one: of each of their fields the latest value counts."""
    held: Event | None = None
    for event in events:
        if held is not None and event["kind"] == "log" and event["attempt"] == held["attempt"]:
            held.update(event)
            continue
        if held is not None:
            yield held
        held = dict(event) if event["kind"] == "log" else None
        if held is None:
            yield event
    if held is not None:
        yield held


def _changed_fields(facts: SimpleNamespace, event: Event) -> dict[str, Any]:
    """The fields of Facts that an event changes."""
    kind, new = event["kind"], dict[str, Any]()
    fields = {name: value for name, value in event.items() if name not in ("n", "attempt", "t", "kind", "c")}
    if event["attempt"] > facts.attempt:  # a new attempt: an earlier end no longer counts
        lived = facts.seen - facts.began if facts.began is not None else 0.0
        new |= {"attempt": event["attempt"], "end": None, "waiting": False, "phase": "", "training_began": None}
        new |= {"began": None, "before": facts.before + lived, "verified": {}}
    if kind == "started":
        new["began"] = event["t"]
    elif kind == "phase":
        new["phase"] = str(fields.get("phase", ""))
        if new["phase"] == "training" and (facts.training_began is None or "training_began" in new):
            new["training_began"] = (event["t"], facts.step)
    elif kind in ("prepared", "scores", "saved", "verified", "best", "early"):
        new[kind] = fields
    elif kind == "plan":
        new |= {"plan": fields, **_numbers(fields, "total_steps", "epochs")}
    elif kind in ("log", "eval"):
        new["last"] = {**facts.last, **fields}
    elif kind == "warning":
        said = str(fields.get("message", ""))
        new["warnings"] = (*(one for one in facts.warnings if one != said), said)  # attempts repeat each other's
    elif kind == "adapter":
        new["adapter"] = True
    elif kind in ("interrupted", "requeued"):
        new |= {"waiting": True, "end": None, "broke": event if kind == "interrupted" else None}
    elif kind in TERMINAL_KINDS:
        new["end"] = event
    if kind in ("progress", "log", "resumed", "finished", "stopped"):
        new |= _numbers(fields, "step", "epoch")
    if kind not in _WRITTEN_BY_OTHERS:
        new["seen"] = event["t"]
    return new


def _numbers(fields: Event, *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if is_finite_number(fields.get(name))}


MAX_CACHED_RUNS = 1000
"""Runs whose facts are kept in memory, some kilobytes each."""


MAX_CACHED_CURVES = 20
"""Runs whose curves are: 16 bytes for each point of each series."""


@dataclass
class _CachedLog:
    """offset: bytes read. curves: None where they are not kept."""

    offset: int = 0
    facts: EventFacts = field(default_factory=EventFacts)
    curves: dict[str, Curve] | None = None

    def read_on(self, path: Path, size: int) -> None:
        if size < self.offset:  # a torn tail was cut off behind what we read: never below whole lines
            self.__init__(curves=None if self.curves is None else {})  # type: ignore[misc]
        if size > self.offset:
            new, self.offset = read_events(path, self.offset)
            self.take(new)

    def take(self, new: list[Event]) -> None:
        self.facts = update_event_facts(self.facts, new)
        if self.curves is None:
            return
        for name, (steps, values) in collect_series_columns(new).items():
            found = Curve.from_columns(steps, values)
            self.curves[name] = self.curves[name].updated_with(found) if name in self.curves else found


_LogKey = tuple[Path, int]


_cached_logs: OrderedDict[_LogKey, _CachedLog] = OrderedDict()


_cached_curves: OrderedDict[_LogKey, None] = OrderedDict()


_guard = threading.Lock()


def read_event_facts(events_path: Path) -> EventFacts:
    """What the events of a run say by now. Costs only what is new since anybody's last look."""
    with _guard:
        found = _read_cached_log(events_path, curves=False)
        return found.facts if found else EventFacts()


def read_run_curves(events_path: Path) -> dict[str, Curve]:
    """Every series of a run as (step, value) by rising step. Costs only what is new since anybody's last look."""
    with _guard:
        found = _read_cached_log(events_path, curves=True)
        return dict(found.curves or {}) if found else {}


def _read_cached_log(path: Path, *, curves: bool) -> _CachedLog | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    key = (path, stat.st_ino)
    known = _cached_logs.get(key)
    if known is None or (curves and known.curves is None):
        wanted = curves or len(_cached_curves) < MAX_CACHED_CURVES  # who looks at a run's state often draws it next
        known = _cached_logs[key] = _CachedLog(curves={} if wanted else None)
        if wanted:
            _cached_curves[key] = None
    known.read_on(path, stat.st_size)
    _cached_logs.move_to_end(key)
    if curves:
        _cached_curves.move_to_end(key)
    if len(_cached_logs) > MAX_CACHED_RUNS:
        _cached_curves.pop(_cached_logs.popitem(last=False)[0], None)
    if len(_cached_curves) > MAX_CACHED_CURVES:
        _cached_logs[_cached_curves.popitem(last=False)[0]].curves = None
    return known
