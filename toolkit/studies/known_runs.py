"""The runs of a save_dir by what they train, and what a study from before its file existed asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.runs.kept_facts import FileStamp, keep_fact, recall_fact, stamp_file
from toolkit.runs.run_dir import RunDir, list_runs, read_run_config, read_run_meta
from toolkit.settings.training_content import hash_training_content, leave_chosen_open
from toolkit.studies.question import (
    AskedTrial,
    StudyQuestion,
    ask_study_of_runs,
    clean_study_name,
    read_question,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownRun:
    """A run with what it was started for and what it trains."""

    run: RunDir
    study: str
    settings: dict[str, Any]
    content: str


def list_known_runs(save_dir: Path, name: str) -> list[KnownRun]:
    """Return the runs whose content is known, newest first; runs from before it was stored count for their study."""
    found = []
    for run in list_runs(save_dir):
        try:
            found.append(_read_known_run(run, stamp_file(f"{run.path}/run.json"), name))
        except OSError:  # it is being deleted, or has no such file
            continue
        except ToolkitError as error:
            # the list of runs shows this error to the user
            logger.info("run %s can't be part of a study: %s", run.id, error)
    return [one for one in found if one.content]


def read_study_name(run: RunDir) -> str:
    """Return the name of the run's study, "" for none. Raises RunError."""
    try:
        stamp = stamp_file(f"{run.path}/run.json")
    except OSError:  # reading it explains why
        stamp = ()
    return _read_study_name(run, stamp)


@lru_cache(maxsize=20_000)
def _read_study_name(run: RunDir, stamp: FileStamp) -> str:
    kept = recall_fact(str(run.path.parent), run.id, "study", stamp)
    if kept is not None:
        return str(kept)
    name = clean_study_name(str(read_run_meta(run).get("study") or ""))
    keep_fact(str(run.path.parent), run.id, "study", stamp, name)
    return name


@lru_cache(maxsize=20_000)
def _read_known_run(run: RunDir, stamp: FileStamp, name: str) -> KnownRun:
    del stamp  # only part of the cache key
    meta = read_run_meta(run)
    study = clean_study_name(str(meta.get("study") or ""))
    settings, content = dict(meta.get("settings") or {}), meta.get("content")
    if content is None and "start" not in meta and study == name:
        dataset = str(meta.get("dataset", {}).get("sha256") or "")
        content = hash_training_content(read_own_config(run, meta), dataset)
    return KnownRun(run, study, settings, str(content or ""))


def read_own_config(run: RunDir, meta: Mapping[str, Any]) -> Config:
    """Return the settings of a run as the user set them."""
    return leave_chosen_open(read_run_config(run), meta.get("chosen") or {})


def read_old_question(save_dir: Path, name: str) -> StudyQuestion | None:
    """Return what the study of that name asks: from its file, else from its runs; None when there is no such study."""
    name = clean_study_name(name)
    return read_question(save_dir, name) or _ask_from_runs(save_dir, name)


def _ask_from_runs(save_dir: Path, name: str) -> StudyQuestion | None:
    """Return what a study without a file asked; None when no run has its name."""
    own = sorted((one for one in list_known_runs(save_dir, name) if one.study == name), key=lambda one: one.run.id)
    if not own:
        return None
    metas = [read_run_meta(one.run) for one in own]
    configs = [read_own_config(one.run, meta) for one, meta in zip(own, metas, strict=True)]
    trials = [
        AskedTrial(one.settings, config.training.training_args.seed, one.content)
        for one, config in zip(own, configs, strict=True)
    ]
    datasets = [str(meta.get("dataset", {}).get("sha256") or "") for meta in metas]
    return ask_study_of_runs(name, trials, configs[0], datasets)
