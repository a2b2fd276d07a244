"""Rows of a run are tokenized once, then taken from the cache, and tokenized again when an input changes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.tokens import count_trained_tokens
from tests.fakes.training import draft, make_run, rows
from toolkit.runs.run_dir import RunDir, read_run_config

pytestmark = pytest.mark.worker
Written = Callable[..., tuple[RunDir, dict[str, Any]]]


@pytest.fixture
def written(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Make a run and write its splits; return it with the "prepared" event."""
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))

    def write(cells: Any = None, length: int = 64, **data: Any) -> tuple[RunDir, dict[str, Any]]:
        from toolkit.worker.models.load import load_tokenizer
        from toolkit.worker.tokens.prepared_rows import open_row_source, write_splits

        settings = draft(tmp_path / "save", tiny_model)
        settings["data"] |= {"train_size": 0.75, "test_size": 0.25, **data}
        run = make_run(settings, cells)
        config = read_run_config(run)
        told: list[dict[str, Any]] = []

        def tell(kind: str, **fields: Any) -> None:
            told.append({"k": kind, **fields})

        tokenizer = load_tokenizer(config)
        write_splits(
            run, config, open_row_source(run, config), tokenizer, length, lambda k, **f: told.append({"k": k, **f})
        )
        return run, next(event for event in told if event["k"] == "prepared")

    return write


def parts(run: RunDir) -> list[list[dict[str, Any]]]:
    from toolkit.worker.tokens.prepared_rows import read_splits

    return [part.to_list() for part in read_splits(run)]


def no_tokenising(*_: Any) -> Any:
    raise AssertionError("the rows were tokenized a second time")


def test_the_written_tokens_equal_the_prepared_examples(written: Written, tmp_path: Path) -> None:
    from toolkit.worker.models.load import load_tokenizer
    from toolkit.worker.tokens.labels import prepare_examples
    from toolkit.worker.tokens.prepared_rows import open_row_source, read_splits, read_token_lengths

    cells = [*rows(3000), {"question": None, "answer": "x"}, *rows(100)]
    run, told = written(cells)
    config = read_run_config(run)
    source = open_row_source(run, config)
    train, test = parts(run)
    expected = prepare_examples(source.examples(source.plan.train), load_tokenizer(config), 64, chat=True)
    assert [row["row"] for row in train] == source.plan.train.tolist()
    assert [row["input_ids"] for row in train] == expected.table["input_ids"].to_pylist()
    assert [row["labels"] for row in train] == expected.table["labels"].to_pylist()
    assert (told["train_tokens"], told["trained_tokens"]) == (expected.tokens, count_trained_tokens(expected))
    assert sorted(row["row"] for row in test) == sorted(source.plan.test.tolist())
    lengths = [len(row["input_ids"]) for row in test]
    assert lengths == sorted(lengths)
    dataset = read_splits(run)[0]
    assert read_token_lengths(dataset) == expected.lengths.tolist()
    assert read_token_lengths(dataset.remove_columns(["length"])) == expected.lengths.tolist()
    assert told["dropped"] == 1


