"""What a run is made from: its table, and optionally a checkpoint of another run whose weights it starts with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field

from toolkit.system.durable import durable_copy, fsync_dir, sign_body

RUN_SCHEMA = 1
LAST_SECOND = 2**35
"""Largest creation time of a run, in Unix seconds: the year 3058."""


class SourceTable(Protocol):
    """The part of `data.table.Table` that a run needs."""

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


def sign_approval(folder: Path) -> str:
    """Return the signature with which a run's directory may start; it is valid for this path and installation only.

    Raises RunError if the installation's key can't be used.
    """
    return sign_body({"approved run": str(folder.resolve())})


def build_run_meta(
    run_id: str,
    now: float,
    dataset: dict[str, Any],
    name: str,
    study: str,
    settings: dict[str, Any] | None,
    start: StartingCheckpoint | None,
    chosen: Mapping[str, str],
    content: str = "",
    memory_bytes: int = 0,
) -> dict[str, Any]:
    """Return the content of run.json.

    now: Unix seconds. chosen: settings decided for the user, and the reasons. content: what the run trains, see
    `settings/training_content.py`. memory_bytes: the forecast of one process, 0 without one.
    """
    meta: dict[str, Any] = {
        "schema": RUN_SCHEMA,
        "id": run_id,
        "name": name.strip(),
        "created": now,
        "study": study.strip(),
        "settings": settings or {},
        "dataset": dataset,
    }
    if chosen:
        meta["chosen"] = dict(chosen)
    if memory_bytes:
        meta["memory_bytes"] = memory_bytes
    if start is not None:
        # it begins with other weights than its settings say, so it is no repetition of another run
        return {**meta, "start": {"run": start.run, "step": start.step}}
    return {**meta, "content": content}


class _Dataset(BaseModel):
    label: str | None = None
    rows: Annotated[int, Field(ge=0)] | None = None
    sha256: str | None = None
    version: dict[str, Any] | None = None


class _Start(BaseModel):
    run: str
    step: Annotated[int, Field(ge=0)]


class _RunMeta(BaseModel):
    name: str | None = None
    created: Annotated[float, Field(ge=0, le=LAST_SECOND)]
    study: str | None = None
    settings: dict[str, Any] | None = None
    dataset: _Dataset | None = None
    chosen: dict[str, str] | None = None
    start: _Start | None = None
    approved: str | None = None
    job: str | None = None
    memory_bytes: Annotated[int, Field(ge=0)] | None = None


def check_run_meta(body: Any) -> None:
    """Check the types of run.json, which another program may have written. Raises ValueError."""
    _RunMeta.model_validate(body)


def link_or_copy_file(source: Path, target: Path) -> None:
    """Create `target` as a hard link to `source`, or as a copy where links are not possible. Raises OSError."""
    try:
        os.link(source, target)
    except OSError:  # a different file system, or one without hard links
        durable_copy(source, target)


def link_or_copy_checkpoint(checkpoint: Path, target: Path) -> None:
    """Link or copy the files of a checkpoint's folder into the new folder `target`. Raises OSError."""
    target.mkdir()
    # links are safe: files of a committed checkpoint are never written again
    for path in sorted(checkpoint.iterdir()):
        link_or_copy_file(path, target / path.name)
    fsync_dir(target)
