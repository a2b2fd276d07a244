"""What many viewers of one live run cost its training: `python -m benchmarks.many_viewers --viewers 60`.

The app trains the demo model and serves the Runs page to so many sessions without a browser (`open_page.py`). Prints
steps a second and a CPU-second of the worker with them and without, round by round, and the share of a core that the
app took. The sessions of this process take CPU time as well: niceness keeps it away from the training. Ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from benchmarks.beside_training import look, steps
from benchmarks.open_page import OpenPage
from tests.browser.server import Server, start_server, stop_everything
from toolkit.data.storage.open_table import open_table
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.settings.validation import parse_draft

OPENED_AT_ONCE = 10


def start_run(save_dir: Path) -> RunDir:
    """Queue a run of the demo without an end in sight, and wait until the app's supervisor has it past its start."""
    args = {"num_train_epochs": 500, "logging_steps": 1, "eval_steps": 10**6}
    config = parse_draft({"save_dir": str(save_dir), "training": {"training_args": args}})
    run = create_run(config, open_table(config.data, save_dir))
    while len(steps(run)) < 5:
        time.sleep(0.5)
    return run


def open_pages(server: Server, run: RunDir, viewers: int) -> list[OpenPage]:
    """Open the run's page so many times, ten at a time."""
    pages = [OpenPage(server, "runs", f"run={run.id}") for _ in range(viewers)]
    for first in range(0, viewers, OPENED_AT_ONCE):
        for page in pages[first : first + OPENED_AT_ONCE]:
            page.start()
        for page in pages[first : first + OPENED_AT_ONCE]:
            page.ready.wait()
        print(f"{min(first + OPENED_AT_ONCE, viewers)} pages are open", file=sys.stderr, flush=True)
    return pages


def close_pages(pages: list[OpenPage]) -> None:
    """Close all at once: each finishes what it is drawing."""
    with ThreadPoolExecutor(len(pages)) as pool:
        for done in [pool.submit(page.close) for page in pages]:
            done.result()


def measure(viewers: int, rounds: int, seconds: float, settle: float) -> dict[str, Any]:
    """Return the figures of each round, and the median ratios. settle: seconds after the last page has opened."""
    os.environ |= {"FTK_SPARE": "0", "FTK_WARM": "off"}
    save_dir = Path(tempfile.mkdtemp(prefix="viewers-")) / "experiments"
    save_dir.mkdir()
    server = start_server(save_dir)
    alone, watched = [], []
    try:
        run = start_run(save_dir)
        os.nice(10)
        for _ in range(rounds):
            alone.append(look(run, server, seconds))
            pages = open_pages(server, run, viewers)
            time.sleep(settle)
            watched.append(look(run, server, seconds))
            print(json.dumps({"alone": alone[-1], "watched": watched[-1]}), file=sys.stderr, flush=True)
            close_pages(pages)
            time.sleep(settle)
    finally:
        stop_everything(server)
    pairs = list(zip(watched, alone, strict=True))
    ratios = {
        name: statistics.median(one[name] / other[name] for one, other in pairs)
        for name in ("steps_a_second", "steps_a_cpu_second")
    }
    return {"viewers": viewers, "load": psutil.getloadavg()[0], "ratios": ratios, "alone": alone, "watched": watched}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--settle", type=float, default=40)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    text = json.dumps(measure(given.viewers, given.rounds, given.seconds, given.settle), indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
