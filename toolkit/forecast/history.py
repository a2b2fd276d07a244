"""What this machine's earlier runs took, against what was predicted for them: the correction of the next forecast.

A run is looked at once and remembered; a look takes in a few runs more, so that no page waits for all of them.
Reads the ends of event files, never whole ones.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.forecast.forecast import Correction, Forecast, Scene, forecast
from toolkit.forecast.memory import PROCESS_BYTES, RUNTIME_BYTES
from toolkit.forecast.pace import batch_flops
from toolkit.forecast.scene import Unknown, scene_of_run
from toolkit.runs.events import Event, is_number, read_events
from toolkit.runs.machine import Machine
from toolkit.runs.rundir import RunDir, list_runs, read_config

RUNS, A_LOOK, NEAREST = 16, 2, 5
TAIL_BYTES, HEAD_BYTES = 65_536, 16_384
FEWEST_LOGS = 4
TELLING_BYTES = 200_000_000
_LOG = logging.getLogger(__name__)
_seen: dict[tuple[str, str], Observation | None] = {}


@dataclass(frozen=True)
class Observation:
    """One run. time, memory: measured / predicted; process_bytes: before its model was there; flops: of a batch."""

    device: str
    precision: str
    flops: float
    time: float
    memory: float | None
    process_bytes: float | None


def correction(save_dir: Path, now: Forecast, machine: Machine | None) -> Correction:
    """What the runs most like the forecast one say; neutral while there is none."""
    found = [one for one in observations(save_dir, machine) if one.device == _device(now.scene)]
    alike = [one for one in found if one.precision == now.load.precision] or found
    if not alike:
        return Correction()
    size = batch_flops(now.scene.shape, now.adapter, now.load)
    nearest = sorted(alike, key=lambda one: abs(math.log(one.flops / size)))[:NEAREST]
    memory = [one.memory for one in nearest if one.memory is not None]
    process = [one.process_bytes for one in nearest if one.process_bytes is not None]
    return Correction(
        time=statistics.median(one.time for one in nearest),
        memory=min(max(statistics.median(memory), 0.85), 1.4) if memory else 1.0,
        process_bytes=statistics.median(process) if process else None,
        runs=len(nearest),
    )


def observations(save_dir: Path, machine: Machine | None) -> list[Observation]:
    """Of the newest runs; those not seen before are looked at a few at a time."""
    fresh = A_LOOK
    for run in list_runs(save_dir)[:RUNS]:
        key = (str(save_dir), run.id)
        if key in _seen or not fresh or not _is_over(run):
            continue
        fresh -= 1
        try:
            _seen[key] = observe(run, machine)
        except (ToolkitError, OSError, ValueError, KeyError) as error:
            _LOG.info("run %s teaches nothing: %s", run.id, error)
            _seen[key] = None
    known = (_seen.get((str(save_dir), run.id)) for run in list_runs(save_dir)[:RUNS])
    return [one for one in known if one is not None]


def observe(run: RunDir, machine: Machine | None) -> Observation | None:
    """One run's figures, or None when it was too short. Raises ToolkitError when its files can't be read."""
    head, tail = _ends(run.events_path)
    logs = [event for event in tail if event["kind"] == "log" and is_number(event.get("tokens_per_second"))]
    plan = next((event for event in head if event["kind"] == "plan"), None)
    if plan is None or len(logs) < FEWEST_LOGS:
        return None
    scene = scene_of_run(run, machine)
    if isinstance(scene, Unknown):
        return None
    predicted = forecast(read_config(run), scene)
    speed = predicted.tokens / max(predicted.steps / _epochs(predicted), 1) / predicted.step_seconds
    measured = statistics.harmonic_mean([max(float(log["tokens_per_second"]), 1e-3) for log in logs[1:]])
    return Observation(
        device=_device(scene),
        precision=str(plan.get("precision", predicted.load.precision)),
        flops=batch_flops(scene.shape, predicted.adapter, predicted.load),
        time=speed / measured,
        memory=_memory_ratio(predicted, plan, logs),
        process_bytes=_number(plan.get("process_bytes")),
    )


def _memory_ratio(predicted: Forecast, plan: Event, logs: Iterable[Event]) -> float | None:
    name = "gpu_peak_bytes" if predicted.scene.place.cuda else "peak_bytes"
    peaks = [float(log[name]) for log in logs if is_number(log.get(name))]
    if not peaks:
        return None
    process = (_number(plan.get("process_bytes")) or PROCESS_BYTES) + RUNTIME_BYTES
    beyond = predicted.memory.peak - predicted.memory.process
    # a run that needs little beside its process says nothing about a larger one
    return (max(peaks) - process) / beyond if beyond > TELLING_BYTES else None


def _epochs(predicted: Forecast) -> int:
    return predicted.config.training.training_args.num_train_epochs or 1


def _device(scene: Scene) -> str:
    return scene.gpu_name or f"cpu x{scene.threads}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and is_number(value) else None


def _is_over(run: RunDir) -> bool:
    _, tail = _ends(run.events_path)
    return bool(tail) and tail[-1]["kind"] in ("finished", "stopped")


def _ends(path: Path) -> tuple[list[Event], list[Event]]:
    """(the first events, the last ones); the same for a short file."""
    if not path.exists():
        return [], []
    size = path.stat().st_size
    tail, _ = read_events(path, max(0, size - TAIL_BYTES))
    if size <= TAIL_BYTES:
        return tail, tail
    with path.open("rb") as file:
        lines = file.read(HEAD_BYTES).split(b"\n")[:-1]
    return [json.loads(line) for line in lines if line], tail
