"""A run's curves for the screen: read on from where the last look ended, smoothed, and thinned with spikes kept.

Knows events and numbers, no chart library. Fifty thousand points cost a few milliseconds a look: they are held as
arrays, and only what is new is read and put at their end.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from toolkit.runs.events import read_events, series

Point = tuple[int, float]
Numbers = np.ndarray[Any, np.dtype[Any]]
MAX_POINTS = 500
REMEMBERED = 50


class Curve(Sequence[Point]):
    """(step, value) by rising step, held as two arrays. Never changed: what is new makes another one."""

    def __init__(self, steps: Numbers, values: Numbers) -> None:
        self.steps, self.values = steps, values

    @classmethod
    def of(cls, points: Sequence[Point]) -> Curve:
        """These points as a curve; a curve is itself."""
        if isinstance(points, Curve):
            return points
        steps, values = zip(*points, strict=True) if points else ((), ())
        return cls(np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=float))

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, at: int) -> Point: ...
    @overload
    def __getitem__(self, at: slice) -> Curve: ...
    def __getitem__(self, at: int | slice) -> Point | Curve:
        if isinstance(at, slice):
            return Curve(self.steps[at], self.values[at])
        return int(self.steps[at]), float(self.values[at])

    def __iter__(self) -> Iterator[Point]:
        return zip(self.steps.tolist(), self.values.tolist(), strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def with_new(self, new: Curve) -> Curve:
        """With these points, which replace those of the same steps: a step that a later attempt replayed."""
        kept = self
        if len(self) and len(new) and new.steps[0] <= self.steps[-1]:
            keep = ~np.isin(self.steps, new.steps)
            kept = Curve(self.steps[keep], self.values[keep])
        steps, values = np.concatenate([kept.steps, new.steps]), np.concatenate([kept.values, new.values])
        order = np.argsort(steps, kind="stable")
        return Curve(steps[order], values[order])


class _Reader:
    """Follows one events file; holds the latest value of every series at every step."""

    def __init__(self) -> None:
        self.offset = 0
        self.curves: dict[str, Curve] = {}

    def read_on(self, path: Path) -> None:
        if path.exists() and path.stat().st_size < self.offset:
            self.offset, self.curves = 0, {}  # a torn tail was cut off: look again from the start
        new, self.offset = read_events(path, self.offset)
        for name, points in series(new).items():
            found = Curve.of(points)
            self.curves[name] = self.curves[name].with_new(found) if name in self.curves else found


_known: OrderedDict[Path, _Reader] = OrderedDict()
_guard = threading.Lock()


def curves(events_path: Path) -> dict[str, Curve]:
    """Every series of a run as (step, value) by rising step. Costs only what is new since the last call."""
    with _guard:
        reader = _known.setdefault(events_path, _Reader())
        _known.move_to_end(events_path)
        while len(_known) > REMEMBERED:
            _known.popitem(last=False)
        reader.read_on(events_path)
        return dict(reader.curves)


def smooth(points: Sequence[Point], weight: float) -> Curve:
    """An exponential moving average without the pull towards zero at the start; weight 0 changes nothing, < 1."""
    curve = Curve.of(points)
    if not weight or not len(curve):
        return curve
    powers = weight ** np.arange(len(curve) + 1)
    # the average of a stretch is a product with one small matrix; what came before fades into it
    size = min(64, len(curve))
    gaps = np.subtract.outer(np.arange(size), np.arange(size))
    inside = np.where(gaps >= 0, powers[np.abs(gaps)], 0.0) * (1 - weight)
    padded = np.zeros(-(-len(curve) // size) * size)
    padded[: len(curve)] = curve.values
    within = padded.reshape(-1, size) @ inside.T
    carried, total = np.empty(len(within)), 0.0
    for number, last in enumerate(within[:, -1].tolist()):
        carried[number] = total
        total = last + powers[size] * total
    totals = (within + np.outer(carried, powers[1 : size + 1])).reshape(-1)[: len(curve)]
    return Curve(curve.steps, totals / (1 - powers[1:]))


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points (at least 4): the first, the last, and the lowest and highest of each stretch between."""
    if len(points) <= limit:
        return list(points)
    curve = Curve.of(points)
    stretches = (limit - 2) // 2
    bounds = 1 + (len(curve) - 2) * np.arange(stretches + 1) // stretches
    kept = [0]
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = curve.values[start:end]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return [curve[at] for at in [*kept, len(curve) - 1]]
