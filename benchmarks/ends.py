"""Every end explained: each class of death is brought about in a real worker, and the supervisor says what it was.

    python -m benchmarks.ends [--repeat 1] [--only disk_full segv] [--json FILE]

A tiny model on a tiny table; the deaths are real (the kernel's OOM killer in a memory control group, a limit on the
address space, a full tmpfs, SIGSEGV, SIGKILL, a model with an infinite weight, a hub id without a network ...) except
`gpu_oom`, which raises torch's own exception where there is no GPU. The first end of each run counts, before the
autopilot goes on. Prints the confusion matrix; what this machine does not allow is named and left out.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import make_tiny_model
from tests.fakes.training import draft, make_run
from toolkit.errors import RunError
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import Event, read_events
from toolkit.runs.run_dir import RunDir, kill_run

FAULTS = Path(__file__).resolve().parent.parent / "tests" / "fakes" / "faults"
TRAINING = {"kind": "phase", "phase": "training"}
STEP = {"kind": "log", "step": 3}
GROUPS = Path("/sys/fs/cgroup/memory")
GROUP_BYTES = 700 * 2**20
PATIENCE = 600.0  # an overloaded machine imports the libraries for minutes

Settings = dict[str, Any]
# name -> (the class that is true, what happens to the worker, what is done to the run before)
CASES: dict[str, tuple[str, dict[str, Any] | None, Callable[[RunDir, Path], None] | None]] = {
    "gpu_oom": ("out_of_memory_gpu", {"at": STEP, "do": "raise", "type": "torch.OutOfMemoryError",
                                      "text": "CUDA out of memory. Tried to allocate 2.00 GiB."}, None),
    "address_space": ("out_of_memory", {"at": {"kind": "phase", "phase": "loading model"}, "do": "memory",
                                        "bytes": 8 * 2**20}, None),
    "kernel_oom": ("out_of_memory", {"at": TRAINING, "do": "group_and_eat"}, None),
    "disk_full": ("disk_full", {"at": STEP, "do": "fill"}, None),
    "infinite_weight": ("diverged", None, None),
    "segv": ("native_crash", {"at": STEP, "do": "segv"}, None),
    "abort": ("native_crash", {"at": STEP, "do": "abort"}, None),
    "sigkill": ("killed", {"at": STEP, "do": "kill"}, None),
    "sigkill_loading": ("killed", {"at": {"kind": "phase", "phase": "loading model"}, "do": "kill"}, None),
    "corrupt_table": ("bad_data", None, lambda run, _: run.source_path.write_bytes(b"PAR1 nothing of the kind")),
    "missing_column": ("bad_data", None, None),
    "no_such_folder": ("model_not_found", None, None),
    "no_such_bundle": ("model_not_found", None, None),
    "broken_weights": ("bad_model", None, None),
    "hub_without_network": ("no_network", None, None),
    "missing_table": ("missing_file", None, lambda run, _: run.source_path.unlink()),
    "bug": ("bug", {"at": STEP, "do": "raise", "type": "ZeroDivisionError", "text": "division by zero"}, None),
    "exit": ("bug", {"at": STEP, "do": "exit"}, None),
}  # fmt: skip


def settings_of(name: str, save_dir: Path, model: Path) -> Settings:
    found = draft(save_dir, model, num_train_epochs=50, save_steps=2)
    changed = {"no_such_folder": "/no/such/model", "no_such_bundle": "bundled:nope",
               "hub_without_network": "somebody/some-model"}.get(name)  # fmt: skip
    if name in ("infinite_weight", "broken_weights"):
        changed = str(spoiled(model, save_dir, name))
    if changed:
        found["model"]["hf_model_ckpt"] = changed
    if name == "missing_column":
        found["data"]["prompt"] = "{nope}"
    return found


def spoiled(model: Path, save_dir: Path, how: str) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(model, save_dir.parent / f"{save_dir.name}-model"))
    weights = folder / "model.safetensors"
    if how == "broken_weights":
        weights.write_bytes(weights.read_bytes()[:5000])
        return folder
    content = load_file(weights)
    content["model.embed_tokens.weight"][1] = torch.inf
    save_file(content, weights, {"format": "pt"})
    return folder


def first_end(run: RunDir) -> Event:
    """Supervise until the first attempt has ended; its last event."""
    own = Supervisor(run.save_dir, poll_seconds=0.1)
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            own.tick()
            for event in read_events(run.events_path)[0]:
                if event["kind"] in ("failed", "interrupted", "finished", "stopped"):
                    return event
            time.sleep(0.1)
    finally:
        kill_run(run, 1.0)
        own.stop()
    return {"kind": "nothing", "reason": "nothing was said", "message": "", "hint": ""}


def one(name: str, place: Path, model: Path) -> Event:
    truth, fault, prepare = CASES[name]
    del truth
    run = make_run(settings_of(name, place, model))
    if prepare:
        prepare(run, place)
    if fault and fault["do"] == "group_and_eat":
        fault = {**fault, "do": "group", "path": str(memory_group(place.name)), "then": "eat"}
    if fault:
        (run.path / "fault.json").write_text(json.dumps(fault))
    try:
        return first_end(run)
    finally:
        for group in GROUPS.glob(f"ftk-{os.getpid()}-*"):
            group.rmdir()


def memory_group(name: str) -> Path:
    group = GROUPS / f"ftk-{os.getpid()}-{name}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(GROUP_BYTES))
    return group


def on_small_disk(act: Callable[[Path], Event], place: Path) -> Event:
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=True)
    try:
        return act(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def possible(name: str) -> str:
    """Why a case can't be brought about here; "" when it can."""
    if name in ("kernel_oom", "disk_full") and os.geteuid():
        return "needs root"
    if name == "kernel_oom" and not (GROUPS / "memory.limit_in_bytes").exists():
        return "no memory control groups here"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(CASES))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    matrix: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    said: dict[str, str] = {}
    folder = Path(tempfile.mkdtemp())
    os.environ |= {"FTK_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(FAULTS), "HF_HUB_OFFLINE": "1"}
    model = make_tiny_model(folder / "model", chat=True)
    left_out = {name: why for name in args.only if (why := possible(name))}
    for name in (name for name in args.only if name not in left_out):
        for turn in range(args.repeat):
            place = folder / f"{name}-{turn}"
            try:
                if name == "disk_full":
                    event = on_small_disk(lambda at, case=name: one(case, at, model), place)  # type: ignore[misc]
                else:
                    event = one(name, place, model)
            except RunError as error:
                event = {"kind": "refused", "reason": "refused", "message": str(error), "hint": error.hint}
            matrix[name][event.get("reason") or event["kind"]] += 1
            said[name] = f"{event.get('message', '')} | {event.get('hint', '')}"
            print(
                f"{name:20} {CASES[name][0]:18} -> {event.get('reason')}: {event.get('message', '')[:110]}", flush=True
            )
    right = sum(found[CASES[name][0]] for name, found in matrix.items())
    total = sum(sum(found.values()) for found in matrix.values())
    report = {
        "right": right, "of": total, "left_out": left_out, "load": os.getloadavg()[0],
        "matrix": {name: {"truth": CASES[name][0], "said": dict(found)} for name, found in matrix.items()},
        "words": said,
    }  # fmt: skip
    print(f"{right} of {total} ends named rightly; left out: {left_out or 'nothing'}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(0 if right == total else 1)


if __name__ == "__main__":
    main()
