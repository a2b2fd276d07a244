"""Packed rows against the same examples in rows of their own: logits, losses, gradients, and a killed run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.training import draft, events_of, make_run, train_here
from tests.worker.training import test_trainer
from tests.worker.training.test_adapter_save import curves, resume_run, train_until_killed, weights
from tests.worker.training.test_trainer import loss_and_gradients

pytestmark = pytest.mark.worker
CAPACITY = 64
trainer = test_trainer.trainer
"""The fixture; its examples have 20 to 40 tokens."""


def collated(trainer: Any, capacity: int | None) -> dict[str, Any]:
    from toolkit.worker.compute.packing import PackingCollator

    examples = [trainer.train_dataset[i] for i in range(8)]
    if capacity is None:
        return dict(trainer.data_collator(examples))
    return PackingCollator(trainer.processing_class.pad_token_id, capacity)(examples)


def test_rows_are_filled_in_order_and_padding_is_an_example_of_its_own() -> None:
    from toolkit.worker.compute.packing import PackingCollator, count_real_tokens

    lengths = (3, 4, 2, 9, 1, 2)
    examples = [{"input_ids": [n] * n, "labels": [n] * n} for n in lengths]
    batch = PackingCollator(0, 7)(examples)
    assert batch["input_ids"].tolist() == [
        [3, 3, 3, 4, 4, 4, 4, 0, 0], [2, 2, 0, 0, 0, 0, 0, 0, 0], [9] * 9, [1, 2, 2, 0, 0, 0, 0, 0, 0],
    ]  # fmt: skip
    assert batch["position_ids"].tolist()[0] == [0, 1, 2, 0, 1, 2, 3, 0, 0]
    assert batch["labels"].tolist()[0] == [-100, 3, 3, -100, 4, 4, 4, -100, -100]
    assert (
        count_real_tokens(batch["position_ids"]) == sum(lengths) - 1
    )  # an example of one token is indistinguishable from padding
    assert set(batch) == {"input_ids", "labels", "position_ids"}  # a mask of ones would join the examples


@pytest.mark.parametrize("lean", [True, False])
def test_packed_examples_have_the_same_loss_and_gradients_as_separate_ones(
    trainer: Any,
    lean: bool,
) -> None:
    import torch

    trainer.model.train()
    apart, packed = collated(trainer, None), collated(trainer, CAPACITY)
    assert len(packed["input_ids"]) < len(apart["input_ids"])
    count = int((apart["labels"][:, 1:] != -100).sum())
    assert count == int((packed["labels"][:, 1:] != -100).sum())
    loss, gradients = loss_and_gradients(trainer, apart, True, count)
    other, others = loss_and_gradients(trainer, packed, lean, count)
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-6)


def test_packed_logits_equal_separate_ones(trainer: Any) -> None:
    import torch

    trainer.model.eval()
    packed = collated(trainer, CAPACITY)
    inputs = {name: packed[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        found = trainer.model(**inputs, use_cache=False).logits
        at = row = 0
        for i in range(8):
            ids = torch.tensor([trainer.train_dataset[i]["input_ids"]])
            if at + ids.shape[1] > CAPACITY:
                at, row = 0, row + 1
            alone = trainer.model(input_ids=ids, use_cache=False).logits[0]
            torch.testing.assert_close(found[row, at : at + ids.shape[1]], alone, rtol=1e-4, atol=1e-4)
            at += ids.shape[1]
    assert row == len(packed["input_ids"]) - 1


def test_flash_attention_receives_the_borders_of_packed_examples(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the library's path to flash-attn with plain products instead of its kernels, which need a GPU."""
    import torch
    from transformers import PreTrainedModel
    from transformers import modeling_flash_attention_utils as library

    from toolkit.worker.compute.packing import keeps_examples_apart
    from toolkit.worker.compute.padding_free import flash_attention_row, remove_padding, respects_borders

    told: list[list[int]] = []

    def plain(q: Any, k: Any, v: Any, dropout_p: float = 0.0, softmax_scale: float = 1.0, causal: bool = False) -> Any:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=softmax_scale)
        return found.transpose(1, 2)

    def several(
        q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: Any, max_seqlen_k: Any,
        dropout_p: float = 0.0, softmax_scale: float = 1.0, causal: bool = False,
    ) -> Any:  # fmt: skip
        ends = cu_seqlens_q.tolist()
        told.append(ends)
        parts = [slice(at, end) for at, end in pairwise(ends)]
        return torch.cat([plain(q[p][None], k[p][None], v[p][None], 0.0, softmax_scale, causal)[0] for p in parts])

    trainer.model.train()
    packed = collated(trainer, CAPACITY)
    count = int((packed["labels"][:, 1:] != -100).sum())
    loss, gradients = loss_and_gradients(trainer, packed, True, count)
    monkeypatch.setattr(library, "_lazy_imports", lambda *_, **__: (plain, several, None, None, None))
    monkeypatch.setattr(library, "_loaded_implementation", None)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    base = trainer.model.get_base_model()
    before = base.config._attn_implementation
    base.set_attn_implementation("flash_attention_2")
    # as on a GPU
    shortcuts = replace(trainer._shortcuts, padding_free=False, last_layer_steps=())
    monkeypatch.setattr(trainer, "_shortcuts", shortcuts)
    try:
        assert keeps_examples_apart(base)
        assert respects_borders(base, flash_attention_row)
        other, others = loss_and_gradients(trainer, packed, True, count)
    finally:
        base.set_attn_implementation(before)
    assert told[-1] == remove_padding(packed)["cu_seq_lens_q"].tolist()
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-6)


