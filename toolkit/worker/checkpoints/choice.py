"""Choose the checkpoint that an attempt resumes from, and check that it belongs to the same settings and rows.

The newest intact checkpoint is used. A damaged one is reported and set aside, and the one before it is used; without
any the run restarts at its first step. Another machine or other library versions do not prevent a resume, but then the
replayed steps may differ in the last digits.
"""

from __future__ import annotations

import hashlib
import platform
import re
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
from toolkit.runs.events import EventReporter
from toolkit.runs.run_dir import RunDir
from toolkit.worker.tokens.cache import TOKENS_FILE

GROUPED_BATCHES, PACKED_BATCHES = "grouped", "packed"
"""How batches are formed. A checkpoint without this field has grouped batches."""


def choose_checkpoint(
    run: RunDir, emit: EventReporter, *, is_main_process: bool, newest: int | None = None
) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None to start at the first step.

    newest: the last step that may be resumed from. Only the main process sets refused checkpoints aside and removes
    half-written ones. Raises RunError if the installation's key can't be used: the checkpoints stay, and the run can
    resume once it can.
    """
    if is_main_process:
        remove_unfinished_checkpoints(run)
    checkpoint, refused = newest_verified_checkpoint(run, newest)
    for error in refused:
        instead = (
            f"the checkpoint of step {checkpoint.step} is used instead" if checkpoint else "the run restarts at step 1"
        )
        emit("warning", message=f"A checkpoint can't be used; {instead}. {error.message}")
    if is_main_process:
        for step, path in list_kept_checkpoints(run).items():
            # newer than the one in use: its step is trained again and would find the name taken
            if checkpoint is None or step > checkpoint.step:
                set_checkpoint_aside(run, path)
    return checkpoint


def checkpoint_identity(
    run: RunDir, attempt: int, processes: int, versions: dict[str, str], machine: dict[str, Any], batches: str
) -> dict[str, Any]:
    """Return the fields of a checkpoint's commit that a resume compares.

    versions: of the libraries, by name. machine: from numeric_environment. batches: GROUPED_BATCHES or PACKED_BATCHES.
    """
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
    """Return file name -> SHA-256 of the prepared rows in the run's directory."""
    return {
        name: _sha256(run.data_dir / name)
        for name in (TOKENS_FILE, "train.npy", "test.npy")
        if (run.data_dir / name).is_file()
    }


def check_resume_allowed(checkpoint: Checkpoint, current: dict[str, Any], emit: EventReporter) -> bool:
    """Return whether replayed steps must be equal to the last bit.

    current: the checkpoint_identity of this attempt. Raises ToolkitError if the settings, the prepared rows, the number
    of processes or the batches changed, so that the result would be another run.
    """
    compared = {
        "config": "settings",
        "data": "prepared rows",
        "processes": "number of processes",
        "batches": "batching mode",
    }
    body = {"batches": GROUPED_BATCHES, **checkpoint.body}
    for key, what in compared.items():
        if body.get(key) != current[key]:
            message = (
                f"The run can't resume from {checkpoint.path.name}: its {what} changed after the checkpoint was saved."
            )
            raise ToolkitError(message, "Start a new run with these settings, or restore the earlier value.")
    before, now = checkpoint.body["versions"], current["versions"]
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if changed:
        message = (
            f"Libraries changed since the checkpoint ({', '.join(changed)}): results may differ in the last digits."
        )
        emit("warning", message=message)
    # GPU kernels add in an order that varies from run to run: only a CPU repeats a step bit for bit
    return not changed and checkpoint.body["machine"] == current["machine"] and current["machine"]["device"] == "cpu"


def numeric_environment(device: str, threads: int, batch: int, precision: str, micro_batch: int) -> dict[str, Any]:
    """Return everything about the machine and the batches that decides in which order numbers are added.

    batch and micro_batch: rows. precision: "bf16", "fp16" or "fp32".
    """
    return {
        "device": device,
        "cpu": f"{_cpu_name()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": threads,
        "batch": batch,
        "micro_batch": micro_batch,
        "precision": precision,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1) if match else platform.processor()
