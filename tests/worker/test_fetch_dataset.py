"""Hugging Face datasets become tables of text; without a network that is said within seconds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from toolkit.config import DataConfig
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import load_table
from toolkit.errors import DataError

pytestmark = pytest.mark.worker


def test_values_become_text(tmp_path: Path) -> None:
    import datasets

    from toolkit.worker.fetch_dataset import write_split_table

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "number": datasets.Value("float64"),
            "list": datasets.List(datasets.Value("int64")),
            "picture": datasets.Image(),
        }
    )
    rows = {
        "text": ["007", None, "é"],
        "label": [0, 1, -1],
        "number": [1.5, None, 2.0],
        "list": [[1, 2], [], None],
        "picture": [None, None, None],
    }
    write_split_table(
        datasets.Dataset.from_dict(rows, features=features), tmp_path, "me/mine", ["Read the split train."]
    )
    table = load_table(tmp_path / "table.parquet")
    assert table.page(0, 9) == [
        {"text": "007", "label": "bad", "number": "1.5", "list": "[1, 2]"},
        {"text": None, "label": "good", "number": None, "list": "[]"},
        {"text": "é", "label": None, "number": "2.0", "list": None},
    ]
    said = " ".join(table.notices)
    assert "split train" in said
    assert "not text were skipped: picture" in said
    assert "their names: label" in said
    assert "JSON text: list" in said
    assert len(table.sha256) == 64


def test_the_training_split_is_read_and_the_rest_named() -> None:
    from toolkit.worker.fetch_dataset import choose_hub_split

    assert choose_hub_split("x", {"test": 5, "train": 10}) == (
        "train",
        ["Only the split train was read; ignored: test."],
    )
    assert choose_hub_split("x", {"train": 10}) == ("train", [])
    assert choose_hub_split("x", {"validation": 10}) == ("validation", [])
    for sizes in ({}, {"a": 1, "b": 2}):
        with pytest.raises(DataError) as caught:
            choose_hub_split("x", sizes)
        assert caught.value.hint


def test_offline_is_said_soon_and_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    started = time.monotonic()
    data = DataConfig(file_type="huggingface", path="nobody/never-cached")
    with pytest.raises(DataError, match="nobody/never-cached is not on this machine") as caught:
        open_table(data, tmp_path)
    assert "CSV, JSON or Parquet" in caught.value.hint
    assert time.monotonic() - started < 45
