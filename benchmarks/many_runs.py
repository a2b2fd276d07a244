"""Seconds that pages take in a folder with many finished runs: `python -m benchmarks.many_runs --runs 10000`.

A run is trained by nobody here: the directory of one finished run is copied, with 96 logged steps. Each page is opened
once in a new process, as after a restart of the app, and then run again; the second start of the app finds the index
of runs that the first one has written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGES = ("data", "configure", "runs", "studies", "evaluate", "playground")
STEPS = 96
RERUNS = 3


def make_run(save_dir: Path) -> Path:
    """Return the directory of a finished run with the default settings."""
    from toolkit.config import Config
    from toolkit.data.storage.open_table import open_table
    from toolkit.runs.events import EventWriter
    from toolkit.runs.run_dir import create_run

    config = Config(save_dir=str(save_dir))
    run = create_run(config, open_table(config.data, save_dir), name="a run")
    run.claim_path.touch()
    with EventWriter(run.events_path) as events:
        events.append("started", pid=1)
        events.append("plan", total_steps=STEPS, epochs=3)
        events.append("phase", phase="training")
        for step in range(1, STEPS + 1):
            events.append("log", step=step, epoch=3 * step / STEPS, loss=1 / step, learning_rate=1e-4)
        events.append("eval", step=STEPS, eval_loss=0.1)
        events.append("scores", rows=128, exact_match=0.9, exact_match_base=0.0)
        events.append("adapter")
        events.append("finished", step=STEPS)
    return run.path


def copy_run(source: Path, number: int) -> None:
    """Copy a run under another id and name; the files are links where they are never written again."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(1_700_000_000 + 60 * number))
    target = source.parent / f"{stamp}-{'abcdefghij'[number % 10] * 4}"
    target.mkdir()
    for name in ("events.jsonl", "claim"):
        shutil.copyfile(source / name, target / name)
    settings = (source / "config.yml").read_text()
    for field, value in (("seed", number), ("learning_rate", f"{1e-4 * (1 + number / 1000):.7f}")):
        settings = re.sub(rf"\b{field}: \S+", f"{field}: {value}", settings)
    (target / "config.yml").write_text(settings)
    meta = {**json.loads((source / "run.json").read_text()), "id": target.name, "name": f"run {number:,}"}
    (target / "run.json").write_text(json.dumps(meta))


def time_pages() -> dict[str, list[tuple[float, float]]]:
    """Return the seconds and CPU-seconds of the first run of each page and of RERUNS more."""
    from streamlit.testing.v1 import AppTest

    from toolkit.system.paths import PROJECT_ROOT

    found: dict[str, list[tuple[float, float]]] = {}
    for page in PAGES:
        began, cpu = time.perf_counter(), time.process_time()
        app = (
            AppTest.from_file(str(PROJECT_ROOT / "app.py"), default_timeout=600)
            .run()
            .switch_page(f"pages/{page}.py")
            .run()
        )
        seconds = [(time.perf_counter() - began, time.process_time() - cpu)]
        for _ in range(RERUNS):
            began, cpu = time.perf_counter(), time.process_time()
            app.run()
            seconds.append((time.perf_counter() - began, time.process_time() - cpu))
        assert not app.exception, app.exception
        found[page] = seconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--pages", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.pages:
        print(json.dumps(time_pages()))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"FTK_STATE_DIR": f"{folder}/state", "FTK_WARM": "off", "FTK_SPARE": "0"}
        save_dir = Path(folder) / "experiments"
        save_dir.mkdir()
        source = make_run(save_dir)
        for number in range(given.runs - 1):
            copy_run(source, number)
        environment = {**os.environ, "FINETUNING_TOOLKIT_SAVE_DIR": str(save_dir)}
        for start in ("first start", "second start"):
            command = [sys.executable, "-m", "benchmarks.many_runs", "--pages"]
            output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
            for page, (first, *again) in json.loads(output.splitlines()[-1]).items():
                once, rerun = (f"{wall:6.2f} s ({cpu:.2f} of CPU)" for wall, cpu in (first, min(again)))
                print(f"{start}, {given.runs:,} runs, {page:<12} first {once}, rerun {rerun}")


if __name__ == "__main__":
    main()
