"""Smoothing and thinning of a run's curves for the screen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from toolkit.runs.event_facts import Curve, CurvePoint

MAX_POINTS, MAX_POINTS_SMALL = 500, 150
"""Points of a curve in a chart of the full page width, and in one of several small charts in a row."""


def whole_strides(curve: Curve, limit: int = MAX_POINTS) -> Curve:
    """Return the curve without the newest points that would not move a pixel, so that an unchanged chart is not resent.

    A curve with fewer than two points for each of the `limit` drawn ones is returned whole.
    """
    stride = max(1, len(curve) // limit)
    return curve[: len(curve) - len(curve) % stride]


def smooth_curve(points: Sequence[CurvePoint], weight: float) -> Curve:
    """Return the exponential moving average of the curve, with the bias towards zero at its start corrected.

    weight: of the past, 0 (no smoothing) to below 1.
    """
    curve = Curve.from_points(points)
    if not weight or not len(curve):
        return curve
    return Curve(curve.steps, pd.Series(curve.values).ewm(alpha=1 - weight).mean().to_numpy())


def thin_curve(points: Sequence[CurvePoint], limit: int = MAX_POINTS) -> Curve:
    """Return at most `limit` points (at least 4): the first, the last, and minimum and maximum of each part between."""
    curve = Curve.from_points(points)
    if len(curve) <= limit:
        return curve
    parts = (limit - 2) // 2
    bounds = 1 + (len(curve) - 2) * np.arange(parts + 1) // parts
    kept = [0]
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = curve.values[start:end]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    kept.append(len(curve) - 1)
    return Curve(curve.steps[kept], curve.values[kept])
