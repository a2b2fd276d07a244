"""How near the forecast comes: predicted against measured memory, step time and whole run over a grid of real runs.

    PYTHONPATH=. python -m benchmarks.forecast_accuracy [--part 1/3] [--seconds 240] [--json FILE] [--summary] [--again]

Every config of `forecast_grid.py` is trained by the real worker, from a run directory, as the app would start it (in a
fork of the spare; FTK_SPARE=0 starts each cold). What is measured is kept in --json after every run, and a later call
goes on with what is missing: in parts, or until --seconds are over. --summary measures nothing.

Predicted is what the app shows before Start: once as on a machine without a history, and once corrected as the app
does it, by the runs most like it among all *others* of the grid (leave one out; the app knows the newest 16 runs).
Memory is the worker's own peak (VmHWM on a CPU, torch's reserved bytes on a GPU). Time is seconds a token of training,
the first step left out, and seconds of the whole run from the worker's start to its end. Times need a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from benchmarks import forecast_grid as grid
from benchmarks.forecast_grid import Case
from tests.fakes.standby import standby_of
from toolkit.data.storage.open_table import open_table
from toolkit.forecast.forecast import Forecast, apply_correction, forecast_run
from toolkit.forecast.history import compare_with_prediction, median_correction
from toolkit.forecast.run_measurements import RunMeasurements, read_first_and_last_events, read_run_measurements
from toolkit.forecast.scene import NoForecast, scene_for
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import create_run
from toolkit.system.machine import probe_machine

FOLDER = Path("/tmp/forecast-grid")
Row = dict[str, Any]


def predict(case: Case, folder: Path) -> Forecast:
    """As on a machine that has trained nothing yet."""
    save_dir = folder / "save"
    config = grid.config_of(case, folder, save_dir)
    scene = scene_for(config, open_table(config.data, save_dir), probe_machine(save_dir))
    assert not isinstance(scene, NoForecast), scene.why
    return forecast_run(config, scene)


def measure(case: Case, folder: Path, supervisor: Supervisor) -> Row:
    """One real run: what its events say it took, and the machine's load meanwhile."""
    config = grid.config_of(case, folder, folder / "save")
    run = create_run(config, open_table(config.data, folder / "save"))
    if (spare := standby_of(supervisor)) is not None:
        spare._not_before = 0.0
        while spare.ready_server() is None:
            spare.maintain()
            time.sleep(0.2)
    end = supervisor.run_to_end(run, lambda status: None)
    found = read_run_measurements(run)
    if end.state != "finished" or found is None:
        raise SystemExit(f"{case.words} ended as {end.state}: {run.log_path.read_text()[-2000:]}")
    head, tail = read_first_and_last_events(run.events_path)
    return {**asdict(found), "seconds": tail[-1]["t"] - head[0]["t"], "load_average": os.getloadavg()[0]}


def judge(measured: Mapping[str, Row], folder: Path) -> list[Row]:
    """Ratios predicted / measured of each config, before and after the others have corrected it."""
    cases = {case.words: case for case in grid.cases() if case.words in measured}
    before = {words: predict(case, folder) for words, case in cases.items()}
    names = RunMeasurements.__dataclass_fields__
    real = {words: RunMeasurements(**{name: measured[words][name] for name in names}) for words in cases}
    seen = {words: compare_with_prediction(before[words], real[words]) for words in cases}
    rows = []
    for words in cases:
        others = [one for other, one in seen.items() if other != words]
        after = apply_correction(before[words], median_correction(others, before[words]))
        peak = real[words].gpu_peak_bytes or real[words].peak_bytes or 1.0
        rows.append({
            "case": words, "peak_mb": peak / 1e6, "seconds": measured[words]["seconds"],
            "memory_before": before[words].memory.peak / peak, "memory": after.memory.peak / peak,
            "time_before": seconds_a_token(before[words]) * real[words].tokens_per_second,
            "time": seconds_a_token(after) * real[words].tokens_per_second,
            "run_before": before[words].seconds / measured[words]["seconds"],
            "run": after.seconds / measured[words]["seconds"],
        })  # fmt: skip
    return rows


def seconds_a_token(found: Forecast) -> float:
    epochs = found.config.training.training_args.num_train_epochs or 1
    return found.step_seconds * found.steps / epochs / max(found.tokens, 1)


def figures(rows: Sequence[Row], name: str) -> dict[str, float]:
    errors = [row[name] - 1 for row in rows]
    return {
        "median_off": round(statistics.median(map(abs, errors)), 3), "worst_under": round(min(errors), 3),
        "worst_over": round(max(errors), 3),
    }  # fmt: skip


def summary(measured: Mapping[str, Row], folder: Path) -> dict[str, Any]:
    rows = judge(measured, folder)
    names = ("memory_before", "memory", "time_before", "time", "run_before", "run")
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "configs": f"{len(rows)} of {len(grid.cases())}",
        "load_average": round(statistics.median(row["load_average"] for row in measured.values()), 2),
        "figures": {name: figures(rows, name) for name in names if len(rows) > 1},
        "ratios": [{key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()} for row in rows],
        "measured": dict(measured),
    }  # fmt: skip


def show(found: Mapping[str, Any]) -> None:
    """A line a config, predicted / measured; then the figures."""
    print(f"{'predicted / measured':66} {'memory':>13} {'time':>13} {'whole run':>13}   (before, after calibration)")
    for row in found["ratios"]:
        pairs = (f"{row[f'{name}_before']:6.2f} {row[name]:6.2f}" for name in ("memory", "time", "run"))
        print(f"{row['case']:66} {' '.join(pairs)}   {row['peak_mb']:5.0f} MB {row['seconds']:5.1f} s")
    print(json.dumps({name: value for name, value in found.items() if name not in ("ratios", "measured")}, indent=1))


def wanted(measured: Mapping[str, Row], part: str, *, again: bool) -> list[Case]:
    """The configs to measure in this call."""
    at, parts = (int(number) for number in part.split("/"))
    return [case for case in grid.cases()[at - 1 :: parts] if again or case.words not in measured]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="1/1", help="e.g. 2/3: every third config from the second on")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further run after so long")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/forecast.json"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for models, rows and runs; kept")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    given = parser.parse_args()
    folder = grid.make(given.folder)
    measured = json.loads(given.json.read_text())["measured"] if given.json.exists() else {}
    supervisor, began = Supervisor(folder / "save"), time.monotonic()
    for case in [] if given.summary else wanted(measured, given.part, again=given.again):
        if time.monotonic() - began > given.seconds:
            break
        measured[case.words] = measure(case, folder, supervisor)
        print(f"{case.words}: {measured[case.words]['seconds']:.1f} s", flush=True)
        given.json.write_text(json.dumps({"measured": measured}, indent=1) + "\n")
    supervisor.launcher.close()
    found = summary(measured, folder)
    show(found)
    given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
