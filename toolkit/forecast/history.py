"""What this machine's earlier runs took, against what was predicted for them: the correction of the next forecast.

A run is looked at once and remembered; a look takes in a few runs more, so that no page waits for all of them.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.forecast.costs.memory import PROCESS_BYTES, RUNTIME_BYTES
from toolkit.forecast.costs.step_time import batch_flops
from toolkit.forecast.forecast import Correction, Forecast, Scene, forecast_run
from toolkit.forecast.run_measurements import RunMeasurements, read_run_measurements, run_has_completed
from toolkit.forecast.scene import NoForecast, scene_of_run
from toolkit.runs.run_dir import RunDir, list_runs, read_run_config
from toolkit.system.machine import Machine

MAX_OBSERVED_RUNS, NEW_RUNS_PER_CALL, NEAREST_RUNS = 16, 2, 5
MIN_COMPARABLE_BYTES = 200_000_000
MIN_MEMORY_FACTOR, MAX_MEMORY_FACTOR = 0.92, 1.4
"""Of a correction of memory: too much promised costs a run, too little only a setting that is asked for in vain."""
logger = logging.getLogger(__name__)
_observed: dict[tuple[str, str], RunObservation | None] = {}


@dataclass(frozen=True)
class RunObservation:
    """One run. time, memory, rest: measured / predicted, rest of all time between starting and training steps;
    process_bytes: before its model was there; starting: seconds, of which what its size explains is taken off;
    flops: of a batch."""

    device: str
    precision: str
    flops: float
    time: float
    memory: float | None
    process_bytes: float | None
    starting: float | None = None
    rest: float | None = None


def find_correction(save_dir: Path, now: Forecast, machine: Machine | None) -> Correction:
    """What the runs most like the forecast one say; neutral while there is none."""
    return median_correction(observe_recent_runs(save_dir, machine), now)


def median_correction(known: Sequence[RunObservation], now: Forecast) -> Correction:
    """The medians over the runs on the same device whose batches are nearest in size."""
    found = [one for one in known if one.device == _device_name(now.scene)]
    alike = [one for one in found if one.precision == now.load.precision] or found
    if not alike:
        return Correction()
    size = batch_flops(now.scene.shape, now.adapter, now.load)
    nearest = sorted(alike, key=lambda one: abs(math.log(one.flops / size)))[:NEAREST_RUNS]
    return Correction(
        time=statistics.median(one.time for one in nearest),
        memory=min(max(_median([one.memory for one in nearest]) or 1.0, MIN_MEMORY_FACTOR), MAX_MEMORY_FACTOR),
        process_bytes=_median([one.process_bytes for one in nearest]),
        starting=_median([one.starting for one in nearest]),
        rest=_median([one.rest for one in nearest]) or 1.0,
        runs=len(nearest),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def observe_recent_runs(save_dir: Path, machine: Machine | None) -> list[RunObservation]:
    """Of the newest runs; those not seen before are looked at a few at a time."""
    fresh = NEW_RUNS_PER_CALL
    for run in list_runs(save_dir)[:MAX_OBSERVED_RUNS]:
        key = (str(save_dir), run.id)
        if key in _observed or not fresh or not run_has_completed(run):
            continue
        fresh -= 1
        try:
            _observed[key] = observe_run(run, machine)
        except (ToolkitError, OSError, ValueError, KeyError) as error:
            logger.info("run %s teaches nothing: %s", run.id, error)
            _observed[key] = None
    known = (_observed.get((str(save_dir), run.id)) for run in list_runs(save_dir)[:MAX_OBSERVED_RUNS])
    return [one for one in known if one is not None]


def observe_run(run: RunDir, machine: Machine | None) -> RunObservation | None:
    """One run's figures, or None when it was too short. Raises ToolkitError when its files can't be read."""
    found = read_run_measurements(run)
    scene = scene_of_run(run, machine) if found is not None else None
    if found is None or scene is None or isinstance(scene, NoForecast):
        return None
    return compare_with_prediction(forecast_run(read_run_config(run), scene), found)


def compare_with_prediction(predicted: Forecast, found: RunMeasurements) -> RunObservation:
    """What a run took against what was predicted for it, uncorrected."""
    scene = predicted.scene
    speed = predicted.tokens / max(predicted.steps / _epochs(predicted), 1) / predicted.step_seconds
    return RunObservation(
        device=_device_name(scene),
        precision=found.precision or predicted.load.precision,
        flops=batch_flops(scene.shape, predicted.adapter, predicted.load),
        time=speed / found.tokens_per_second,
        memory=_memory_ratio(predicted, found),
        process_bytes=found.process_bytes,
        starting=None if found.starting is None else max(found.starting - predicted.by_size, 0.0),
        rest=_rest_ratio(predicted, found),
    )


def _memory_ratio(predicted: Forecast, found: RunMeasurements) -> float | None:
    peak = found.gpu_peak_bytes if predicted.scene.place.cuda else found.peak_bytes
    if peak is None:
        return None
    process = (found.process_bytes or PROCESS_BYTES) + RUNTIME_BYTES
    beyond = predicted.memory.peak - predicted.memory.process
    # a run that needs little beside its process says nothing about a larger one
    return (peak - process) / beyond if beyond > MIN_COMPARABLE_BYTES else None


def _rest_ratio(predicted: Forecast, found: RunMeasurements) -> float | None:
    if found.evaluation is None or found.ending is None:
        return None
    times = predicted.times
    return (found.evaluation * predicted.evaluations + found.ending) / (times.evaluating + times.ending)


def _epochs(predicted: Forecast) -> int:
    return predicted.config.training.training_args.num_train_epochs or 1


def _device_name(scene: Scene) -> str:
    return scene.gpu_name or f"cpu x{scene.threads}"