def test_a_model_that_mixes_packed_examples_is_detected(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import masking_utils

    from toolkit.worker.compute.packing import keeps_examples_apart

    trainer.model.train()
    assert keeps_examples_apart(trainer.model)
    assert trainer.model.training
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda positions: None)
    assert not keeps_examples_apart(trainer.model)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=12, max_size=120),
    size=st.integers(1, 4),
    processes=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_each_row_appears_once_in_packed_batches_that_fit(
    lengths: list[int], size: int, processes: int, epoch: int
) -> None:
    from toolkit.errors import ToolkitError
    from toolkit.worker.compute.packing import _pack_rows
    from toolkit.worker.training.trainer import PackedBatches

    found, steps = [], set()
    for rank in range(processes):
        try:
            batches = PackedBatches(lengths, capacity=64, batch_size=size, processes=processes, rank=rank)
        except ToolkitError as error:
            assert "packed rows" in error.message
            assert sum(lengths) <= 64 * processes
            return
        batches.set_epoch(epoch)
        found += list(batches)
        steps.add((len(batches), len(list(batches))))
    assert len(steps) == 1
    assert len({number for pair in steps for number in pair}) == 1
    assert Counter(row for batch in found for row in batch) == Counter(range(len(lengths)))
    for batch in found:
        rows = list(_pack_rows([{"input_ids": [0] * lengths[row]} for row in batch], 64))
        assert 1 <= len(rows) <= size + 1


@pytest.mark.parametrize("bf16", [False, True])
def test_a_killed_packed_run_resumes_bit_for_bit(
    bf16: bool, tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"save_steps": 1, "eval_steps": 2, "logging_steps": 1}
    chosen = draft(save_dir, tiny_model, per_device_train_batch_size=2, bf16=bf16, **steps)
    chosen["training"]["sft_args"] = {"max_seq_length": 64, "packing": "packed"}
    whole, killed = make_run(chosen), make_run(chosen)
    code, events = train_here(whole)
    assert code == 0, events[-1]
    (plan,), (prepared,) = events_of(whole, "plan"), events_of(whole, "prepared")
    assert plan["packed"] is True
    assert plan["total_steps"] < 2 * 16 / 2  # several examples a row
    assert events_of(whole, "log")[-1]["tokens"] == 2 * prepared["train_tokens"]
    train_until_killed(killed, 1, 2)
    resume_run(killed, 2, monkeypatch)
    assert weights(killed) == weights(whole)
    assert curves(killed) == curves(whole)
    assert all(event["exact"] for event in events_of(killed, "verified"))


def test_a_checkpoint_with_another_batching_mode_is_refused(tmp_path: Path) -> None:
    from toolkit.errors import ToolkitError
    from toolkit.runs.checkpoints import Checkpoint
    from toolkit.worker.checkpoints import choice

    own = {"config": "c", "data": {}, "processes": 1, "versions": {}, "machine": {"device": "cpu"}}
    before = Checkpoint(step=3, path=tmp_path / "step-3", body=own)
    assert choice.check_resume_allowed(before, {**own, "batches": choice.GROUPED_BATCHES}, lambda *_, **__: None)
    with pytest.raises(ToolkitError, match="batching mode"):
        choice.check_resume_allowed(before, {**own, "batches": choice.PACKED_BATCHES}, lambda *_, **__: None)


@pytest.mark.parametrize("apart", [True, False])
def test_flash_attention_is_not_used_where_a_model_mixes_examples(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    """Other layers of a model (Mamba's, for example) may ignore borders, although its attention respects them."""
    import torch
    from transformers import AutoModelForCausalLM

    from toolkit.worker.training import trainer_setup

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    said: list[str] = []
    session: Any = SimpleNamespace(emit=lambda kind, message: said.append(message))

    def choose(name: str) -> None:  # no GPU and no kernels here
        base.config._attn_implementation = name

    monkeypatch.setattr(base, "set_attn_implementation", choose)
    monkeypatch.setattr(trainer_setup, "respects_borders", lambda model, row: apart)
    monkeypatch.setattr(base, "_supports_flash_attn", True, raising=False)
    trainer_setup._enable_flash_attention(session, base, torch.device("cpu"))
    assert base.config._attn_implementation == ("flash_attention_2" if apart else "sdpa")
    assert bool(said) is not apart
