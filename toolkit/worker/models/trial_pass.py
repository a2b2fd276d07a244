"""A model on trial: asked about a few tokens before it trains, and left as it was. Knows no question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def temporary_eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model drops nothing and keeps nothing for gradients; afterwards all modules are as before."""
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, was in training.items():
            module.training = was
