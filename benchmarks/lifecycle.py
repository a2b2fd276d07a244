"""A run's life against a small model, the long form: random acts on random runs, two apps on one save_dir.

    python -m benchmarks.lifecycle [--minutes 6] [--acts 30] [--seed 1] [--json FILE]

`tests/scenarios/runs/lifecycle.py` has the model and the acts: create, start twice at once, finish, stop, kill, worker
dies, app restarts, resume, move, delete. After each act every run must be in the state that the model says. The workers
are the tests' fake ones. Sequences of up to --acts acts are drawn from the seed until the time is up; Hypothesis prints
the shortest sequence that fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.scenarios.runs.lifecycle import RunLife

A_ROUND = 10
"""Sequences between two looks at the clock."""


def counted(score: collections.Counter[str]) -> type[RunLife]:
    """The same machine, whose sequences, checks and acts are counted."""

    class Counted(RunLife):
        def teardown(self) -> None:
            score["sequences"] += 1
            score["checks"] += getattr(self, "acts", 0)
            super().teardown()

    return Counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--acts", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    score: collections.Counter[str] = collections.Counter()
    began, failed, rounds = time.monotonic(), "", 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FTK_STATE_DIR"] = str(Path(folder) / "state")
        how: dict[str, Any] = {"max_examples": A_ROUND, "stateful_step_count": chosen.acts, "deadline": None}
        while time.monotonic() - began < 60 * chosen.minutes and not failed:
            machine = seed(chosen.seed + rounds)(counted(score))
            try:
                run_state_machine_as_test(
                    machine, settings=settings(**how, database=None, suppress_health_check=list(HealthCheck))
                )
            except AssertionError as error:
                failed = str(error)
                print(failed, flush=True)
            rounds += 1
            print(f"{dict(score)} after {time.monotonic() - began:.0f} s", flush=True)
    figures = {**score, "seed": chosen.seed, "failed": failed, "seconds": round(time.monotonic() - began),
               "load": os.getloadavg()[0]}  # fmt: skip
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
