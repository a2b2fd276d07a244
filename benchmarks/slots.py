"""A study of eight runs on a CPU: one slot with one thread, against two slots with one thread each.

    python -m benchmarks.slots [--runs 8] [--steps 60] [--cores 2] [--all-cores] [--json FILE]

The runs are real ones of the demo model, started by the real supervisor with its standby worker, which has finished its
imports before the clock starts. `--cores` are shared out among the slots; the one slot gets as many threads as one of
the others. --all-cores measures the usual way too: one slot with all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs import slots as slot_files
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.runs.slots import save_slot_count
from toolkit.runs.status import read_run_status
from toolkit.services.spare_process import wait_for_fork_server
from toolkit.system import spawn

SPARE_WAIT_SECONDS = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--all-cores", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    each = max(1, args.cores // 2)
    seconds = {}
    ways = [("one slot, as many threads as one of two", 1, each), ("two slots", 2, args.cores)]
    for name, slots, cores in [*ways, ("one slot, all cores", 1, args.cores)][: 3 if args.all_cores else 2]:
        seconds[name] = round(measure_study(slots, cores, args.runs, args.steps), 1)
        print(f"{name}: {seconds[name]} s, load {os.getloadavg()[0]:.1f}", flush=True)
    first, second = list(seconds.values())[:2]
    figures = {
        "runs": args.runs, "steps": args.steps, "cores": args.cores, "seconds": seconds,
        "ratio": round(second / first, 2), "load": os.getloadavg()[0],
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure_study(slots: int, cores: int, runs: int, steps: int) -> float:
    """Return the seconds from the first run's start to the last run's end."""
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, {"FTK_STATE_DIR": f"{folder}/state"}),
        patch.object(spawn, "training_cores", lambda: cores),
        patch.object(slot_files, "training_cores", lambda: cores),
    ):
        save_dir = Path(folder) / "save"
        save_slot_count(save_dir, slots)
        supervisor = Supervisor(save_dir)
        supervisor.start()
        wait_for_fork_server(save_dir, SPARE_WAIT_SECONDS)
        queued = [make_trial(save_dir, number, steps) for number in range(runs)]
        began = time.monotonic()
        supervisor.check_now()
        while not all(read_run_status(run).explained for run in queued):
            time.sleep(0.2)
        taken = time.monotonic() - began
        supervisor.stop()
        ends = {read_run_status(run).state for run in queued}
    assert ends == {"finished"}, ends
    return taken


def make_trial(save_dir: Path, number: int, steps: int) -> RunDir:
    """Queue a run of the demo model, with another seed than the others."""
    args = {"max_steps": steps, "seed": number}
    config = Config.model_validate({"save_dir": str(save_dir), "training": {"training_args": args}})
    return create_run(config, open_table(config.data, save_dir), name=f"trial {number}", study="slots")


if __name__ == "__main__":
    main()
