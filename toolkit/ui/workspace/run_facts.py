"""What a run's own files say about it, apart from its state: label, time, dataset, settings. Cached."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import streamlit as st

from toolkit.runs.run_dir import RunDir, read_meta
from toolkit.settings.draft import complete, put
from toolkit.settings.field_spec import by_path, leaves
from toolkit.settings.yaml_file import load_draft, read_text
from toolkit.ui.elements.words import model_name


@dataclass(frozen=True)
class Facts:
    """name: the label, or one made of model and dataset. created: local time. settings: what a study varied.

    dataset: label, rows and sha256 of the run's own table. config: the run's settings as a nested dict, as they were
    asked for: those that were decided at Start are empty. chosen: these, and how each was decided.
    """

    name: str
    created: datetime
    study: str
    settings: dict[str, Any]
    dataset: dict[str, Any]
    config: dict[str, Any]
    chosen: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return model_name(str(self.config["model"]["hf_model_ckpt"]))


def facts(run: RunDir) -> Facts:
    """The facts of a run; raises RunError or ConfigError when its files can't be read."""
    stamp = run.meta_path.stat().st_mtime_ns if run.meta_path.exists() else 0
    return _read(str(run.path), stamp)


@st.cache_data(show_spinner=False, max_entries=1000)
def _read(folder: str, stamp: int) -> Facts:
    del stamp  # part of the cache's key alone
    run = RunDir(Path(folder))
    meta = read_meta(run)
    config = complete(load_draft(read_text(run.config_path)))
    chosen = {str(path): str(why) for path, why in dict(meta.get("chosen") or {}).items() if path in by_path()}
    for path in chosen:
        config = put(config, path, None)
    dataset = dict(meta.get("dataset") or {})
    model = model_name(str(config["model"]["hf_model_ckpt"]))
    return Facts(
        name=str(meta.get("name") or f"{model} on {dataset.get('label') or 'its data'}"),
        created=datetime.fromtimestamp(float(meta["created"])).astimezone(),
        study=str(meta.get("study") or ""),
        settings=dict(meta.get("settings") or {}),
        dataset=dataset,
        config=config,
        chosen=chosen,
    )


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted path -> value, for every setting of the schema that the config has."""
    found: dict[str, Any] = {}
    for spec in leaves():
        here: Any = config
        for part in spec.path.split("."):
            here = here.get(part) if isinstance(here, dict) else None
        found[spec.path] = here
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(path, first's value, second's value) of every setting in which two configs differ; save_dir does not count."""
    left, right = flat(first), flat(second)
    return [(path, left[path], right[path]) for path in left if left[path] != right[path] and path != "save_dir"]
