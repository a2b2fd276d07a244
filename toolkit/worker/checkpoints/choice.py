"""From which checkpoint an attempt goes on, and whether it may: the newest whole one, of the same settings and rows.

A damaged checkpoint is named, set aside, and the one before it is used; without any, the run begins again at its first
step. What differs in the machine does not keep a run from going on, but is why its replayed steps may differ.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from toolkit.errors import ToolkitError
from toolkit.runs.checkpoints import (
    Checkpoint,
    list_kept_checkpoints,
    newest_verified_checkpoint,
    remove_unfinished_checkpoints,
    set_checkpoint_aside,
)
from toolkit.runs.run_dir import RunDir
from toolkit.worker.tokens.cache import TOKENS_FILE

Tell = Callable[..., None]
GROUPED_BATCHES, PACKED_BATCHES = "grouped", "packed"
"""How batches are formed; a checkpoint that does not say so is of the first kind."""


def choose_checkpoint(run: RunDir, tell: Tell, *, leads: bool) -> Checkpoint | None:
    """The checkpoint to go on from. leads: this process may set refused ones aside and remove what was half written."""
    if leads:
        remove_unfinished_checkpoints(run)
    found, refused = newest_verified_checkpoint(run)
    for error in refused:
        instead = f"the one of step {found.step} is used" if found else "the run begins again at its first step"
        tell("warning", message=f"A checkpoint was refused, {instead}. {error.message}")
    if leads:
        for step, path in list_kept_checkpoints(run).items():
            if found is None or step > found.step:
                set_checkpoint_aside(run, path)
    return found


def checkpoint_identity(
    run: RunDir, attempt: int, processes: int, versions: dict[str, str], machine: dict[str, Any], batches: str
) -> dict[str, Any]:
    """What a checkpoint says of itself and a resume compares, beside its step."""
    return {
        "run": run.id,
        "attempt": attempt,
        "config": _sha256(run.config_path),
        "data": hash_prepared_rows(run),
        "processes": processes,
        "batches": batches,
        "versions": versions,
        "machine": machine,
    }


def hash_prepared_rows(run: RunDir) -> dict[str, str]:
    """Of the prepared rows as they lie in the run's directory."""
    return {
        name: _sha256(run.data_dir / name)
        for name in (TOKENS_FILE, "train.npy", "test.npy")
        if _has_data_file(run, name)
    }


def check_resume_allowed(found: Checkpoint, own: dict[str, Any], tell: Tell) -> bool:
    """Whether replayed steps must be equal to the last bit. Raises ToolkitError when going on would be another run."""
    compared = {"config": "settings", "data": "prepared rows", "processes": "number of processes",
                "batches": "way of forming batches"}  # fmt: skip
    body = {"batches": GROUPED_BATCHES, **found.body}
    for key, what in compared.items():
        if body.get(key) != own[key]:
            message = f"The run can't go on from {found.path.name}: its {what} changed since then."
            raise ToolkitError(message, "Start a new run with these settings, or restore what was changed.")
    before, now = found.body["versions"], own["versions"]
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if changed:
        message = f"Libraries changed since the checkpoint ({', '.join(changed)}): the last digits may differ."
        tell("warning", message=message)
    return not changed and found.body["machine"] == own["machine"] and own["machine"]["device"] == "cpu"


def numeric_environment(device: str, threads: int, batch: int, precision: str, micro_batch: int) -> dict[str, Any]:
    """What decides in which order a machine adds numbers up."""
    return {
        "device": device,
        "cpu": f"{_cpu_name()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": threads,
        "batch": batch,
        "micro_batch": micro_batch,
        "precision": precision,
    }


def _has_data_file(run: RunDir, name: str) -> bool:
    return (run.data_dir / name).is_file()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor()
