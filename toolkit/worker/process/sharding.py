"""Shard a base model over the processes of a run: each holds a part of every layer (FSDP2).

Only weights that are not trained are sharded. The adapter is whole in every process, and its gradients are averaged as
without sharding (DDP). So checkpoints, resume and the saved adapter are the same, and nothing has to be gathered.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard_frozen_weights(model: PeftModel, device: torch.device) -> None:
    """Shard every weight of `model` that is not trained, one group per layer class that must not be split.

    device: of this process; the shards and all trained weights are moved there. Afterwards every process has to compute
    the same number of forward passes, as each gathers the layers from all of them.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    trained = {weight for weight in model.parameters() if weight.requires_grad}
    for weight in trained:
        weight.data = weight.data.to(device)
    base = model.get_base_model()
    for layer in _find_layers(base):
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(base, mesh=mesh, ignored_params=trained)  # what no layer contains: embeddings, norm, head
    # DDP would send the shards of rank 0 to all others
    model._ddp_params_and_buffers_to_ignore = [
        name for name, weight in model.named_parameters() if not weight.requires_grad
    ]


def count_held_parameters(model: nn.Module) -> int:
    """Return how many of the model's numbers are in this process: of a sharded weight, its part."""
    held = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in model.parameters())
    return sum(weight.numel() for weight in held)


def _find_layers(base: nn.Module) -> list[nn.Module]:
    """Return the modules whose class the library names as one that must not be split, without those inside others."""
    classes = set(getattr(base, "_no_split_modules", None) or ())
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if type(child).__name__ in classes:
                found.append(child)
            else:
                visit(child)

    visit(base)
    return found
