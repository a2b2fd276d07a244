"""Kills `python -m toolkit follow` again and again while a log grows, and counts lost and doubled points at the end.

    python -m benchmarks.follow_kills [--kills 100] [--seed 1] [--wandb]

The follower is the real command, killed with SIGKILL between 0 and 1.5 seconds after it has begun; the log is written
by this process as a worker writes it. With --wandb an offline run of Weights & Biases is written as well.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.fakes.tracker_files import Point, read_mlflow_points, read_tensorboard_points, read_wandb_points
from toolkit.config import Config
from toolkit.runs.events import EventWriter, collect_series, read_events
from toolkit.runs.run_dir import RunDir, create_run

STEPS_A_KILL = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wandb", action="store_true")
    args = parser.parse_args()
    chance, began = random.Random(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FTK_STATE_DIR"] = str(folder / "state")
        run = create_run(Config(save_dir=str(folder / "save")), None, name="followed")
        command = [
            *(sys.executable, "-m", "toolkit", "follow", run.id, "--save-dir", str(folder / "save")),
            *("--tensorboard", str(folder / "board"), "--mlflow", str(folder / "ml")),
            *(("--wandb", str(folder / "wb")) if args.wandb else ()),
        ]
        for number in range(args.kills):
            write_steps(run, range(number * STEPS_A_KILL, (number + 1) * STEPS_A_KILL))
            follower = start_follower(command, folder / "follow.log")
            time.sleep(chance.uniform(0, 1.5))
            follower.kill()
            follower.wait()
        with EventWriter(run.events_path) as events:
            events.append("finished", step=args.kills * STEPS_A_KILL, message="", hint="")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)
        expected = collections.Counter(
            (one, step, to_float32(value))
            for one, column in collect_series(read_events(run.events_path)[0]).items()
            for step, value in column
        )
        figures = {
            "kills": args.kills,
            "points": expected.total(),
            "seconds": round(time.monotonic() - began, 1),
            "TensorBoard": compare_points(read_tensorboard_points(folder / "board" / run.id), expected),
            "MLflow": compare_points(read_mlflow_points(folder / "ml"), expected),
        }
        if args.wandb:
            figures["Weights & Biases"] = compare_points(read_wandb_points(folder / "wb"), expected)
    print(json.dumps(figures, indent=1))


def write_steps(run: RunDir, steps: range) -> None:
    with EventWriter(run.events_path) as events:
        for step in steps:
            events.append("log", step=step, loss=1.0 / (step + 1), grad_norm=float(step))


def start_follower(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start the command, and return it once it follows the run."""
    with log.open("wb") as file:
        follower = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    while b"Following" not in log.read_bytes():
        if follower.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.02)
    return follower


def compare_points(found: list[Point], expected: collections.Counter[Point]) -> dict[str, int]:
    there = collections.Counter((name, step, to_float32(value)) for name, step, value in found)
    return {"lost": (expected - there).total(), "doubled or wrong": (there - expected).total()}


def to_float32(value: float) -> float:
    """Return the nearest number that TensorBoard can store."""
    return float(np.float32(value))


if __name__ == "__main__":
    main()
