"""The checkpoints of a run on disk: which are kept, which is the newest whole one, and what may go.

A checkpoint is a folder `checkpoints/step-000040` that was committed by `durable.py`'s protocol; what is inside is the
worker's. Nothing is ever chosen by its name alone: a folder counts once its commit verifies.
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
from toolkit.system.durable import commit_dir, fsync_dir, remove_tree, verify_commit

KEPT_CHECKPOINTS = 2
MIN_CHECKPOINT_ROOM_BYTES = 64 * 2**20
"""Free space below which a run that met a full disk does not go on."""
CHECKPOINT_KIND = "checkpoint"
_NAME = re.compile(r"step-(\d{6,12})")
_LEFTOVER_PATTERNS = (".new-*", ".trash-*")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint. body: what its COMMIT.json says."""

    path: Path
    step: int
    body: dict[str, Any]

    @property
    def bytes(self) -> int:
        return sum(int(file["size"]) for file in self.body["files"].values())


def checkpoint_path(run: RunDir, step: int) -> Path:
    return run.checkpoints_dir / f"step-{step:06d}"


def checkpoint_staging_path(run: RunDir, step: int) -> Path:
    return run.checkpoints_dir / f".new-step-{step:06d}"


def list_kept_checkpoints(run: RunDir) -> dict[int, Path]:
    """Step -> folder, newest first; whether each is whole is not looked at."""
    if not run.checkpoints_dir.is_dir():
        return {}
    found = {int(match[1]): path for path in run.checkpoints_dir.iterdir() if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def newest_checkpoint_step(run: RunDir) -> int:
    """Step of the newest checkpoint; 0 when there is none."""
    return next(iter(list_kept_checkpoints(run)), 0)


def verify_checkpoint(path: Path, run_id: str) -> Checkpoint:
    """The checkpoint in `path`, every byte compared with its commit. Raises RunError that names what is wrong."""
    body = verify_commit(path)
    step = int(body.get("step", -1))
    if body.get("kind") != CHECKPOINT_KIND or body.get("run") != run_id or path.name != f"step-{step:06d}":
        raise RunError(f"{path.name} can't be trusted: it is not a checkpoint of run {run_id}.", "Start the run again.")
    return Checkpoint(path, step, body)


def newest_verified_checkpoint(run: RunDir) -> tuple[Checkpoint | None, list[RunError]]:
    """The newest checkpoint whose commit verifies, and why each newer one was refused."""
    refused: list[RunError] = []
    for path in list_kept_checkpoints(run).values():
        try:
            return verify_checkpoint(path, run.id), refused
        except RunError as error:
            refused.append(error)
    return None, refused


def save_checkpoint(
    run: RunDir,
    step: int,
    fill: Callable[[Path], None],
    facts: dict[str, Any],
    on_commit: Callable[[Checkpoint], None],
    best: int | None = None,
) -> None:
    """Write a checkpoint: `fill` puts its files into a folder, which then counts, and only then older ones go.

    When `on_commit` is called, no power cut can take the checkpoint away. Raises what the disk or `fill` raises; what
    was there before is then still there, and nothing else.
    """
    staging = checkpoint_staging_path(run, step)
    try:
        _make_empty(run, staging)
        fill(staging)
        final = checkpoint_path(run, step)
        body = commit_dir(staging, final, {**facts, "kind": CHECKPOINT_KIND, "run": run.id, "step": step, "best": best})
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    on_commit(Checkpoint(final, step, body))
    rotate_checkpoints(run, best)


def _make_empty(run: RunDir, staging: Path) -> None:
    if not run.checkpoints_dir.exists():
        run.checkpoints_dir.mkdir()
        fsync_dir(run.path)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()


def set_checkpoint_aside(run: RunDir, path: Path) -> Path:
    """Rename a refused checkpoint, so that it neither counts as kept nor stands where the next one goes."""
    aside = path.with_name(f".refused-{path.name}-{secrets.token_hex(4)}")
    path.rename(aside)
    fsync_dir(run.checkpoints_dir)
    return aside


def rotate_checkpoints(run: RunDir, best: int | None = None) -> None:
    """Remove all but the newest two and the one at step `best`. Call it after a commit, never before."""
    for number, (step, path) in enumerate(list_kept_checkpoints(run).items()):
        if number >= KEPT_CHECKPOINTS and step != best:
            remove_tree(path)


def remove_unfinished_checkpoints(run: RunDir) -> None:
    """Remove what a dead attempt was writing or deleting; only the holder of worker.lock may."""
    for pattern in _LEFTOVER_PATTERNS:
        for path in run.checkpoints_dir.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def has_checkpoint_room(run: RunDir, checkpoint_bytes: int) -> bool:
    """Whether the run's volume has space for a new checkpoint beside the old ones, and the adapter."""
    return shutil.disk_usage(run.path).free >= max(MIN_CHECKPOINT_ROOM_BYTES, (KEPT_CHECKPOINTS + 1) * checkpoint_bytes)
