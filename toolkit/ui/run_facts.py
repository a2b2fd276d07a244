"""What a run's own files say about it, apart from its state: name, time, dataset, config. Cached, as none changes
but the label.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import streamlit as st
import yaml

from toolkit.errors import RunError
from toolkit.runs.rundir import RunDir


@dataclass(frozen=True)
class Facts:
    """created: local time, None when unknown. settings: what a study varied. config: the run's nested dict."""

    name: str
    created: datetime | None
    study: str
    settings: dict[str, Any]
    dataset: dict[str, Any]
    config: dict[str, Any]


def facts(run: RunDir) -> Facts:
    """The facts of a run; raises RunError when its files can't be read."""
    if not run.meta_path.exists() or not run.config_path.exists():
        raise RunError(f"The folder of run {run.id} is not complete.", "Delete it.")
    return _read(str(run.path), run.meta_path.stat().st_mtime_ns)


@st.cache_data(show_spinner=False, max_entries=500)
def _read(folder: str, stamp: int) -> Facts:
    del stamp  # part of the cache's key alone
    run = RunDir(Path(folder))
    try:
        meta = json.loads(run.meta_path.read_text(encoding="utf-8"))
        config = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"The files of run {run.id} can't be read: {error}.", "Delete it.") from error
    return Facts(
        name=str(meta.get("name") or run.id),
        created=_time(meta.get("created")),
        study=str(meta.get("study") or ""),
        settings=dict(meta.get("settings") or {}),
        dataset=dict(meta.get("dataset") or {}),
        config=config if isinstance(config, dict) else {},
    )


def _time(created: Any) -> datetime | None:
    if isinstance(created, int | float):
        return datetime.fromtimestamp(created).astimezone()
    if isinstance(created, str):
        try:
            return datetime.fromisoformat(created).astimezone()
        except ValueError:
            return None
    return None
