"""How often the verdict of a study that was really trained errs: tiny studies of the demo model.

    python -m benchmarks.real_studies FOLDER [--studies 40] [--minutes 4.5] [--json FILE]

Each study crosses a setting that matters (1 against 4 epochs) with one that does not, over two training seeds: eight
runs of the demo on 64 rows, judged by 40 test rows. Every study has its own split and its own seeds. The setting
without effect takes turns: `logging_steps`, with which the weights are equal to the bit, and two spellings of the same
optimizer, whose rounding differs. The script stops after so many minutes and, started again with the same folder, goes
on where it was stopped: a study that is judged is not trained again, nor is a finished run of an unfinished one.
The workers are forks of a process that has imported the libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import yaml

from tests.fakes.fork_server import fork_server
from toolkit.cli.queue_config import queue_config
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.settings.import_export import import_settings_file
from toolkit.studies.outcomes import read_study
from toolkit.studies.verdict import AxisFinding, judge_study
from toolkit.studies.words import describe_verdict

EPOCHS = "training.training_args.num_train_epochs"
NULLS: tuple[tuple[str, list[Any]], ...] = (
    ("logging_steps", [1, 5]),
    ("optim", ["adamw_torch", "adamw_torch_fused"]),
)
"""Settings without effect, by turns."""
RESULTS = "results.jsonl"


def write_settings(folder: Path, number: int) -> Path:
    """Write the settings of one study; return the file."""
    name, values = NULLS[number % len(NULLS)]
    args = {
        "num_train_epochs": [1, 4], "per_device_train_batch_size": 8, "learning_rate": 5e-3, "eval_steps": 1000,
        "seed": 1000 * (number + 1), name: values,
    }  # fmt: skip
    settings = {
        "save_dir": str(folder),
        "data": {"train_size": 64, "test_size": 40, "train_test_split_seed": number + 1},
        "training": {"pinned_rows": 0, "training_args": args},
        "ablation": {"use_ablate": True, "study_name": f"study {number}", "seeds": 2},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run_study(folder: Path, number: int, worker: list[str], is_late: Callable[[], bool]) -> dict[str, Any] | None:
    """Train what is missing of a study; return its verdict, or None when time was up before."""
    supervisor = Supervisor(folder, launcher=LocalLauncher(lambda run, config: [*worker, run.id]), poll_seconds=0.05)
    settings = import_settings_file(write_settings(folder, number))
    try:
        # twice: a run that was killed together with this script is found to have failed, and is tried again
        for run in (run for _ in range(2) for run in queue_config(settings, retry_failed=True)):
            if is_late():
                return None
            supervisor.run_to_end(run, lambda status: None)
    finally:
        supervisor.stop()
    study = read_study(folder, f"study {number}")
    verdict = judge_study(study)
    found = {finding.path.rpartition(".")[2]: _summarize(finding) for finding in verdict.findings}
    failed = [outcome.state for outcome in study.outcomes if outcome.state != "finished"]
    return {"study": number, "found": found, "failed": failed, "said": describe_verdict(study, verdict)}


def _summarize(finding: AxisFinding) -> dict[str, Any]:
    shown = finding.shown
    interval = (
        {"better": shown.better, "low": float(shown.difference.low), "high": float(shown.difference.high)}
        if shown is not None
        else {}
    )
    return {"verdict": finding.verdict, "means": [round(mean, 4) for mean in finding.means], **interval}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return the verdicts so far; a line that a kill cut off is left out, and its study is judged again."""
    path = folder / RESULTS
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def print_tables(results: list[dict[str, Any]]) -> None:
    """Print the verdicts on each setting, and every study whose verdict was not the right one."""
    print(f"\n{'':<22}{'studies':>8}{'matters':>9}{'noise':>7}{'too few':>9}")
    nulls = [(f"{name} (null)", name, "noise") for name, _ in NULLS]
    rows = [("epochs 1 against 4", "num_train_epochs", "matters"), *nulls]
    wrong: list[str] = []
    for label, name, right in rows:
        judged = [one for one in results if name in one["found"]]
        verdicts = [one["found"][name]["verdict"] for one in judged]
        counts = [verdicts.count(verdict) for verdict in ("matters", "noise", "open")]
        print(f"{label:<22}{len(judged):>8}{counts[0]:>9}{counts[1]:>7}{counts[2]:>9}")
        missed = [one for one in judged if one["found"][name]["verdict"] != right]
        wrong += [f"study {one['study']}, {name}: {one['said']}" for one in missed]
    wrong += [f"study {one['study']}: {len(one['failed'])} runs did not finish" for one in results if one["failed"]]
    print(f"\nNot as planted: {len(wrong)}", *wrong, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=4.5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    folder = chosen.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("FTK_STATE_DIR", str(folder / "state"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the fork server ends too
    (folder / "forks.sock").unlink(missing_ok=True)  # of a killed start
    until = time.monotonic() + 60 * chosen.minutes
    done = {one["study"] for one in read_results(folder)}
    with fork_server(folder) as worker:
        for number in range(chosen.studies):
            if number in done or time.monotonic() > until:
                continue
            found = run_study(folder / f"study-{number}", number, worker, lambda: time.monotonic() > until)
            if found is not None:
                with (folder / RESULTS).open("a") as file:
                    file.write(json.dumps(found) + "\n")
    results = read_results(folder)
    print_tables(results)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
