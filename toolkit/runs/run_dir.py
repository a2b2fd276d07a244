"""The directory of a run: its file names, and creating, listing, opening, stopping and deleting runs.

The directory is the only record of a run; its state is derived from it. Ids are paths, names are labels: no text of a
user ever becomes part of a path.
"""

from __future__ import annotations

import hmac
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from toolkit.config import Config
from toolkit.data.table import describe_dataset
from toolkit.errors import RunError
from toolkit.runs.kept_facts import is_there, stamp_file
from toolkit.runs.run_sources import (
    RUN_SCHEMA,
    SourceTable,
    StartingCheckpoint,
    build_run_meta,
    check_run_meta,
    link_or_copy_checkpoint,
    link_or_copy_file,
    sign_approval,
)
from toolkit.runs.slots import list_slot_paths
from toolkit.settings.training_content import hash_training_content, leave_chosen_open
from toolkit.settings.validation import parse_draft
from toolkit.settings.yaml_file import dump_config, load_draft, with_absolute_paths
from toolkit.system.durable import durable_write, fsync_dir, remove_tree
from toolkit.system.foreign_files import describe_read_error, read_foreign_file, read_foreign_json
from toolkit.system.ids import ID_PATTERN, make_timed_id
from toolkit.system.locks import LockHolder, end_holder_processes, hold_lock, is_lock_held, read_lock_holder
from toolkit.system.private_files import tighten_save_dir

MAX_RUN_NAME_LENGTH = 200
"""Characters of a run's or study's name; the rest is cut off."""
PAUSE_REQUEST = "pause"
"""Content of the file `stop` when the run is meant to resume later."""

MAX_STOP_REASON = 500


