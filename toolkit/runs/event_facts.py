"""The facts that a run's events establish, attempt by attempt, its curves, and a cache that reads only new events.

Each fact is the latest value that the log has for it. Whether a process is alive is not part of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, overload

import numpy as np
from pydantic import TypeAdapter

from toolkit.data.chat_messages import Message
from toolkit.errors import RunError
from toolkit.runs.events import TERMINAL_KINDS, Event, collect_series_columns, is_finite_number, read_events
from toolkit.runs.kept_facts import FileStamp, keep_fact, recall_fact, stamp_file

_TEXT_FIELDS = frozenset({"precision", "device"})
_WRITTEN_BY_OTHERS = ("interrupted", "requeued")
"""Kinds that another process writes, perhaps long after the worker's death: their time does not count as its."""


CurvePoint = tuple[int, float]
_Numbers = np.ndarray[Any, np.dtype[Any]]


class Curve(Sequence[CurvePoint]):
    """A sequence of (step, value) with ascending steps. Immutable: `updated_with` returns a new curve."""

    def __init__(self, steps: _Numbers, values: _Numbers) -> None:
        self.steps, self.values = steps, values

    @classmethod
    def from_points(cls, points: Sequence[CurvePoint]) -> Curve:
        """Return a curve of these points, whose steps ascend; return a curve unchanged."""
        if isinstance(points, Curve):
            return points
        steps, values = zip(*points, strict=True) if points else ((), ())
        return cls.from_columns(steps, values)

    @classmethod
    def from_columns(cls, steps: Sequence[int], values: Sequence[float]) -> Curve:
        """Return a curve of these columns, of equal length and with ascending steps."""
        return cls(np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=float))

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, index: int) -> CurvePoint: ...
    @overload
    def __getitem__(self, index: slice) -> Curve: ...
    def __getitem__(self, index: int | slice) -> CurvePoint | Curve:
        if isinstance(index, slice):
            return Curve(self.steps[index], self.values[index])
        return int(self.steps[index]), float(self.values[index])

    def __iter__(self) -> Iterator[CurvePoint]:
        return zip(self.steps.tolist(), self.values.tolist(), strict=True)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Curve):
            return np.array_equal(self.steps, other.steps) and np.array_equal(self.values, other.values)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # arrays are mutable: equal curves must not share a hash

    def updated_with(self, new: Curve) -> Curve:
        """Return a curve with the new points added. They replace points of the same step."""
        # the common case appends; only a resumed attempt replays steps and needs the search and the sort
        replayed = bool(len(self) and len(new) and new.steps[0] <= self.steps[-1])
        keep = ~np.isin(self.steps, new.steps) if replayed else slice(None)
        steps = np.concatenate([self.steps[keep], new.steps])
        values = np.concatenate([self.values[keep], new.values])
        order = np.argsort(steps, kind="stable") if replayed else slice(None)
        return Curve(steps[order], values[order])


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


@dataclass(frozen=True, kw_only=True)
class LoggedFacts:
    """What the log says of a run; its status says the same.

    last: the latest values of `log` and `eval` events. plan, prepared, scores, saved, verified, best, early: the fields
    of those events, where best is the lowest test loss so far and early why training ended before its last step.
    unanswered: those of the warnings that say which answers could not be made.
    """

    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    epochs: float = 0.0
    attempt: int = 0
    saved: dict[str, Any] = field(default_factory=dict)
    verified: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    early: dict[str, Any] = field(default_factory=dict)
    prepared: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    unanswered: tuple[str, ...] = ()


@dataclass(frozen=True)
class EventFacts(LoggedFacts):
    """The latest value of each fact. Times are Unix seconds."""

    phase: str = ""
    began: float | None = None  # time of this attempt's `started` event
    before: float = 0.0  # seconds that earlier attempts took
    training_began: tuple[float, int] | None = None  # time and step at which this attempt began to train
    seen: float = 0.0  # time of the worker's last event
    end: Event | None = None
    waiting: bool = False  # the run waits for its next attempt
    broke: Event | None = None  # why the previous attempt ended, if nobody requested it
    adapter: bool = False

    @property
    def next_attempt(self) -> int:
        """The attempt in progress, or the one that comes next."""
        return self.attempt + 1 if self.waiting or not self.attempt else self.attempt


def update_event_facts(facts: EventFacts, events: Iterable[Event]) -> EventFacts:
    """Return the facts after further events."""
    now = SimpleNamespace(**vars(facts))  # mutable: a frozen copy for each of 50,000 events would take seconds
    for event in _merge_log_events(events):
        vars(now).update(_changed_fields(now, event))
    return EventFacts(**vars(now))


