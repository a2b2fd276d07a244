"""Summaries of runs from their own files: name, creation time, dataset and settings. Cached."""

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
    """A run apart from its state.

    name: given by the user, or made from model and dataset. created: local time. settings: values that a study varied.
    dataset: label, rows and sha256 of the run's own table.
    config: the run's settings as a nested dict, as the user set them: those that Start decided are None.
    chosen: path of each setting that Start decided -> the reason.
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
    """Read the summary of a run. Raises: RunError or ConfigError if its files can't be read."""
    stamp = run.meta_path.stat().st_mtime_ns if run.meta_path.exists() else 0
    return _read_cached(str(run.path), stamp)


@st.cache_data(show_spinner=False, max_entries=1000)
def _read_cached(folder: str, stamp: int) -> RunSummary:
    del stamp  # only part of the cache key
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
    """Return dotted path -> value for every setting of the schema; None for one that the config does not have."""
    flat: dict[str, Any] = {}
    for spec in list_field_specs():
        value: Any = config
        for part in spec.path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        flat[spec.path] = value
    return flat


def config_differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (path, first value, second value) of every setting except save_dir in which two configs differ."""
    left, right = flatten_config(first), flatten_config(second)
    return [(path, left[path], right[path]) for path in left if left[path] != right[path] and path != "save_dir"]
