"""What the events of a run say, without a verdict on who lives: a fold over the log, attempt after attempt.

Pure. Each fact is the latest word on its matter; what state follows from them is `status.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from toolkit.runs.events import TERMINAL_KINDS, Event, is_finite_number

_WRITTEN_BY_OTHERS = ("interrupted", "requeued")  # written by others, perhaps much later


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
