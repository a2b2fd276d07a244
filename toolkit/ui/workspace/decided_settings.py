"""A draft's run as its forecast settles it, worked out once for the same settings, data and machine. Draws nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import streamlit as st

from toolkit.config import Config
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.forecast.decisions import Settled, settle
from toolkit.forecast.scene import Unknown
from toolkit.settings.ablation import Variant
from toolkit.system.machine import machine_if_known
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import table_for, varies_table

NEITHER = ("save_dir", "ablation", "inference")
"""Sections that change nothing about what training takes."""
_KEPT, _MOST = "settled", 16


def matters(config: Config) -> str:
    """What of a config decides what training takes."""
    return config.model_dump_json(exclude=set(NEITHER))


def settled(variant: Variant) -> Settled:
    """What Start would do with this run of the draft."""
    config, table = variant.config, workspace.table()
    if varies_table(variant.settings):
        try:
            table = table_for(config)
        except DataError as error:
            return Settled(config, Unknown(error.message))
    return _kept(config, table)


def forget() -> None:
    """Look anew next time: something that a forecast waited for may be there."""
    st.session_state.pop(_KEPT, None)


def _kept(config: Config, table: Table | None) -> Settled:
    machine = machine_if_known(workspace.save_dir())
    key = json.dumps([matters(config), table.sha256 if table else "", repr(machine)])
    kept = cast("Mapping[str, Settled]", st.session_state.get(_KEPT, {}))
    if key not in kept or isinstance(kept[key].found, Unknown):
        newest = dict(list(kept.items())[-_MOST + 1 :])
        st.session_state[_KEPT] = kept = {**newest, key: settle(config, table, machine, workspace.save_dir())}
    return kept[key]
