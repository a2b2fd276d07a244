"""What the safety of a run costs: the same training with it and without, in turns.

    PYTHONPATH=. python benchmarks/safety_overhead.py [--rounds 5] [--epochs 2] [--json FILE]

The default run of the app (bundled demo model and dataset), from its first step to the end of training, so without
imports, loading and the scoring at the end, which are the same. "Without": no checkpoint is written and no fsync made;
"with": as it ships, checkpoints at moments of its own choosing, every one hashed and synced, and the last step's too.
Each round trains both, in an order that alternates, so that whatever else the machine does falls on both.
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


def once(save_dir: Path, epochs: int, safe: bool) -> tuple[float, int, float]:
    """(seconds of training, checkpoints written, seconds that writing them took)."""
    from toolkit.worker.checkpoint_trainer import Keeper
    from toolkit.worker.training import Training

    config = Config.model_validate(
        {"save_dir": str(save_dir), "training": {"training_args": {"num_train_epochs": epochs}}}
    )
    run = create_run(config, open_table(config.data, save_dir))
    seconds: list[float] = []
    fit = Training.fit

    def timed(self: Any) -> None:
        began = time.perf_counter()
        fit(self)
        seconds.append(time.perf_counter() - began)

    with patch.object(Training, "fit", timed):
        if safe:
            code, events = train_here(run)
        else:
            with (
                patch.object(Keeper, "save", lambda self, trainer: None),
                patch.object(os, "fsync", lambda handle: None),
            ):
                code, events = train_here(run)
    assert code == 0, events[-1]
    saved = events_of(run, "saved")
    return seconds[0], len(saved), sum(event["seconds"] for event in saved)


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
            ratio = found[True][0] / found[False][0]
            pairs.append({"with": found[True], "without": found[False], "ratio": round(ratio, 4)})
            print(f"with {found[True][0]:.2f} s ({found[True][1]} checkpoints, {found[True][2]:.2f} s), "
                  f"without {found[False][0]:.2f} s, ratio {ratio:.4f}", flush=True)  # fmt: skip
    ratio = statistics.median(pair["ratio"] for pair in pairs)
    share = statistics.median(pair["with"][2] / pair["with"][0] for pair in pairs)
    figures = {"median_ratio": ratio, "median_share_spent_saving": round(share, 4), "pairs": pairs,
               "load": os.getloadavg()}  # fmt: skip
    print(f"median ratio {ratio:.4f}; {100 * share:.2f} % of the time was spent on saving")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
