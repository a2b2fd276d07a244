"""The losses of a batch equal those of each row alone, and those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.config import Config

pytestmark = pytest.mark.worker


def test_batched_losses_equal_those_of_transformers(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from toolkit.worker.answering import likelihood
    from toolkit.worker.models.load import load_base_model
    from toolkit.worker.tokens.labels import IGNORED_LABEL

    model = load_base_model(Config.model_validate({"model": {"hf_model_ckpt": str(tiny_model)}})).eval()
    rows = []
    for length, asked in ((5, 2), (12, 0), (7, 6), (3, 1), (9, 9)):
        ids = [(length * 7 + at * 13) % 300 for at in range(length)]
        rows.append((ids, [IGNORED_LABEL] * asked + ids[asked:]))
    monkeypatch.setattr(likelihood, "MAX_SCORED_TOKENS", 30)
    found = likelihood.compute_row_losses(model, rows)
    for (ids, labels), (nats, tokens) in zip(rows, found, strict=True):
        scored = sum(label != IGNORED_LABEL for label in labels[1:])
        assert tokens == scored
        if scored:
            with torch.no_grad():
                loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
            assert nats == pytest.approx(float(loss) * scored, rel=1e-5)
        else:
            assert nats == 0
