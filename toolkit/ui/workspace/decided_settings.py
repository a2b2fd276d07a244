"""A draft's run as its forecast settles it, worked out once for the same settings, data and machine. Draws nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import streamlit as st

from toolkit.config import Config
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.forecast.decisions import DecidedSettings, decide_open_settings
from toolkit.forecast.scene import NoForecast
from toolkit.settings.ablation import StudyTrial
from toolkit.system.machine import read_known_machine
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import open_run_table, varies_table

IRRELEVANT_SECTIONS = ("save_dir", "ablation", "inference")
"""Sections that change nothing about what training takes."""
_CACHE, _MAX_CACHED = "settled", 16


def relevant_settings(config: Config) -> str:
    """What of a config decides what training takes."""
    return config.model_dump_json(exclude=set(IRRELEVANT_SECTIONS))


def decide_trial_settings(variant: StudyTrial) -> DecidedSettings:
    """What Start would do with this run of the draft."""
    config, table = variant.config, workspace.current_table()
    if varies_table(variant.settings):
        try:
            table = open_run_table(config)
        except DataError as error:
            return DecidedSettings(config, NoForecast(error.message))
    return _decide_cached(config, table)


def forget_decided_settings() -> None:
    """Look anew next time: something that a forecast waited for may be there."""
    st.session_state.pop(_CACHE, None)


def _decide_cached(config: Config, table: Table | None) -> DecidedSettings:
    machine = read_known_machine(workspace.current_save_dir())
    key = json.dumps([relevant_settings(config), table.sha256 if table else "", repr(machine)])
    kept = cast("Mapping[str, DecidedSettings]", st.session_state.get(_CACHE, {}))
    if key not in kept or isinstance(kept[key].found, NoForecast):
        newest = dict(list(kept.items())[-_MAX_CACHED + 1 :])
        st.session_state[_CACHE] = kept = {
            **newest,
            key: decide_open_settings(config, table, machine, workspace.current_save_dir()),
        }
    return kept[key]
