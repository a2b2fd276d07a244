"""The trials of the draft with the settings that the forecast decides, cached by settings, data and machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import streamlit as st

from toolkit.config import Config
from toolkit.data.read_options import source_key
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.forecast.decisions import DecidedSettings, decide_open_settings
from toolkit.forecast.scene import NoForecast
from toolkit.runs.slots import count_slots
from toolkit.settings.ablation import StudyTrial
from toolkit.settings.draft import draft_from_config
from toolkit.system.machine import read_known_machine
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.checkup import known_row_lengths
from toolkit.ui.workspace.review import open_run_table, varies_table

IRRELEVANT_SECTIONS = ("save_dir", "ablation", "inference")
"""Settings that do not change the time and memory of training."""
_CACHE = "settled"
_MAX_CACHED = 16
"""Decisions kept per session: those of the trials on screen and of a few earlier drafts."""


def relevant_settings(config: Config) -> str:
    """Return a key of the settings that decide the time and memory of training."""
    return _with_seed(config, 0).model_dump_json(exclude=set(IRRELEVANT_SECTIONS))


def _with_seed(config: Config, seed: int) -> Config:
    args = config.training.training_args.model_copy(update={"seed": seed})
    training = config.training.model_copy(update={"training_args": args})
    return config.model_copy(update={"training": training})


def decide_trial_settings(trial: StudyTrial) -> DecidedSettings:
    """Return the settings and the forecast that this trial of the draft would start with."""
    return decide_all_trials([trial])[0]


def decide_all_trials(trials: Sequence[StudyTrial]) -> list[DecidedSettings]:
    """Return the settings and the forecast of each trial; a table that several trials use is opened once."""
    tables: dict[str, Table | DataError] = {}
    decided = []
    for trial in trials:
        table = _trial_table(trial, tables) if varies_table(trial.settings) else workspace.current_table()
        if isinstance(table, DataError):
            decided.append(DecidedSettings(trial.config, NoForecast(table.message)))
        else:
            decided.append(_decide_cached(trial.config, table))
    return decided


def _trial_table(trial: StudyTrial, tables: dict[str, Table | DataError]) -> Table | DataError:
    key = source_key(trial.config.data)
    if key not in tables:
        try:
            tables[key] = open_run_table(trial.config)
        except DataError as error:
            tables[key] = error
    return tables[key]


def _decide_cached(config: Config, table: Table | None) -> DecidedSettings:
    machine = read_known_machine(workspace.current_save_dir())
    slots = count_slots(workspace.current_save_dir(), machine)
    lengths = known_row_lengths(table, draft_from_config(config)) if table is not None else None
    key = json.dumps(
        [relevant_settings(config), table.sha256 if table else "", repr(machine), lengths is not None, slots]
    )
    cached = cast("Mapping[str, DecidedSettings]", st.session_state.get(_CACHE, {}))
    # what a forecast lacked may have arrived since, so a missing one is tried again
    if key not in cached or isinstance(cached[key].found, NoForecast):
        newest = dict(list(cached.items())[-_MAX_CACHED + 1 :])
        # exact lengths, if the data checks have counted them, instead of a sample of the rows
        counts = None if lengths is None else np.column_stack([lengths.prompt, lengths.completion])
        decided = decide_open_settings(config, table, machine, workspace.current_save_dir(), counts)
        st.session_state[_CACHE] = cached = {**newest, key: decided}
    # the cached config may differ from this one in the irrelevant sections and in the seed; decisions are in `training`
    decided_config = config.model_copy(update={"training": cached[key].config.training})
    return replace(cached[key], config=_with_seed(decided_config, config.training.training_args.seed))
