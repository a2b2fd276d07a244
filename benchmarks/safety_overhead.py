"""What the safety of a run costs: the same training with it and without, in turns; and what its code itself takes.

    python -m benchmarks.safety_overhead [--pairs-seconds 200] [--long-seconds 70] [--json FILE]

The default run of the app (bundled demo model and dataset, one thread), from its first step to the end of training, so
without imports, loading and scoring, which are the same. "With": as it ships. "Without": no checkpoint, no fsync, no
space put aside, nobody watching the loss or looking for a stop. Two figures, because a busy machine spoils the first:

paired   pairs of runs, which of the two goes first alternating, for so many seconds: the ratio of a pair's processor
         seconds and of its wall-clock seconds, as median, quartiles and range
inside   in every run "with", and in one longer one: the seconds that pass inside its own code (checkpoints with
         their hashes and fsyncs, the other fsyncs, the watch over the loss, the looks for a stop) over all seconds

Ends with 1 when the share inside the longer run is 2 % or more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tests.fakes.training import events_of, train_here
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.runs.run_dir import create_run

LIMIT = 0.02
RUN_SECONDS = 8.0
"""A run of a pair takes about so long: long enough for a checkpoint of its own choosing."""


class Inside:
    """Seconds of wall clock that pass inside the functions it is put around; one inside another counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._deep = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            if self._deep:
                return function(*args, **more)
            self._deep, began = True, time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                self._deep = False
                self.seconds += time.perf_counter() - began

        return timed


def safety() -> list[tuple[Any, str, Callable[..., Any]]]:
    """Every function that is there for safety alone, with what stands in its place without it."""
    from toolkit.runs.events import EventWriter
    from toolkit.worker.checkpoints.checkpointed_trainer import CheckpointWriter
    from toolkit.worker.checkpoints.pace import CheckpointPace
    from toolkit.worker.process.stop import StopSignal
    from toolkit.worker.training.loss_watch import ExplosionDetector, LossWatch

    return [
        (CheckpointWriter, "save_checkpoint", lambda self, trainer: None),
        (os, "fsync", lambda handle: None),
        (EventWriter, "reserve_space", lambda self: None),
        (LossWatch, "record_loss", lambda self, loss, step: None),
        (LossWatch, "first_non_finite_step", lambda self: None),
        (ExplosionDetector, "is_exploding", lambda self, loss: False),
        (CheckpointPace, "due", lambda self, step: False),
        (CheckpointPace, "due_before", lambda self, seconds: False),
        (StopSignal, "is_requested", lambda self: False),
    ]


@contextmanager
def arranged(safe: bool, inside: Inside) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, without in safety():
            stack.enter_context(patch.object(owner, name, inside.around(getattr(owner, name)) if safe else without))
        yield


def once(save_dir: Path, epochs: int, safe: bool, rows: int | None = None) -> dict[str, float]:
    """One training: its wall-clock and processor seconds, checkpoints, and seconds inside the safety's code."""
    from toolkit.worker.training import session
    from toolkit.worker.training.attempt import TrainingAttempt

    training = {"training_args": {"num_train_epochs": epochs}, "pinned_rows": 0}
    data = {} if rows is None else {"train_size": rows, "test_size": 8}
    config = Config.model_validate({"save_dir": str(save_dir), "data": data, "training": training})
    run = create_run(config, open_table(config.data, save_dir))
    seconds: dict[str, float] = {}
    fit, inside = TrainingAttempt.fit, Inside()

    def timed(self: Any) -> None:
        with arranged(safe, inside):
            began, used = time.perf_counter(), time.process_time()
            fit(self)
            seconds.update(wall=time.perf_counter() - began, cpu=time.process_time() - used)

    unscored = patch.object(session, "_answer_test_rows", lambda session, *_: session_end(session))
    with patch.object(TrainingAttempt, "fit", timed), unscored:
        code, events = train_here(run)
    assert code == 0, events[-1]
    return {**seconds, "checkpoints": len(events_of(run, "saved")), "inside": inside.seconds}


def session_end(session: Any) -> Any:
    from toolkit.worker.training.session_context import SessionEnd

    del session
    return SessionEnd("finished", 0)


def spread(numbers: Sequence[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    found = {"median": middle, "lower_quartile": low, "upper_quartile": high, "min": min(numbers), "max": max(numbers)}
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs-seconds", type=float, default=200)
    parser.add_argument("--long-seconds", type=float, default=70)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    pairs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FTK_STATE_DIR"] = str(Path(folder) / "state")
        once(Path(folder) / "imports", 1, safe=True, rows=32)
        epoch = once(Path(folder) / "warm", 1, safe=True)["wall"]  # and the cache of tokenised rows
        epochs, began = max(1, round(RUN_SECONDS / epoch)), time.monotonic()
        while len(pairs) < 2 or time.monotonic() - began < chosen.pairs_seconds:
            order = (True, False) if len(pairs) % 2 else (False, True)
            found = {safe: once(Path(folder) / f"{len(pairs)}-{safe}", epochs, safe) for safe in order}
            ratios = {f"{name}_ratio": found[True][name] / found[False][name] for name in ("cpu", "wall")}
            pairs.append({"with": found[True], "without": found[False], **ratios})
            print({name: round(value, 4) for name, value in ratios.items()}, flush=True)
        long = once(Path(folder) / "long", max(1, round(chosen.long_seconds / epoch)), safe=True)
    shares = [pair["with"]["inside"] / pair["with"]["wall"] for pair in pairs]
    figures = {
        "pairs": len(pairs),
        "cpu_ratio": spread([pair["cpu_ratio"] for pair in pairs]),
        "wall_ratio": spread([pair["wall_ratio"] for pair in pairs]),
        "share_inside": spread(shares),
        "long": {**long, "share_inside": round(long["inside"] / long["wall"], 5)},
        "each": pairs,
        "load": os.getloadavg(),
    }
    print(json.dumps({name: figures[name] for name in figures if name != "each"}, indent=1))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if long["inside"] / long["wall"] < LIMIT else 1)


if __name__ == "__main__":
    main()
