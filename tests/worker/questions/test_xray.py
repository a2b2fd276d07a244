"""The token view equals the ids and labels of the first batch inside SFTTrainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, make_run, rows
from toolkit.config import Config
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.worker.training.session_context import TrainingSession

pytestmark = pytest.mark.worker

CELLS = [
    *rows(14),
    {"question": "emoji 🦊 and ünïcode", "answer": "東京 🗼"},
    {"question": "a long one " * 12, "answer": "that is cut away as a whole"},
    {"question": "half", "answer": "of a long answer is cut off " * 8},
    {"question": "", "answer": "an answer to nothing"},
    {"question": "nothing", "answer": None},
]
SHORT = 56
EVERY = ["prompt_too_long", "nothing_trained", "end_untrained", "boundary_merged"]


class Quiet:
    """A job without progress reports."""

    def report_progress(self, phase: str, done: int = 0, total: int = 0) -> None:
        return


class Captured(Exception):
    """Raised when the first batch was captured."""


def run_of(save_dir: Path, model: Path, length: int, **changed: Any) -> RunDir:
    settings = draft(save_dir, model, per_device_train_batch_size=64)
    settings["data"] |= {"train_size": len(CELLS) - 2, "test_size": 1, "accepted": EVERY, "prompt": "{question} "}
    settings["training"]["sft_args"] = {"max_seq_length": length, **changed}
    return make_run(settings, CELLS)


def first_batch(run: RunDir) -> list[tuple[list[int], list[int]]]:
    """Return (ids, labels) of each row of the first batch that reaches the loss, without padding."""
    from toolkit.worker.models import load
    from toolkit.worker.process.stop import StopSignal
    from toolkit.worker.tokens.prepared_rows import open_row_source, read_splits, write_splits
    from toolkit.worker.training import session
    from toolkit.worker.training.trainer import PreparedTrainer

    config = read_run_config(run)
    folder = load.resolve_model_folder(config)
    tokenizer = load.load_tokenizer(config, folder)
    said = TrainingSession(run, config, lambda *_, **__: None, StopSignal(run.stop_path))
    write_splits(
        run,
        config,
        open_row_source(run, config),
        tokenizer,
        session._example_length(config, folder, said.emit),
        said.emit,
    )
    seen: list[dict[str, Any]] = []

    def stop_at_loss(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        seen.append({name: value.clone() for name, value in inputs.items()})
        raise Captured

    trainer = session.make_trainer(said, load.detect_compute_device(config), folder, tokenizer, *read_splits(run))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Captured):
        patch.setattr(PreparedTrainer, "compute_loss", stop_at_loss)
        trainer.train()
    batch = seen[0]
    if "position_ids" in batch:
        return unpacked(batch)
    sizes = batch["attention_mask"].sum(1).tolist()
    return [
        (ids[:size].tolist(), labels[:size].tolist())
        for ids, labels, size in zip(batch["input_ids"], batch["labels"], sizes, strict=True)
    ]


def unpacked(batch: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Return (ids, labels) of each example in packed rows; an example starts at position 0."""
    found: list[tuple[list[int], list[int]]] = []
    for row in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), batch["position_ids"].tolist(), strict=True):
        for token, label, position in zip(*row, strict=True):
            if position == 0:
                found.append(([], []))
            assert position == len(found[-1][0])
            found[-1][0].append(token)
            found[-1][1].append(label)
    return [one for one in found if len(one[0]) > 1]  # padding is one token at a time


def shown_rows(run: RunDir, config: Config, count: int = len(CELLS)) -> dict[int, dict[str, Any]]:
    from toolkit.worker.questions import xray

    body = {"config": config.model_dump(mode="json"), "table": str(run.source_path)}
    return {row: xray.answer_token_view({**body, "row": row}, Quiet()) for row in range(count)}  # type: ignore[arg-type]


