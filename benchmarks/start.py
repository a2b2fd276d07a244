"""From Start to the first loss point of the demo run: the cold way, and in the spare worker that waits.

    PYTHONPATH=. python -m benchmarks.start [--rounds 3] [--out benchmarks/results/start.json]

Wall-clock seconds from the moment the run is queued, by the times in its own events; read them with the load. Also
prints what the spare holds while it waits (memory, CPU), and whether both ways end with the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from toolkit.config import Config
from toolkit.data.sources import open_table
from toolkit.runs.rundir import RunDir, create_run
from toolkit.runs.spare import Spare
from toolkit.runs.supervisor import Supervisor

NEVER = 10**9


def carry_out(supervisor: Supervisor, config: Config, table: Any) -> tuple[float, str]:
    """(seconds from the queue to the first logged loss, hash of the adapter) of one run that a thread supervises."""
    queued = time.time()
    run = create_run(config, table)
    supervisor.look_now()
    while not (found := events(run)) or found[-1]["kind"] not in ("finished", "failed"):
        time.sleep(0.5)
    if found[-1]["kind"] == "failed":
        raise SystemExit(run.log_path.read_text()[-2000:])
    weights = (run.adapter_dir / "adapter_model.safetensors").read_bytes()
    first = next(event["t"] for event in found if event["kind"] == "log")
    return first - queued, hashlib.sha256(weights).hexdigest()


def events(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.events_path.read_text().splitlines()] if run.events_path.exists() else []


def wait_for(spare: Spare) -> dict[str, float]:
    """What the spare holds once it is ready. private: memory that no fork shares and no other process has mapped."""
    spare._not_before = 0.0
    while (server := spare.ready_server()) is None:
        time.sleep(0.2)
    process = psutil.Process(server.process.pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(5)
    memory = process.memory_full_info()
    spent = sum(process.cpu_times()[:2]) - before
    return {"memory_mb": memory.rss / 1e6, "private_mb": memory.uss / 1e6, "cpu_s_in_5_s": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    config = Config(save_dir=str(folder))
    table = open_table(config.data, folder)
    supervisor = Supervisor(folder)
    spare = supervisor._spare
    assert spare is not None, "FTK_SPARE=0 switches the spare off"
    spare._not_before = time.monotonic() + NEVER
    supervisor.start()
    cold, warm, next_one, hashes, held = [], [], [], set(), {}
    for _ in range(given.rounds):
        spare.end()
        spare._not_before = time.monotonic() + NEVER
        seconds, digest = carry_out(supervisor, config, table)
        cold.append(seconds)
        hashes.add(digest)
        held = wait_for(spare)
        seconds, digest = carry_out(supervisor, config, table)
        warm.append(seconds)
        hashes.add(digest)
        seconds, digest = carry_out(supervisor, config, table)  # as in a study: right after the one before
        next_one.append(seconds)
        hashes.add(digest)
    supervisor.stop()
    text = json.dumps({
        "cold_s": cold, "warm_s": warm, "median_cold_s": statistics.median(cold), "cores": psutil.cpu_count(),
        "median_warm_s": statistics.median(warm), "next_s": next_one,
        "median_next_s": statistics.median(next_one), "spare": held, "same_bytes": len(hashes) == 1,
        "load_average": psutil.getloadavg()[0],
    }, indent=1)  # fmt: skip
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
