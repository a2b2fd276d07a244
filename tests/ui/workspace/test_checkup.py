"""The lengths that the data checks have counted are found again for the same table and settings only."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.fakes.training import make_table
from toolkit.config import Config
from toolkit.data.doctor.truncation import RowLengths
from toolkit.settings.draft import default_draft, draft_from_config, replace_setting
from toolkit.ui.workspace import checkup


def test_counted_lengths_serve_the_forecast_of_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(tmp_path / "t.parquet", [{"message": "ask", "answer": "x"}] * 3)
    lengths = RowLengths(np.array([1, 2, 3], dtype=np.int32), np.array([1, 1, 1], dtype=np.int32))
    key = json.dumps(checkup._lengths_question(table, default_draft()), sort_keys=True, default=str)
    state = {checkup._COUNTED_LENGTHS: (key, lengths, "")}
    monkeypatch.setattr(checkup, "st", SimpleNamespace(session_state=state))
    assert checkup.known_row_lengths(table, draft_from_config(Config())) is lengths
    longer = replace_setting(default_draft(), "training.sft_args.max_seq_length", 512)
    assert checkup.known_row_lengths(table, longer) is lengths, "the length limit plays no part"
    other = replace_setting(default_draft(), "data.prompt", "{answer}")
    assert checkup.known_row_lengths(table, other) is None
