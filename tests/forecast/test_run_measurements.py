"""Measurements of a run from its events: speed, memory, and the seconds of its phases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.forecast.test_forecast import config, scene
from toolkit.forecast.forecast import Correction, apply_correction, forecast_run
from toolkit.forecast.history import compare_with_prediction, median_correction
from toolkit.forecast.run_measurements import RunMeasurements, read_run_measurements
from toolkit.runs.events import encode_event
from toolkit.runs.run_dir import RunDir


def written(folder: Path, *events: tuple[float, str, dict[str, object]]) -> RunDir:
    lines = [
        encode_event({"n": n, "attempt": 1, "t": at, "kind": kind, **more}) for n, (at, kind, more) in enumerate(events)
    ]
    (folder / "events.jsonl").write_bytes(b"".join(lines))
    return RunDir(folder)


def log(at: float, tokens: int, speed: float, peak: int) -> tuple[float, str, dict[str, object]]:
    return at, "log", {"step": 1, "tokens": tokens, "tokens_per_second": speed, "peak_bytes": peak}


def test_the_phases_of_a_run_are_measured_separately(tmp_path: Path) -> None:
    run = written(
        tmp_path,
        (10.0, "started", {}),
        (10.1, "phase", {"phase": "preparing data"}),
        (11.0, "plan", {"process_bytes": 400, "precision": "bf16"}),
        (12.5, "phase", {"phase": "training"}),
        log(13, 100, 50.0, 700),
        log(14, 200, 100.0, 900),
        (14.0, "phase", {"phase": "evaluating"}),
        (15.0, "eval", {}),
        (16.0, "phase", {"phase": "training"}),
        log(18, 600, 200.0, 800),
        log(20, 800, 100.0, 800),
        (20.0, "phase", {"phase": "evaluating"}),
        (24.0, "phase", {"phase": "saving"}),
        (25.0, "phase", {"phase": "answering test rows"}),
        (31.0, "finished", {}),
    )
    found = read_run_measurements(run)
    assert found is not None
    assert (found.precision, found.process_bytes, found.peak_bytes) == ("bf16", 400.0, 900.0)
    assert found.tokens_per_second == pytest.approx(700 / (1 + 2 + 2))  # the first step is left out
    assert (found.starting, found.evaluation, found.ending) == (2.5, 3.0, 7.0)
    assert read_run_measurements(written(tmp_path, (10.0, "started", {}), log(13, 100, 50.0, 700))) is None


def test_each_phase_is_corrected_by_its_own_ratio() -> None:
    before = forecast_run(config(), scene())
    per_step = before.tokens / (before.steps / 2)
    real = RunMeasurements(
        precision="fp32",
        tokens_per_second=per_step / before.step_seconds / 2,
        process_bytes=5e8,
        peak_bytes=5.4e8 + 1.2 * (before.memory.peak - before.memory.process),
        starting=9.0 + before.by_size,
        evaluation=3 * before.times.evaluating / before.evaluations,
        ending=3 * before.times.ending,
    )
    seen = compare_with_prediction(before, real)
    after = apply_correction(before, median_correction([seen] * 3, before))
    assert after.times.training == pytest.approx(2 * before.times.training)
    assert after.times.evaluating == pytest.approx(3 * before.times.evaluating)
    assert after.times.ending == pytest.approx(3 * before.times.ending)
    assert after.times.starting == pytest.approx(9.0 + before.by_size)
    assert after.memory.peak == pytest.approx(real.peak_bytes)
    assert after.seconds == pytest.approx(after.times.total)
    assert median_correction([replace(seen, device="another")], before) == Correction()


def test_a_cold_start_or_many_evaluations_take_longer() -> None:
    ready, cold = forecast_run(config(), scene()), forecast_run(config(), scene(ready=False))
    assert cold.times.starting > ready.times.starting + 4
    assert (ready.evaluations, forecast_run(config(args={"eval_steps": 25}), scene()).evaluations) == (10, 10)
    often = forecast_run(config(args={"eval_steps": 10}), scene())
    assert often.evaluations == 25
    assert often.times.evaluating > 2 * ready.times.evaluating
    assert often.times.training == ready.times.training
