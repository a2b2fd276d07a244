"""What a run is made from: a table, and perhaps a checkpoint of another run whose weights it begins with.

Knows how these become the new run's own files and facts; the directory itself is made in `rundir.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolkit.system.durable import durable_copy, fsync_dir

RUN_SCHEMA = 1


class SourceTable(Protocol):
    """What a run needs to know of its table (`data.sources.Table` is one)."""

    @property
    def path(self) -> Path: ...
    @property
    def sha256(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def rows(self) -> int: ...


@dataclass(frozen=True)
class StartingCheckpoint:
    """A committed checkpoint of another run. path: its folder; run: that run's id."""

    path: Path
    run: str
    step: int


def build_run_meta(
    run_id: str,
    now: float,
    dataset: dict[str, Any],
    name: str,
    study: str,
    settings: dict[str, Any] | None,
    start: StartingCheckpoint | None,
    chosen: Mapping[str, str],
) -> dict[str, Any]:
    """The content of run.json. chosen: settings that were decided for the user, and why."""
    meta = {
        "schema": RUN_SCHEMA, "id": run_id, "name": name.strip(), "created": now, "study": study.strip(),
        "settings": settings or {}, "dataset": dataset,
        **({"chosen": dict(chosen)} if chosen else {}),
    }  # fmt: skip
    return meta if start is None else {**meta, "start": {"run": start.run, "step": start.step}}


def link_or_copy_file(source: Path, target: Path) -> None:
    """Give a run a file of its own, without a second copy on the disk where the file system can. Raises OSError."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        durable_copy(source, target)


def link_or_copy_checkpoint(checkpoint: Path, target: Path) -> None:
    """The same for a checkpoint's folder; committed files are never written again. Raises OSError."""
    target.mkdir()
    for path in sorted(checkpoint.iterdir()):
        link_or_copy_file(path, target / path.name)
    fsync_dir(target)
