"""Exactly once: many processes race to start the same runs, round after round; one worker must come of each attempt.

    python -m benchmarks.exactly_once [--processes 32] [--rounds 200] [--slots N [--kills 4] [--seed 1]] [--json FILE]

The workers are the tests' fake ones (the race is over before a real one has loaded anything), forked from one that
has made their imports; the other processes, the locks, claims and files are the real ones. With --slots the machine has
so many fake GPUs, and there are two runs more than that; in each round --kills of the processes, starters and workers,
are killed with SIGKILL while they race: no run may be lost, none started twice, and no slot used twice at a time.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import tempfile
import time
from pathlib import Path

from tests.fakes.forked_processes import fork_short_processes
from tests.fakes.racing import race, race_for_slots
from tests.fakes.run_fixtures import fake_command, fake_gpus, queue

EVERY_RUN_ONCE = "nothing lost, started twice or shared"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=120, help="begin no further round after so long")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    began, killed = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, fork_short_processes():
        os.environ["FTK_STATE_DIR"] = str(Path(folder) / "state")
        race(lambda: queue(Path(folder) / "first", steps=1), fake_command, 1)  # starts the server of the forks, for all
        for number in range(args.rounds):
            if time.monotonic() - began > 60 * args.minutes:
                break
            save_dir = Path(folder) / f"round-{number}"
            if args.slots == 1:
                workers, attempts = race(lambda at=save_dir: queue(at, steps=1), fake_command, args.processes)  # type: ignore[misc]
                outcomes[f"{workers} worker, {attempts} attempt"] += 1
                continue
            found = race_in_slots(save_dir, args, number)
            killed += found.pop("killed")
            outcomes[EVERY_RUN_ONCE if not any(found.values()) else str(found)] += 1
    figures = {
        "processes": args.processes, "rounds": sum(outcomes.values()), "slots": args.slots, "killed": killed,
        "outcomes": dict(outcomes), "seconds": round(time.monotonic() - began, 1), "load": os.getloadavg()[0],
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    raise SystemExit(0 if set(outcomes) <= {"1 worker, 1 attempt", EVERY_RUN_ONCE} else 1)


def race_in_slots(save_dir: Path, args: argparse.Namespace, number: int) -> dict[str, int]:
    """One round on a machine with fake GPUs."""
    fake_gpus(save_dir, args.slots)
    runs = [queue(save_dir, steps=3, save_every=1) for _ in range(args.slots + 2)]
    rng = random.Random(f"{args.seed}-{number}")
    return race_for_slots(save_dir, runs, fake_command, args.processes, args.kills, rng, poll_seconds=0.25)


if __name__ == "__main__":
    main()
