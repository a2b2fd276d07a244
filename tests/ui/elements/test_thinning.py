"""Curves for the screen: thinning keeps spikes, and smoothing has no bias towards zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.runs.event_facts import Curve
from toolkit.ui.elements.thinning import smooth_curve, thin_curve, whole_strides

VALUES = st.lists(st.floats(-1e6, 1e6), max_size=3000)


@given(VALUES, st.integers(4, 500))
def test_thinning_keeps_ends_extremes_and_order(values: list[float], limit: int) -> None:
    points = list(enumerate(values))
    kept = thin_curve(points, limit)
    assert len(kept) <= max(limit, len(points) if len(points) <= limit else 0)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        for end in (min, max):
            assert end(value for _, value in kept) == end(values)


def test_thinning_keeps_a_single_spike() -> None:
    points = [(step, 1.0) for step in range(100_000)]
    points[77_777] = (77_777, 99.0)
    assert (77_777, 99.0) in thin_curve(points)


def test_smoothing_keeps_a_constant_curve_and_weight_zero_changes_nothing() -> None:
    points = [(1, 4.0), (2, 4.0), (3, 4.0)]
    assert smooth_curve(points, 0.0) == points
    assert [round(value, 9) for _, value in smooth_curve(points, 0.9)] == [4.0, 4.0, 4.0]
    assert smooth_curve([], 0.5) == []


def test_a_long_curve_grows_by_whole_strides() -> None:
    def shown(count: int) -> int:
        return len(whole_strides(Curve.from_points([(step, 1.0) for step in range(count)])))

    assert [shown(count) for count in (0, 1, 999)] == [0, 1, 999]
    assert shown(50_000) == shown(50_099) == 50_000
    assert shown(50_100) == 50_100


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=3000), st.sampled_from((0.02, 0.6, 0.98)))
def test_smoothing_equals_the_bias_corrected_recursion(values: list[float], weight: float) -> None:
    total, expected = 0.0, []
    for number, value in enumerate(values, start=1):
        total = weight * total + (1 - weight) * value
        expected.append(total / (1 - weight**number))
    assert smooth_curve(list(enumerate(values)), weight).values.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
