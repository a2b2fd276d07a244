"""The checkpoints of a run on disk: listing, verifying, writing and rotating them.

A checkpoint is a folder `checkpoints/step-000040` that `system/durable.py` committed. A folder counts only if its
commit verifies; its name alone proves nothing.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import commit_dir, fsync_dir, load_install_key, remove_tree, verify_commit

KEPT_CHECKPOINTS = 2
"""Newest checkpoints that are kept: if the newest is damaged, the one before it is still there."""
MIN_CHECKPOINT_ROOM_BYTES = 64 * 2**20
"""Free space below which a run that stopped at a full disk does not resume."""
CHECKPOINT_KIND = "checkpoint"
_NAME = re.compile(r"step-(\d{6,12})")
_LEFTOVER_PATTERNS = (".new-*", ".trash-*")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. body: the content of its COMMIT.json."""

    path: Path
    step: int
    body: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Size of all its files on disk."""
        return sum(int(file["size"]) for file in self.body["files"].values())


def checkpoint_path(run: RunDir, step: int) -> Path:
    """Return the folder of the checkpoint at `step`; it need not exist."""
    return run.checkpoints_dir / f"step-{step:06d}"


def checkpoint_staging_path(run: RunDir, step: int) -> Path:
    """Return the folder in which the checkpoint at `step` is written before its commit."""
    return run.checkpoints_dir / f".new-step-{step:06d}"


def list_kept_checkpoints(run: RunDir) -> dict[int, Path]:
    """Return the checkpoint folders by step, newest first, without verifying them."""
    if not run.checkpoints_dir.is_dir():
        return {}
    found = {int(match[1]): path for path in run.checkpoints_dir.iterdir() if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def newest_checkpoint_step(run: RunDir) -> int:
    """Return the step of the newest checkpoint, or 0 when there is none. Does not verify it."""
    return next(iter(list_kept_checkpoints(run)), 0)


def verify_checkpoint(path: Path, run_id: str) -> Checkpoint:
    """Compare every byte in `path` with its commit and return the checkpoint. Raises RunError that names the fault."""
    body = verify_commit(path)
    step = int(body.get("step", -1))
    if body.get("kind") != CHECKPOINT_KIND or body.get("run") != run_id or path.name != f"step-{step:06d}":
        raise RunError(f"{path.name} can't be trusted: it is not a checkpoint of run {run_id}.", "Start the run again.")
    return Checkpoint(path, step, body)


def newest_verified_checkpoint(run: RunDir, up_to: int | None = None) -> tuple[Checkpoint | None, list[RunError]]:
    """Return the newest checkpoint that verifies (None when none does), and why each newer one was refused.

    up_to: the last step to consider; None is all. Raises RunError if the installation's key can't be used: without it,
    every checkpoint would look foreign.
    """
    refused: list[RunError] = []
    kept = list_kept_checkpoints(run)
    if kept:
        load_install_key()
    for step, path in kept.items():
        if up_to is not None and step > up_to:
            continue
        try:
            return verify_checkpoint(path, run.id), refused
        except RunError as error:
            refused.append(error)
    return None, refused


def save_checkpoint(
    run: RunDir,
    step: int,
    write_files: Callable[[Path], None],
    facts: dict[str, Any],
    on_commit: Callable[[Checkpoint], None],
    best: int | None = None,
) -> None:
    """Write a checkpoint, commit it, and then remove the older ones that are no longer kept.

    write_files: writes the files of the checkpoint into the folder that it is given. facts: further fields of
    COMMIT.json. on_commit: called when the checkpoint survives a power cut. best: step of the checkpoint with the
    lowest test loss, which is kept as well.

    Raises what the disk or `write_files` raises; the earlier checkpoints are then unchanged.
    """
    staging = checkpoint_staging_path(run, step)
    try:
        _make_empty(run, staging)
        write_files(staging)
        final = checkpoint_path(run, step)
        body = commit_dir(staging, final, {**facts, "kind": CHECKPOINT_KIND, "run": run.id, "step": step, "best": best})
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    # the event is written before the rotation: at no moment does the log name a checkpoint that is gone
    on_commit(Checkpoint(final, step, body))
    rotate_checkpoints(run, best)


def _make_empty(run: RunDir, staging: Path) -> None:
    if not run.checkpoints_dir.exists():
        run.checkpoints_dir.mkdir()
        fsync_dir(run.path)  # the name of the new folder must survive a power cut too
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()


def set_checkpoint_aside(run: RunDir, path: Path) -> Path:
    """Rename a refused checkpoint and return its new path. It no longer counts, and its name is free again."""
    renamed = path.with_name(f".refused-{path.name}-{secrets.token_hex(4)}")
    path.rename(renamed)
    fsync_dir(run.checkpoints_dir)
    return renamed


def rotate_checkpoints(run: RunDir, best: int | None = None) -> None:
    """Remove all but the newest two checkpoints and the one at step `best`.

    Call it only after a commit: before it, a crash could leave a run with no checkpoint but a damaged one.
    """
    for number, (step, path) in enumerate(list_kept_checkpoints(run).items()):
        if number >= KEPT_CHECKPOINTS and step != best:
            remove_tree(path)


def remove_unfinished_checkpoints(run: RunDir) -> None:
    """Remove what a dead attempt was writing or deleting. Only the holder of worker.lock may call this."""
    for pattern in _LEFTOVER_PATTERNS:
        for path in run.checkpoints_dir.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def has_checkpoint_room(run: RunDir, checkpoint_bytes: int) -> bool:
    """Return whether the run's volume has space for a new checkpoint and the adapter in addition to the kept ones."""
    return shutil.disk_usage(run.path).free >= max(MIN_CHECKPOINT_ROOM_BYTES, (KEPT_CHECKPOINTS + 1) * checkpoint_bytes)
