"""What the safety of a run costs: the same training with it and without, in turns.

    PYTHONPATH=. python benchmarks/safety_overhead.py [--rounds 5] [--epochs 2] [--json FILE]

The default run of the app (bundled demo model and dataset), from its first step to the end of training, so without
imports, loading and the scoring at the end, which are the same. "Without": no checkpoint is written and no fsync made;
"with": as it ships, checkpoints at moments of its own choosing, every one hashed and synced, and the last step's too.
Each round trains both, in an order that alternates. Compared are the processor seconds of the training, which a busy
machine stretches least, and beside them the share of the wall-clock time that writing checkpoints took.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tests.fakes.training import events_of, train_here
from toolkit.config import Config
from toolkit.data.sources import open_table
from toolkit.runs.rundir import create_run


def no_save(self: Any, trainer: Any) -> None:
    self.on_saved(int(trainer.state.global_step), 0.0)


def once(save_dir: Path, epochs: int, safe: bool) -> dict[str, float]:
    """Wall-clock and processor seconds of the training, checkpoints written, seconds that writing them took."""
    from toolkit.worker.checkpoint_trainer import Keeper
    from toolkit.worker.training import Training

    config = Config.model_validate(
        {"save_dir": str(save_dir), "training": {"training_args": {"num_train_epochs": epochs}}}
    )
    run = create_run(config, open_table(config.data, save_dir))
    seconds: dict[str, float] = {}
    fit = Training.fit

    def timed(self: Any) -> None:
        began, used = time.perf_counter(), time.process_time()
        fit(self)
        seconds.update(wall=time.perf_counter() - began, cpu=time.process_time() - used)

    with patch.object(Training, "fit", timed):
        if safe:
            code, events = train_here(run)
        else:
            with (
                patch.object(Keeper, "save", no_save),
                patch.object(os, "fsync", lambda handle: None),
            ):
                code, events = train_here(run)
    assert code == 0, events[-1]
    saved = events_of(run, "saved")
    return {**seconds, "checkpoints": len(saved), "saving": sum(event["seconds"] for event in saved)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    pairs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FTK_STATE_DIR"] = str(Path(folder) / "state")
        once(Path(folder) / "warm", 1, safe=True)  # imports and caches
        for number in range(chosen.rounds):
            order = (True, False) if number % 2 else (False, True)
            found = {safe: once(Path(folder) / f"{number}-{safe}", chosen.epochs, safe) for safe in order}
            ratio = found[True]["cpu"] / found[False]["cpu"]
            pairs.append({"with": found[True], "without": found[False], "ratio": round(ratio, 4)})
            print(f"with {found[True]}, without {found[False]}, ratio {ratio:.4f}", flush=True)
    ratio = statistics.median(pair["ratio"] for pair in pairs)
    share = statistics.median(pair["with"]["saving"] / pair["with"]["wall"] for pair in pairs)
    figures = {"median_cpu_ratio": ratio, "median_share_spent_saving": round(share, 4), "pairs": pairs,
               "load": os.getloadavg()}  # fmt: skip
    print(f"median ratio {ratio:.4f}; {100 * share:.2f} % of the time was spent on saving")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