def _merge_log_events(events: Iterable[Event]) -> Iterator[Event]:
    """Merge consecutive `log` events of one attempt into one that has the latest value of each field."""
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
    """Return the fields of EventFacts that an event changes."""
    kind, new = event["kind"], dict[str, Any]()
    fields = {name: value for name, value in event.items() if name not in ("n", "attempt", "t", "kind", "c")}
    if event["attempt"] > facts.attempt:  # a new attempt: the end of the earlier one no longer counts
        lived = facts.seen - facts.began if facts.began is not None else 0.0
        new |= {"attempt": event["attempt"], "end": None, "waiting": False, "phase": "", "training_began": None}
        new |= {"began": None, "before": facts.before + lived, "verified": {}, "unanswered": ()}
    if kind == "started":
        new["began"] = event["t"]
    elif kind == "phase":
        new["phase"] = str(fields.get("phase", ""))
        if new["phase"] == "training" and (facts.training_began is None or "training_began" in new):
            new["training_began"] = (event["t"], facts.step)
    elif kind in ("prepared", "scores", "saved", "verified", "best", "early"):
        new[kind] = _figures(fields)
    elif kind == "plan":
        new |= {"plan": _figures(fields), **_numbers(fields, "total_steps", "epochs")}
    elif kind in ("log", "eval"):
        new["last"] = {**facts.last, **_figures(fields)}
    elif kind == "warning":
        warning = str(fields.get("message", ""))
        # every attempt repeats the warnings of the one before it: each is kept once, in the place of the latest
        new["warnings"] = (*(one for one in facts.warnings if one != warning), warning)
        if fields.get("unanswered"):
            new["unanswered"] = (*new.get("unanswered", facts.unanswered), warning)
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


def _figures(fields: Event) -> dict[str, Any]:
    """Return the fields with None for what is neither a number nor a text that pages show."""
    return {name: value if _is_figure(name, value) else None for name, value in fields.items()}


def _is_figure(name: str, value: object) -> bool:
    return isinstance(value, bool) or is_finite_number(value) or (name in _TEXT_FIELDS and isinstance(value, str))


def _numbers(fields: Event, *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if is_finite_number(fields.get(name))}


MAX_CACHED_RUNS = 20_000
"""Runs whose facts are kept in memory, a few kilobytes each."""
MAX_CACHED_CURVES = 20
"""Runs whose curves are kept in memory, 16 bytes for each point of each metric."""


@dataclass
class _CachedLog:
    """What has been read of one log. offset: bytes read. curves: None when they are not kept."""

    offset: int = 0
    facts: EventFacts = field(default_factory=EventFacts)
    curves: dict[str, Curve] | None = None

    def read_appended(self, path: Path) -> None:
        new, self.offset = read_events(path, self.offset)
        self.add_events(new)

    def add_events(self, new: list[Event]) -> None:
        self.facts = update_event_facts(self.facts, new)
        if self.curves is None:
            return
        for name, (steps, values) in collect_series_columns(new).items():
            found = Curve.from_columns(steps, values)
            self.curves[name] = self.curves[name].updated_with(found) if name in self.curves else found


_LogKey = tuple[str, int]
"""Path and inode: a log file that was replaced is read again from its start."""
_cached_logs: OrderedDict[_LogKey, _CachedLog] = OrderedDict()
_cached_curves: OrderedDict[_LogKey, None] = OrderedDict()
"""Keys of the logs whose curves are kept, least recently used first, as in `_cached_logs`."""
_guard = threading.Lock()
_FACTS = TypeAdapter(EventFacts)
_KEPT_KIND = "facts"


def _recall_ended(path: Path, stamp: FileStamp) -> _CachedLog | None:
    """Return the facts of a run that has ended, as they were kept when its log had this stamp."""
    kept = recall_fact(*_split_path(path), _KEPT_KIND, stamp)
    return None if kept is None else _CachedLog(int(kept[0]), _FACTS.validate_python(kept[1]))


def _split_path(path: Path) -> tuple[str, str]:
    """Return (folder of the runs, id of the run) of a run's log."""
    return str(path.parent.parent), path.parent.name


def read_event_facts(events_path: Path) -> EventFacts:
    """Return the facts of a run's events so far. Reads only what was appended since the last call."""
    with _guard:
        found = _read_cached_log(events_path, curves=False)
        return found.facts if found else EventFacts()


def read_run_curves(events_path: Path) -> dict[str, Curve]:
    """Return every metric of a run as a curve. Reads only what was appended since the last call."""
    with _guard:
        found = _read_cached_log(events_path, curves=True)
        return dict(found.curves or {}) if found else {}


def _read_cached_log(path: Path, *, curves: bool) -> _CachedLog | None:
    name = str(path)
    try:
        stamp = stamp_file(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}.", "Delete the run's folder.") from error
    key = (name, stamp[0])
    known = _cached_logs.get(key)
    # a log shorter than what was read of it was truncated: read it again from its start
    if known is None and not curves and (kept := _recall_ended(path, stamp)) is not None:
        known = _cached_logs[key] = kept
    if known is None or stamp[1] < known.offset or (curves and known.curves is None):
        # a page that reads a run's state often draws its curves next: keep them while there is room
        wanted = curves or key in _cached_curves or len(_cached_curves) < MAX_CACHED_CURVES
        known = _cached_logs[key] = _CachedLog(curves={} if wanted else None)
        if wanted:
            _cached_curves[key] = None
    if stamp[1] > known.offset:
        known.read_appended(path)
        # the facts of a run without a last event change at the next look
        if known.facts.end is not None:
            facts = _FACTS.dump_python(known.facts, mode="json")
            keep_fact(*_split_path(path), _KEPT_KIND, stamp, [known.offset, facts])
    _cached_logs.move_to_end(key)
    if curves:
        _cached_curves.move_to_end(key)
    if len(_cached_logs) > MAX_CACHED_RUNS:
        _cached_curves.pop(_cached_logs.popitem(last=False)[0], None)
    if len(_cached_curves) > MAX_CACHED_CURVES:
        _cached_logs[_cached_curves.popitem(last=False)[0]].curves = None
    return known
