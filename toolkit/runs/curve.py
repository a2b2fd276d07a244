"""A series of numbers by step, held as two arrays: fifty thousand points cost little to keep and to add to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

CurvePoint = tuple[int, float]
_Numbers = np.ndarray[Any, np.dtype[Any]]


class Curve(Sequence[CurvePoint]):
    """(step, value) by rising step, held as two arrays. Never changed: what is new makes another one."""

    def __init__(self, steps: _Numbers, values: _Numbers) -> None:
        self.steps, self.values = steps, values

    @classmethod
    def of(cls, points: Sequence[CurvePoint]) -> Curve:
        """These points as a curve; a curve is itself."""
        if isinstance(points, Curve):
            return points
        steps, values = zip(*points, strict=True) if points else ((), ())
        return cls.from_columns(steps, values)

    @classmethod
    def from_columns(cls, steps: Sequence[int], values: Sequence[float]) -> Curve:
        """By rising step, as many of the one as of the other."""
        return cls(np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=float))

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, at: int) -> CurvePoint: ...
    @overload
    def __getitem__(self, at: slice) -> Curve: ...
    def __getitem__(self, at: int | slice) -> CurvePoint | Curve:
        if isinstance(at, slice):
            return Curve(self.steps[at], self.values[at])
        return int(self.steps[at]), float(self.values[at])

    def __iter__(self) -> Iterator[CurvePoint]:
        return zip(self.steps.tolist(), self.values.tolist(), strict=True)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Curve):
            return np.array_equal(self.steps, other.steps) and np.array_equal(self.values, other.values)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def updated_with(self, new: Curve) -> Curve:
        """With these points, which replace those of the same steps: a step that a later attempt replayed."""
        replayed = bool(len(self) and len(new) and new.steps[0] <= self.steps[-1])
        keep = ~np.isin(self.steps, new.steps) if replayed else slice(None)
        steps = np.concatenate([self.steps[keep], new.steps])
        values = np.concatenate([self.values[keep], new.values])
        order = np.argsort(steps, kind="stable") if replayed else slice(None)
        return Curve(steps[order], values[order])
