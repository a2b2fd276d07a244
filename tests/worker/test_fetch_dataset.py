"""Hugging Face datasets become tables of text; without a network that is said within seconds."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.config import DataConfig
from toolkit.data.read_options import ReadOptions, UnreadableError
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


def test_the_splits_are_offered_and_one_is_chosen() -> None:
    from toolkit.worker.fetch_dataset import choose_hub_split

    sizes = {"en": 5, "de": 7}
    with pytest.raises(UnreadableError) as caught:
        choose_hub_split("x", sizes)
    (_, german) = caught.value.offers
    assert german.label == "Read the split 'de' (7 rows)"
    assert choose_hub_split("x", sizes, german.options) == ("de", [])
    with pytest.raises(UnreadableError, match="no split named 'fr'"):
        choose_hub_split("x", sizes, ReadOptions(hub_split="fr"))


def test_the_configurations_are_offered_and_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from toolkit.worker import fetch_dataset

    asked: list[object] = []
    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})

    def load(name: str, config: str | None, revision: str | None) -> dict[str, datasets.Dataset]:
        asked.append((name, config, revision))
        return {"train": rows, "test": rows}

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name, revision: ["main", "socratic"])
    monkeypatch.setattr(datasets, "get_dataset_default_config_name", lambda name, revision: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UnreadableError, match="2 configurations: main, socratic") as caught:
        fetch_dataset.fetch_dataset_table("o/n", tmp_path, online=True)
    assert asked == []
    chosen = replace(caught.value.offers[1].options, hub_split="test", hub_revision="v1")
    fetch_dataset.fetch_dataset_table("o/n", tmp_path, online=True, options=chosen)
    assert asked == [("o/n", "socratic", "v1")]
    assert load_table(tmp_path / "table.parquet").notices == ()


def test_offline_is_said_soon_and_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    started = time.monotonic()
    data = DataConfig(file_type="huggingface", path="nobody/never-cached")
    with pytest.raises(DataError, match="nobody/never-cached is not on this machine") as caught:
        open_table(data, tmp_path)
    assert "CSV, JSON or Parquet" in caught.value.hint
    assert time.monotonic() - started < 45
