"""Disk full: a real run on a small tmpfs that fills up at one place after another, and goes on when space returns.

    python -m benchmarks.disk_full [--sizes 12] [--json FILE]

The volume has room for so many KiB more than the run has needed at its third step, a different number each time, so
that it fills up in another write each time: a checkpoint's file, an event, the log, the adapter. Then: the message is
right, every checkpoint that stands there verifies, and after a remount with more space the run goes on by itself to
the same weights as on a disk that never filled up.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import make_tiny_model
from tests.fakes.training import draft, make_run
from toolkit.errors import RunError
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.checkpoints import list_kept_checkpoints, verify_checkpoint
from toolkit.runs.run_dir import RunDir, kill_run
from toolkit.runs.status import RunStatus, read_run_status

FAULTS = Path(__file__).resolve().parent.parent / "tests" / "fakes" / "faults"
PATIENCE = 300.0
LARGE = "400m"
PAGES = 76
"""Of 4 KiB: with about so many left, the whole rest of the run fits."""


def new_run(place: Path, model: Path, leave: int | None) -> RunDir:
    run = make_run(draft(place, model, num_train_epochs=4, save_steps=2, eval_steps=100))
    if leave is not None:
        fault = {"at": {"kind": "log", "step": 3}, "do": "fill", "leave": leave}
        (run.path / "fault.json").write_text(json.dumps(fault))
    return run


def until(own: Supervisor, run: RunDir, wanted: Callable[[RunStatus], bool]) -> RunStatus:
    deadline = time.monotonic() + PATIENCE
    while not wanted(status := read_run_status(run)):
        own.tick()
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain: {status}")
        time.sleep(0.1)
    return status


def weights(run: RunDir) -> str:
    return hashlib.sha256((run.adapter_dir / "adapter_model.safetensors").read_bytes()).hexdigest()


def damaged(run: RunDir) -> list[str]:
    """What stands there as a checkpoint and does not verify."""
    found = []
    for path in list_kept_checkpoints(run).values():
        try:
            verify_checkpoint(path, run.id)
        except RunError as error:
            found.append(error.message)
    return found


def one(place: Path, model: Path, leave: int, expected: str) -> str:
    """What became of a run whose disk had `leave` bytes left: "right", "not filled", or what was wrong."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=True)
    own = Supervisor(place, poll_seconds=0.1)
    try:
        run = new_run(place, model, leave)
        status = until(own, run, lambda status: status.explained or status.reason == "disk_full")
        if status.state == "finished":
            return "not filled: the rest was enough"
        if status.reason != "disk_full" or "disk is full" not in status.message or not status.hint:
            return f"wrong words: {status.state}, {status.reason}: {status.message}"
        if wrong := damaged(run):
            return f"damaged: {wrong}"
        subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(place)], check=True)
        status = until(own, run, lambda status: status.explained)
        if status.state != "finished":
            return f"did not go on: {status.state}: {status.message}"
        return "right" if weights(run) == expected else "other weights"
    finally:
        for path in (place / "runs").glob("2*"):
            kill_run(RunDir(path), 1.0)
        own.stop()
        subprocess.run(["umount", "-l", str(place)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if os.geteuid():
        raise SystemExit("This needs root: it mounts a small volume.")
    folder = Path(tempfile.mkdtemp())
    os.environ |= {"FTK_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(FAULTS), "OMP_NUM_THREADS": "1"}
    model = make_tiny_model(folder / "model", chat=True)
    reference = new_run(folder / "reference", model, None)
    own = Supervisor(reference.save_dir, poll_seconds=0.1)
    until(own, reference, lambda status: status.explained)
    own.stop()
    expected = weights(reference)
    outcomes: collections.Counter[str] = collections.Counter()
    by_size = {}
    for turn in range(args.sizes):
        leave = 4096 * (PAGES * turn // args.sizes)
        place = folder / f"disk-{turn}"
        place.mkdir()
        by_size[leave] = one(place, model, leave, expected)
        outcomes[by_size[leave]] += 1
        print(f"{leave // 1024:6} KiB left: {by_size[leave]}", flush=True)
    found = {"outcomes": dict(outcomes), "by_bytes_left": by_size, "load": os.getloadavg()[0]}
    print(json.dumps(found["outcomes"], indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(0 if all(word.startswith(("right", "not filled")) for word in outcomes) else 1)


if __name__ == "__main__":
    main()
