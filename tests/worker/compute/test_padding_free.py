"""Padding widths to a multiple makes few shapes and keeps loss and gradients."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.worker


def test_batch_width_is_padded_on_the_right_within_the_positions_of_the_model() -> None:
    import torch

    from toolkit.worker.compute.padding_free import BATCH_WIDTH_MULTIPLE, pad_batch_width
    from toolkit.worker.tokens.labels import IGNORED_LABEL

    ids = torch.arange(1, 2 * 21 + 1).view(2, 21)
    batch = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids), "rows": 2}
    found = pad_batch_width(batch, None)
    assert {found[name].shape for name in ("input_ids", "labels", "attention_mask")} == {(2, 2 * BATCH_WIDTH_MULTIPLE)}
    assert torch.equal(found["input_ids"][:, :21], ids)
    assert found["labels"][:, 21:].eq(IGNORED_LABEL).all()
    assert not found["attention_mask"][:, 21:].any()
    assert found["rows"] == 2
    assert pad_batch_width(batch, 24)["input_ids"].shape == (2, 24)
    assert pad_batch_width(batch, 20)["input_ids"].shape == (2, 21), (
        "a batch that is too wide stays so: the model raises its own error"
    )


def test_padding_the_width_changes_neither_loss_nor_gradients(tiny_model) -> None:  # type: ignore[no-untyped-def]
    import torch
    from transformers import AutoModelForCausalLM

    from toolkit.worker.compute.padding_free import pad_batch_width

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = torch.arange(2, 2 + 2 * 21).view(2, 21) % model.config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    batch = {"input_ids": ids, "labels": ids.masked_fill(mask == 0, -100), "attention_mask": mask}
    found = []
    for given in (batch, pad_batch_width(batch, None)):
        model.zero_grad()
        loss = model(**given).loss
        loss.backward()
        found.append((loss.detach(), model.lm_head.weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
