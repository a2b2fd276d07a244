"""Exactly once: many processes race to start the same run, round after round; one worker must come of each.

    python -m benchmarks.exactly_once [--processes 32] [--rounds 200] [--json FILE]

The workers are the tests' fake ones (the race is over before a real one has loaded anything); the processes, locks,
claims and files are the real ones.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import tempfile
import time
from pathlib import Path

from tests.fakes.racing import race
from tests.fakes.run_fixtures import fake_command, queue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FTK_STATE_DIR"] = str(Path(folder) / "state")
        for number in range(args.rounds):
            save_dir = Path(folder) / f"round-{number}"
            workers, attempts = race(lambda at=save_dir: queue(at, steps=1), fake_command, args.processes)  # type: ignore[misc]
            outcomes[f"{workers} worker, {attempts} attempt"] += 1
    found = {
        "processes": args.processes, "rounds": args.rounds, "outcomes": dict(outcomes),
        "seconds": round(time.monotonic() - began, 1), "load": os.getloadavg()[0],
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    raise SystemExit(0 if set(outcomes) == {"1 worker, 1 attempt"} else 1)


if __name__ == "__main__":
    main()
