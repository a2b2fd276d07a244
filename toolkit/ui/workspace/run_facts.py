"""What a run's own files say about it, apart from its state: label, time, dataset, settings. Cached."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import streamlit as st

from toolkit.runs.run_dir import RunDir, read_run_meta
from toolkit.settings.draft import fill_defaults, replace_setting
from toolkit.settings.field_spec import field_specs_by_path, list_field_specs
from toolkit.settings.yaml_file import load_draft, read_config_text
from toolkit.ui.elements.words import short_model_name


@dataclass(frozen=True)
class RunSummary:
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
        return short_model_name(str(self.config["model"]["hf_model_ckpt"]))


def read_run_summary(run: RunDir) -> RunSummary:
    """The facts of a run; raises RunError or ConfigError when its files can't be read."""
    stamp = run.meta_path.stat().st_mtime_ns if run.meta_path.exists() else 0
    return _read_cached(str(run.path), stamp)


@st.cache_data(show_spinner=False, max_entries=1000)
def _read_cached(folder: str, stamp: int) -> RunSummary:
    del stamp  # part of the cache's key alone
    run = RunDir(Path(folder))
    meta = read_run_meta(run)
    config = fill_defaults(load_draft(read_config_text(run.config_path)))
    chosen = {
        str(path): str(why) for path, why in dict(meta.get("chosen") or {}).items() if path in field_specs_by_path()
    }
    for path in chosen:
        config = replace_setting(config, path, None)
    dataset = dict(meta.get("dataset") or {})
    model = short_model_name(str(config["model"]["hf_model_ckpt"]))
    return RunSummary(
        name=str(meta.get("name") or f"{model} on {dataset.get('label') or 'its data'}"),
        created=datetime.fromtimestamp(float(meta["created"])).astimezone(),
        study=str(meta.get("study") or ""),
        settings=dict(meta.get("settings") or {}),
        dataset=dataset,
        config=config,
        chosen=chosen,
    )


def flatten_config(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted path -> value, for every setting of the schema that the config has."""
    found: dict[str, Any] = {}
    for spec in list_field_specs():
        here: Any = config
        for part in spec.path.split("."):
            here = here.get(part) if isinstance(here, dict) else None
        found[spec.path] = here
    return found


def config_differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(path, first's value, second's value) of every setting in which two configs differ; save_dir does not count."""
    left, right = flatten_config(first), flatten_config(second)
    return [(path, left[path], right[path]) for path in left if left[path] != right[path] and path != "save_dir"]