class _RunPath:
    """A path inside the run's directory."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: RunDir, owner: type[RunDir]) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class RunDir:
    """The paths of one run. The files need not exist."""

    path: Path

    config_path = _RunPath("config.yml")
    meta_path = _RunPath("run.json")
    events_path = _RunPath("events.jsonl")
    lock_path = _RunPath("worker.lock")
    claim_path = _RunPath("claim")
    stop_path = _RunPath("stop")
    log_path = _RunPath("worker.log")
    data_dir = _RunPath("data")
    source_path = _RunPath("data/source.parquet")
    checkpoints_dir = _RunPath("checkpoints")
    adapter_dir = _RunPath("adapter")
    evaluation_dir = _RunPath("evaluation")
    predictions_path = _RunPath("evaluation/predictions.jsonl")
    film_path = _RunPath("film.jsonl")
    exports_dir = _RunPath("exports")
    start_dir = _RunPath("start")
    """The committed checkpoint whose weights the run starts with, if it continues another run."""
    accelerate_path = _RunPath("accelerate.yml")
    slot_path = _RunPath("../slot.lock")
    """Locked by the processes of the one run that is active in this save_dir; `slots.py` has the others."""

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def save_dir(self) -> Path:
        return self.path.parent.parent

    def claim_of(self, attempt: int) -> Path:
        """Return the claim file of an attempt; it ensures that each attempt is started once."""
        # attempt 1 keeps the name from before there were several attempts
        return self.claim_path if attempt <= 1 else self.path / f"claim-{attempt}"


def save_dir_of(config: Config) -> Path:
    """Return the absolute folder of `config.save_dir`."""
    return Path(config.save_dir or Config().save_dir or ".").expanduser().absolute()


def create_run(
    config: Config,
    table: SourceTable | None,
    *,
    name: str = "",
    study: str = "",
    settings: dict[str, Any] | None = None,
    start: StartingCheckpoint | None = None,
    chosen: Mapping[str, str] = MappingProxyType({}),
    memory_bytes: int = 0,
    job: str = "",
) -> RunDir:
    """Create a queued run. Its directory exists completely or not at all. Raises RunError if it can't be written.

    table: its Parquet file is linked (or copied) into the run. settings: the values in which this trial of a study
    differs from the others. start: the checkpoint whose weights the run starts with, also linked or copied. chosen:
    settings of `config` that were decided for the user, and the reasons. memory_bytes: its forecast, 0 without one.
    job: the job of the fine-tuning API that the run was created for.
    """
    root = save_dir_of(config) / "runs"
    config = with_absolute_paths(config.model_copy(update={"save_dir": str(save_dir_of(config))}))
    dataset = describe_dataset(table)
    labels = (name.strip()[:MAX_RUN_NAME_LENGTH], study.strip()[:MAX_RUN_NAME_LENGTH])
    content = hash_training_content(leave_chosen_open(config, chosen), str(dataset.get("sha256") or ""))
    try:
        root.mkdir(parents=True, exist_ok=True)
        tighten_save_dir(root.parent)
        while True:
            now = time.time()
            run = RunDir(root / make_timed_id(now))
            staging = root / f".new-{run.id}"
            meta = build_run_meta(run.id, now, dataset, *labels, settings, start, chosen, content, memory_bytes)
            made_for = {"job": job} if job else {}
            _stage(staging, config, table, start, {**meta, **made_for, "approved": sign_approval(run.path)})
            try:
                staging.rename(run.path)
            except OSError:
                if not run.path.exists():
                    raise
                shutil.rmtree(staging)  # a run of the same 1/46656 s has drawn the same letter: draw again
                continue
            fsync_dir(root)  # without it, a power cut could undo the rename
            return run
    except OSError as error:
        raise RunError(
            f"The run can't be written to {root}: {error}.", "Free space there, or choose another output folder."
        ) from error


def _stage(
    folder: Path, config: Config, table: SourceTable | None, start: StartingCheckpoint | None, meta: dict[str, Any]
) -> None:
    (folder / "data").mkdir(parents=True)
    if table is not None:
        link_or_copy_file(table.path, folder / "data" / "source.parquet")
    if start is not None:
        link_or_copy_checkpoint(start.path, folder / "start")
    durable_write(folder / "config.yml", dump_config(config))
    durable_write(folder / "run.json", json.dumps(meta, indent=1, ensure_ascii=False))
    fsync_dir(folder)


def list_runs(save_dir: Path) -> list[RunDir]:
    """Return all runs of a save_dir, newest first; an empty list when there is no folder of runs."""
    root = save_dir.absolute() / "runs"
    tighten_save_dir(save_dir)
    try:
        found = root.stat()
        stamp = found.st_ino, found.st_mtime_ns  # of the folder, which creating and deleting a run changes
        known = _LISTED.get(root)
        if known is not None and known[0] == stamp:
            return [*known[1]]
        # the pattern leaves out what is being created (.new-*) or deleted (.trash-*)
        with os.scandir(root) as entries:
            names = [e.name for e in entries if ID_PATTERN.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        if root.exists():  # a file in place of the folder of runs
            return []
        raise  # the save_dir itself is no folder
    runs = [_run_dir(root, name) for name in sorted(names, reverse=True)]
    if time.time() - found.st_mtime > LIST_SETTLED_S:
        _LISTED[root] = stamp, runs
    return [*runs]


_LISTED: dict[Path, tuple[tuple[int, int], list[RunDir]]] = {}
"""Folder of runs -> its stamp and its runs: a page asks for them seven times."""
LIST_SETTLED_S = 2.0
"""Age of a folder's last change from which its stamp is trusted: another change at the same moment would be missed."""


@lru_cache(maxsize=20_000)
def _run_dir(root: Path, name: str) -> RunDir:
    """Return the run of that id. Kept: making 10,000 paths takes a tenth of a second."""
    return RunDir(root / name)


def open_run(save_dir: Path, run_id: str) -> RunDir:
    """Return the run with that id. Raises RunError when there is none."""
    tighten_save_dir(save_dir)
    run = RunDir(save_dir.absolute() / "runs" / run_id)
    if not ID_PATTERN.fullmatch(run_id) or run.path.is_symlink() or not run.path.is_dir():
        raise RunError(
            f"There is no run '{run_id[:80]}' in {save_dir}.", "See the list of runs: python -m toolkit list"
        )
    return run


def read_run_meta(run: RunDir) -> dict[str, Any]:
    """Read run.json: id, name, created (Unix seconds), study, settings, dataset, content. Raises RunError."""
    try:
        meta = read_foreign_json(run.meta_path)
        schema = int(meta["schema"])
        if schema <= RUN_SCHEMA:
            check_run_meta(meta)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"Run {run.id} can't be read: {describe_read_error(error)}.", "Delete it, or restore its run.json."
        ) from error
    if schema > RUN_SCHEMA:
        raise RunError(
            f"Run {run.id} was written by a newer version (schema {schema}).", "Update the toolkit to use it."
        )
    return dict(meta)


def read_run_config(run: RunDir) -> Config:
    """Read the run's settings. Raises RunError (no file) or ConfigError (settings that can't be used)."""
    try:
        text = read_foreign_file(run.config_path).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = describe_read_error(error)
        raise RunError(f"The settings of run {run.id} can't be read: {reason}.", "Delete the run.") from error
    return parse_draft(load_draft(text))