def test_a_second_run_uses_the_cached_tokens(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.tokens import prepared_rows

    first, told = written()
    assert not told["cached"]
    monkeypatch.setattr(prepared_rows, "prepare_batches", no_tokenising)
    again, told = written()
    assert told["cached"]
    assert parts(again) == parts(first)
    other, told = written(train_test_split_seed=7)
    assert told["cached"], "the split is no part of the tokens"
    assert parts(other) != parts(first)
    tokens = [run.data_dir / "tokens.arrow" for run in (first, again)]
    assert tokens[0].samefile(tokens[1]), "no second copy on the disk"


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "{question}!"},
        {"prompt_stub": " {answer}"},
        {"length": 32, "accepted": ["prompt_too_long", "end_untrained"]},
        {"use_chat_template": False},
        {"cells": rows(23)},
        {"train_size": 10, "test_size": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_input_of_the_tokens_is_part_of_the_key(written: Written, change: dict[str, Any]) -> None:
    written()
    run, told = written(**change)
    assert not told["cached"]
    assert len(parts(run)[0]) == told["train_rows"]


def test_the_tokenizer_is_part_of_the_key(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from toolkit.worker.tokens.cache import fingerprint_tokenizer

    first, second, third = (AutoTokenizer.from_pretrained(tiny_model) for _ in range(3))
    assert fingerprint_tokenizer(first) == fingerprint_tokenizer(second)
    second.add_tokens(["<new>"])
    third.chat_template += " "
    assert len({fingerprint_tokenizer(tokenizer) for tokenizer in (first, second, third)}) == 3


def test_a_damaged_cache_entry_is_replaced(written: Written, tmp_path: Path) -> None:
    first, _ = written()
    (entry,) = (tmp_path / "save" / "cache" / "tokens").glob("[!.]*")
    whole = (entry / "tokens.arrow").read_bytes()
    (entry / "tokens.arrow").unlink()
    (entry / "tokens.arrow").write_bytes(whole[:-50] + b"x" * 50)
    run, told = written()
    assert not told["cached"]
    assert parts(run) == parts(first)
    assert written()[1]["cached"]


def test_an_interrupted_preparation_leaves_cache_entries_unchanged(written: Written, tmp_path: Path) -> None:
    from toolkit.worker.models.load import load_tokenizer
    from toolkit.worker.tokens.prepared_rows import open_row_source, write_splits

    run, _ = written()
    config, before = read_run_config(run), parts(run)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # the same folder again, other tokens, and stopped after the first batch
        write_splits(run, config, open_row_source(run, config), load_tokenizer(config), 40, lambda *_, **__: None, stop)
    again, told = written()
    assert told["cached"]
    assert parts(again) == before


def test_a_cache_that_can_not_be_written_does_not_fail_the_run(written: Written, tmp_path: Path) -> None:
    (tmp_path / "save").mkdir()
    (tmp_path / "save" / "cache").write_text("a file where the folder should be")
    run, told = written()
    assert not told["cached"]
    assert len(parts(run)[0]) == told["train_rows"]


def test_an_entry_that_can_not_be_copied_stays_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.tokens import cache as cache_module

    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    source = tmp_path / "made"
    source.write_bytes(b"x")
    cache = cache_module.TokenCache(tmp_path)
    cache.store("a", source)
    assert not cache.link_into("a", tmp_path / "no folder" / "own")
    assert cache.link_into("a", tmp_path / "own")


def test_the_least_recently_used_entries_are_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.tokens import cache as cache_module

    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(cache_module, "TOKEN_CACHE_MAX_BYTES", 30_000)
    source = tmp_path / "made"
    source.write_bytes(b"x" * 10_000)
    cache = cache_module.TokenCache(tmp_path)
    for used, name in enumerate(("a", "b"), start=1):
        cache.store(name, source)
        os.utime(cache.folder / name, (used, used))  # a clock's tick may be longer than all of this
    assert cache.link_into("a", tmp_path / "own")
    cache.store("c", source)
    assert cache.link_into("a", tmp_path / "own")
    assert not cache.link_into("b", tmp_path / "own")
    assert (tmp_path / "own").read_bytes() == source.read_bytes(), "what a run holds stays"


def test_parallel_writers_leave_one_intact_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.tokens import cache as cache_module

    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    source = tmp_path / "made"
    source.write_bytes(np.arange(50_000).tobytes())
    cache = cache_module.TokenCache(tmp_path)
    threads = [threading.Thread(target=cache.store, args=("a" * 24, source)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.link_into("a" * 24, tmp_path / "own")
    assert (tmp_path / "own").read_bytes() == source.read_bytes()
    assert [path.name for path in cache.folder.iterdir() if path.name != ".lock"] == ["a" * 24]
    assert json.loads((cache.folder / ("a" * 24) / "COMMIT.json").read_bytes())["key"] == "a" * 24


def test_a_row_of_several_sequences_has_several_positions() -> None:
    from toolkit.worker.tokens.prepared_rows import _find_positions

    side = _find_positions(np.array([0, 0, 1, 3, 3]), np.array([3, 2, 0]))
    assert side.positions.tolist() == [3, 4, 0, 1], "in the order of the rows"
    assert side.lost == 1
    assert _find_positions(np.array([], dtype=np.int64), np.array([1])).lost == 1
