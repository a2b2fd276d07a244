"""Run a model on a few tokens before training and restore its state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def temporary_eval_mode(model: nn.Module) -> Iterator[None]:
    """Disable dropout and gradients inside the block, then restore the mode of every module."""
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        # module by module: model.train() would also switch those on that were off before
        for module, was_training in training.items():
            module.training = was_training
