"""From Start to the first loss point of the demo run: the cold way, and in the spare worker that waits.

    PYTHONPATH=. python -m benchmarks.start [--rounds 3] [--json benchmarks/results/start.json]
    PYTHONPATH=. python -m benchmarks.start --first-run [--delays 0 1 2 4] [--rounds 3] [--json ...]

Wall-clock seconds from the moment the run is queued, by the times in its own events; read them with the load. Also
prints what the spare holds while it waits (memory, CPU), and whether both ways end with the same bytes.
--first-run: a fresh app each time, in headless Chromium on the same cores; "Try it now" is clicked so many seconds
after the first page can be used, while the app still imports the libraries.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, sync_playwright

from tests.browser.server import CHROMIUM, FLAGS, start_server, stop_everything
from tests.fakes.standby import standby_of
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.services.spare_process import SpareProcess

NEVER = 10**9


def carry_out(supervisor: Supervisor, config: Config, table: Any) -> tuple[float, str]:
    """(seconds from the queue to the first logged loss, hash of the adapter) of one run that a thread supervises."""
    queued = time.time()
    run = create_run(config, table)
    supervisor.check_now()
    while not (found := events(run)) or found[-1]["kind"] not in ("finished", "failed"):
        time.sleep(0.5)
    if found[-1]["kind"] == "failed":
        raise SystemExit(run.log_path.read_text()[-2000:])
    weights = (run.adapter_dir / "adapter_model.safetensors").read_bytes()
    first = next(event["t"] for event in found if event["kind"] == "log")
    return first - queued, hashlib.sha256(weights).hexdigest()


def events(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.events_path.read_text().splitlines()] if run.events_path.exists() else []


def wait_for(spare: SpareProcess) -> dict[str, float]:
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


def first_run(browser: Browser, delay: float) -> float:
    """Seconds from the click, `delay` seconds after the first page of a fresh app, to the first logged loss."""
    folder = Path(tempfile.mkdtemp())
    (folder / "experiments").mkdir()
    server = start_server(folder / "experiments")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    try:
        page.goto(server.link())
        button = page.get_by_role("button", name="Try it now")
        button.wait_for()
        time.sleep(delay)
        clicked = time.time()
        button.click()
        while True:
            runs = [RunDir(path) for path in server.save_dir.glob("runs/2*")]
            first = [event["t"] for run in runs for event in events(run) if event["kind"] == "log"]
            if first:
                return float(first[0]) - clicked
            if time.time() - clicked > 180:
                raise SystemExit((folder / "server.log").read_text()[-2000:])
            time.sleep(0.1)
    finally:
        page.close()
        stop_everything(server)
        shutil.rmtree(folder, ignore_errors=True)


def first_runs(delays: list[float], rounds: int) -> dict[str, Any]:
    taken: dict[float, list[float]] = {delay: [] for delay in delays}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for _ in range(rounds):
            for delay in delays:
                taken[delay].append(first_run(browser, delay))
                print(f"clicked after {delay:g} s: first loss {taken[delay][-1]:.2f} s later", flush=True)
    each = {f"after {delay:g} s": {"median": statistics.median(all_), "all": all_} for delay, all_ in taken.items()}
    return {"first_loss_s": each, "cores": psutil.cpu_count(), "load_average": psutil.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first-run", action="store_true")
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 1.0, 2.0, 4.0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = first_runs(given.delays, given.rounds) if given.first_run else cold_and_warm(given.rounds)
    text = json.dumps(found, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


def cold_and_warm(rounds: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp())
    config = Config(save_dir=str(folder))
    table = open_table(config.data, folder)
    supervisor = Supervisor(folder)
    spare = standby_of(supervisor)
    assert spare is not None, "FTK_SPARE=0 switches the spare off"
    spare._not_before = time.monotonic() + NEVER
    supervisor.start()
    cold, warm, next_one, hashes, held = [], [], [], set(), {}
    for _ in range(rounds):
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
    return {
        "cold_s": cold, "warm_s": warm, "median_cold_s": statistics.median(cold), "cores": psutil.cpu_count(),
        "median_warm_s": statistics.median(warm), "next_s": next_one,
        "median_next_s": statistics.median(next_one), "spare": held, "same_bytes": len(hashes) == 1,
        "load_average": psutil.getloadavg()[0],
    }  # fmt: skip


if __name__ == "__main__":
    main()