def as_trained(shown: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return (ids, labels) according to the token view, without truncated tokens."""
    tokens = [token for part in shown["parts"] for token in part["tokens"]]
    kept = [token for token in tokens if token[3] != "c"]
    return [t[0] for t in kept], [t[0] if t[3] == "t" else -100 for t in kept]


@pytest.mark.parametrize("length", [SHORT, 200])
@pytest.mark.parametrize("chat", [True, False])
def test_the_first_batch_equals_the_token_view(
    chat: bool, length: int, tiny_model: Path, tiny_plain_model: Path, save_dir: Path
) -> None:
    run = run_of(save_dir, tiny_model if chat else tiny_plain_model, length)
    shown = shown_rows(run, read_run_config(run))
    assert shown.pop(len(CELLS) - 1) == {"usable": False}
    expected = [as_trained(one) for one in shown.values() if not one["left_out"]]
    batch = first_batch(run)
    # one usable row is the test row
    assert len(batch) >= len(expected) - 1 >= 14
    for ids, labels in batch:
        # nothing stands before the first token: the loss never counts it
        assert (ids, [-100, *labels[1:]]) in expected
    assert any(one["left_out"] for one in shown.values()) == (length == SHORT)
    assert any(one["kept"] < one["total"] for one in shown.values()) == (length == SHORT)
    assert all(one["chat"] == chat for one in shown.values())


@pytest.mark.parametrize("length", [SHORT, 200])
def test_the_first_batch_of_conversations_equals_the_token_view(length: int, tiny_model: Path, save_dir: Path) -> None:
    turns = [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "one 🦊"},
        {"role": "assistant", "content": "a first answer"}, {"role": "user", "content": "two"},
        {"role": "assistant", "content": "read alone", "weight": 0}, {"role": "user", "content": "three"},
        {"role": "assistant", "content": "and a last one, long enough to be cut off " * 2},
    ]  # fmt: skip
    chats = [turns[:3], turns[:5], turns, turns[1:3], [*turns[:2], {"role": "assistant", "content": "东京 " * 9}]] * 3
    cells: list[dict[str, str | None]] = [{"messages": json.dumps(chat)} for chat in chats]
    settings = draft(save_dir, tiny_model, per_device_train_batch_size=64)
    settings["data"] |= {"messages": "messages", "train_size": len(chats) - 1, "test_size": 1, "accepted": EVERY}
    settings["training"]["sft_args"] = {"max_seq_length": length}
    run = make_run(settings, cells)
    shown = list(shown_rows(run, read_run_config(run), len(chats)).values())
    expected = [as_trained(one) for one in shown if not one["left_out"]]
    batch = first_batch(run)
    assert len(batch) >= len(expected) - 1
    for ids, labels in batch:
        assert (ids, [-100, *labels[1:]]) in expected
    states = "".join(token[3] for part in shown[2]["parts"] for token in part["tokens"])
    assert states[shown[2]["begins"]] == "t"
    assert all(states[at] in "tc" and states[at - 1] != "t" for at in shown[2]["answers"])
    assert len(shown[2]["answers"]) == 1, "the answer of weight 0 is none"
    assert "tm" in states.rstrip("c"), "an earlier answer is learned, and what follows is not"
    assert ("c" in states) == (length == SHORT)


def test_packed_rows_equal_the_token_view(tiny_model: Path, save_dir: Path) -> None:
    run = run_of(save_dir, tiny_model, 200, packing="packed")
    shown = shown_rows(run, read_run_config(run))
    expected = [as_trained(one) for one in shown.values() if one["usable"]]
    batch = first_batch(run)
    assert len(batch) == len(expected) - 1
    assert all((ids, [-100, *labels[1:]]) in expected for ids, labels in batch)


def test_the_prompt_is_trained_without_loss_on_completion_only(tiny_plain_model: Path, save_dir: Path) -> None:
    run = run_of(save_dir, tiny_plain_model, 200, completion_only_loss=False)
    shown = shown_rows(run, read_run_config(run))
    expected = [as_trained(one) for one in shown.values() if one["usable"]]
    batch = first_batch(run)
    assert all((ids, [-100, *labels[1:]]) in expected for ids, labels in batch)
    assert all(labels == ids for ids, labels in batch)


def test_the_collator_is_that_of_the_trainer(tiny_model: Path, save_dir: Path) -> None:
    from toolkit.worker.models import load
    from toolkit.worker.process.stop import StopSignal
    from toolkit.worker.tokens.labels import make_collator
    from toolkit.worker.tokens.prepared_rows import open_row_source, read_splits, write_splits
    from toolkit.worker.training import session

    run = run_of(save_dir, tiny_model, 200)
    config = read_run_config(run)
    tokenizer = load.load_tokenizer(config)
    said = TrainingSession(run, config, lambda *_, **__: None, StopSignal(run.stop_path))
    write_splits(run, config, open_row_source(run, config), tokenizer, 200, said.emit)
    trainer = session.make_trainer(
        said, load.detect_compute_device(config), load.resolve_model_folder(config), tokenizer, *read_splits(run)
    )
    assert trainer.data_collator == make_collator(tokenizer)


def test_truncated_special_and_partial_tokens_are_shown(tiny_plain_model: Path, save_dir: Path) -> None:
    run = run_of(save_dir, tiny_plain_model, SHORT)
    shown = shown_rows(run, read_run_config(run))
    fox = [token for part in shown[14]["parts"] for token in part["tokens"]]
    assert "🦊" in [token[1] for token in fox], "a character of several tokens stands whole at the first of them"
    assert "".join(token[1] for token in fox if not token[4]) == "emoji 🦊 and ünïcode 東京 🗼"
    assert (fox[0][1], fox[0][4]) == ("<s>", 1)
    half = shown[16]
    states = "".join(token[3] for part in half["parts"] for token in part["tokens"])
    assert states == "m" * half["begins"] + "t" * half["trained"] + "c" * (half["total"] - half["kept"])
    assert (half["kept"], half["length"], half["left_out"]) == (SHORT, SHORT, False)
    whole = shown[15]
    assert whole["left_out"]
    assert (whole["trained"], whole["begins"]) == (0, whole["begins"])
    assert whole["begins"] > SHORT


def test_a_long_row_shows_the_parts_around_its_boundaries(tiny_plain_model: Path, tmp_path: Path) -> None:
    from tests.fakes.training import make_table
    from toolkit.worker.questions import xray

    table = make_table(tmp_path / "t.parquet", [{"question": "word " * 9000, "answer": "end"}])
    config = {
        "data": {"prompt": "{question}", "prompt_stub": "{answer}"},
        "model": {"hf_model_ckpt": str(tiny_plain_model)},
    }
    shown = xray.answer_token_view({"config": config, "table": str(table.path), "row": 0}, Quiet())  # type: ignore[arg-type]
    places = [at for part in shown["parts"] for at in range(part["from"], part["from"] + len(part["tokens"]))]
    assert places == sorted(set(places))
    assert len(places) <= xray.SHOWN_ROW_TOKENS < shown["total"]
    assert {0, shown["length"], shown["begins"], shown["total"] - 1} <= set(places)
