"""Finished runs on this machine compared with their forecasts: the correction of the next forecast.

Each run is read once and kept in memory. A call reads only a few new runs, so that no page waits for all of them.
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
"""The newest runs that count; those that one call reads; those, nearest in size, whose medians correct a forecast."""
MIN_COMPARABLE_BYTES = 200_000_000
"""Predicted memory beyond the process; below it, noise of the process decides the ratio."""
MIN_MEMORY_FACTOR, MAX_MEMORY_FACTOR = 0.92, 1.4
"""Limits of the correction of memory. Too low a forecast costs a run, too high only an unnecessary setting."""
logger = logging.getLogger(__name__)
_observed: dict[tuple[str, str], RunObservation | None] = {}


@dataclass(frozen=True)
class RunObservation:
    """One finished run compared with its forecast.

    flops: of the largest batch. time, memory, rest: measured / predicted, for training steps, memory beyond the
    process, and evaluation plus final phase. process_bytes: of the process before it had a model. starting: seconds
    without those that the size of the run explains.
    """

    device: str
    precision: str
    flops: float
    time: float
    memory: float | None
    process_bytes: float | None
    starting: float | None = None
    rest: float | None = None


def find_correction(save_dir: Path, predicted: Forecast, machine: Machine | None) -> Correction:
    """Return the correction from the runs most similar to the forecast; neutral without such runs."""
    return median_correction(observe_recent_runs(save_dir, machine), predicted)


def median_correction(observations: Sequence[RunObservation], predicted: Forecast) -> Correction:
    """Return the medians over the runs on the same device that are nearest in size.

    Runs of the same precision are preferred. Distance is the ratio of the FLOPs of a batch.
    """
    same_device = [run for run in observations if run.device == _device_name(predicted.scene)]
    comparable = [run for run in same_device if run.precision == predicted.load.precision] or same_device
    if not comparable:
        return Correction()
    size = batch_flops(predicted.scene.shape, predicted.adapter, predicted.load)
    nearest = sorted(comparable, key=lambda run: abs(math.log(run.flops / size)))[:NEAREST_RUNS]
    return Correction(
        time=statistics.median(run.time for run in nearest),
        memory=min(max(_median([run.memory for run in nearest]) or 1.0, MIN_MEMORY_FACTOR), MAX_MEMORY_FACTOR),
        process_bytes=_median([run.process_bytes for run in nearest]),
        starting=_median([run.starting for run in nearest]),
        rest=_median([run.rest for run in nearest]) or 1.0,
        runs=len(nearest),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def observe_recent_runs(save_dir: Path, machine: Machine | None) -> list[RunObservation]:
    """Return the observations of the newest runs; at most NEW_RUNS_PER_CALL of them are read now."""
    new_runs_left = NEW_RUNS_PER_CALL
    for run in list_runs(save_dir)[:MAX_OBSERVED_RUNS]:
        key = (str(save_dir), run.id)
        if key in _observed or not new_runs_left or not run_has_completed(run):
            continue
        new_runs_left -= 1
        try:
            _observed[key] = observe_run(run, machine)
        except (ToolkitError, OSError, ValueError, KeyError) as error:
            logger.info("run %s is not used to correct forecasts: %s", run.id, error)
            _observed[key] = None
    cached = (_observed.get((str(save_dir), run.id)) for run in list_runs(save_dir)[:MAX_OBSERVED_RUNS])
    return [observation for observation in cached if observation is not None]


def observe_run(run: RunDir, machine: Machine | None) -> RunObservation | None:
    """Return a run's observation, or None if it was too short. Raises ToolkitError if its files cannot be read."""
    measured = read_run_measurements(run)
    scene = scene_of_run(run, machine) if measured is not None else None
    if measured is None or scene is None or isinstance(scene, NoForecast):
        return None
    return compare_with_prediction(forecast_run(read_run_config(run), scene), measured)


def compare_with_prediction(predicted: Forecast, measured: RunMeasurements) -> RunObservation:
    """Compare the measurements of a run with its uncorrected forecast."""
    scene = predicted.scene
    speed = predicted.tokens / max(predicted.epoch_steps, 1) / predicted.step_seconds
    return RunObservation(
        device=_device_name(scene),
        precision=measured.precision or predicted.load.precision,
        flops=batch_flops(scene.shape, predicted.adapter, predicted.load),
        time=speed / measured.tokens_per_second,
        memory=_memory_ratio(predicted, measured),
        process_bytes=measured.process_bytes,
        starting=None if measured.starting is None else max(measured.starting - predicted.by_size, 0.0),
        rest=_rest_ratio(predicted, measured),
    )


def _memory_ratio(predicted: Forecast, measured: RunMeasurements) -> float | None:
    peak = measured.gpu_peak_bytes if predicted.scene.place.cuda else measured.peak_bytes
    if peak is None:
        return None
    process = (measured.process_bytes or PROCESS_BYTES) + RUNTIME_BYTES
    beyond = predicted.memory.peak - predicted.memory.process
    # a run that needs little memory beyond its process says nothing about a larger one
    return (peak - process) / beyond if beyond > MIN_COMPARABLE_BYTES else None


def _rest_ratio(predicted: Forecast, measured: RunMeasurements) -> float | None:
    if measured.evaluation is None or measured.ending is None:
        return None
    times = predicted.times
    return (measured.evaluation * predicted.evaluations + measured.ending) / (times.evaluating + times.ending)


def _device_name(scene: Scene) -> str:
    return scene.gpu_name or f"cpu x{scene.threads}"
