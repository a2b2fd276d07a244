"""A metric by step, held as two arrays so that long runs (50,000 points) take little memory and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

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