def is_run_approved(run: RunDir) -> bool:
    """Return whether the queue may start the run: this installation created it at this path, or a person approved it.

    A folder that was copied from elsewhere, or that somebody else writes to, starts nothing. Raises RunError.
    """
    given = read_run_meta(run).get("approved")
    return isinstance(given, str) and hmac.compare_digest(given.encode(), sign_approval(run.path).encode())


def approve_run(run: RunDir) -> None:
    """Let the queue start a run that another installation, or another folder, has queued. Raises RunError."""
    if is_run_approved(run):
        return
    try:
        meta = {**read_run_meta(run), "approved": sign_approval(run.path)}
        durable_write(run.meta_path, json.dumps(meta, indent=1, ensure_ascii=False))
    except OSError as error:
        raise RunError(f"Run {run.id} can't be approved: {error}.", "Check the permissions of its folder.") from error


def request_run_stop(run: RunDir, *, pause: bool = False, reason: str = "") -> None:
    """Ask the worker to stop after its current step and to save checkpoint and adapter; cancel a queued run.

    pause: record the end as a pause, for a run that is meant to resume. reason: why no person asked for it. Raises
    RunError.
    """
    path = open_run(run.save_dir, run.id).stop_path
    if (pause or reason) and not path.exists():
        # complete from the first moment: an empty file is a stop
        durable_write(path, PAUSE_REQUEST if pause else reason)
    else:
        path.touch()


def read_stop_reason(run: RunDir) -> str:
    """Return why the run was stopped if the toolkit itself did it; "" for a person's stop or pause, and without one."""
    try:
        text = read_foreign_file(run.stop_path).decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if text == PAUSE_REQUEST else text[:MAX_STOP_REASON]


def find_run_holder(run: RunDir) -> LockHolder | None:
    """Return the process that holds the run's lock or is about to take it; None when no process works on the run."""
    if is_lock_held(run.lock_path):
        return read_lock_holder(run.lock_path)
    slot = _find_starting_slot(run)
    return read_lock_holder(slot) if slot is not None else None


def is_run_starting(run: RunDir) -> bool:
    """Return whether a slot is taken for this run while its worker does not hold its own lock yet."""
    return _find_starting_slot(run) is not None


def _find_starting_slot(run: RunDir) -> Path | None:
    return next((path for path in list_slot_paths(run.save_dir) if _is_slot_taken_for(path, run)), None)


def _is_slot_taken_for(path: Path, run: RunDir) -> bool:
    if not is_lock_held(path):
        return False
    holder = read_lock_holder(path)
    if holder is None or holder.run != run.id:
        return holder is None  # the slot was locked a moment ago and its body is not written yet
    return holder.pid == 0 or holder.is_alive()  # an orphaned child process may keep the slot locked a while longer


def is_run_alive(run: RunDir) -> bool:
    """Return whether any process works on the run."""
    return is_lock_held(run.lock_path) or is_run_starting(run)


def kill_run(run: RunDir, grace_seconds: float = 5.0) -> bool:
    """End the run's processes now (SIGTERM, wait, SIGKILL); unsaved work is lost. Return False when none was alive.

    Cancels a queued run. Also works for a worker that another app process started.
    """
    request_run_stop(run)  # first: the process that records the end then sees the request
    holder = find_run_holder(run)
    return holder is not None and end_holder_processes(holder, grace_seconds)


def delete_run(run: RunDir) -> None:
    """Delete the run's directory. Raises RunError while a worker, an evaluation or an export uses it."""
    others = [*run.evaluation_dir.glob("*/lock"), *run.exports_dir.glob("*.lock")]
    with hold_lock(open_run(run.save_dir, run.id).lock_path) as free:
        if not free or is_run_starting(run) or any(map(is_lock_held, others)):
            raise RunError(f"Run {run.id} is still running.", "Stop it first.")
        try:
            remove_tree(run.path)
        except OSError as error:
            raise RunError(
                f"Run {run.id} can't be deleted: {error}.", "Check whether one of its files is in use."
            ) from error


def ended_run_fingerprint(run: RunDir) -> tuple[int, ...]:
    """Return a value that changes whenever anything about an ended run does."""
    try:
        size = stamp_file(f"{run.path}/events.jsonl")[1]
    except OSError:  # not started yet, deleted a moment ago, or not readable, which reading the status explains
        size = -1
    return size, int(is_there(f"{run.path}/stop"))
