"""Prepare a model to train faster on a CPU, and find out which shortcuts it allows without changing its numbers."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from toolkit.worker.compute.attention import use_padding_free_attention
from toolkit.worker.compute.fused_lora import TokenwiseStep
from toolkit.worker.compute.fused_loss import has_plain_head
from toolkit.worker.compute.last_layer import find_skippable_steps
from toolkit.worker.compute.padding_free import respects_borders


@dataclass(frozen=True)
class CpuShortcuts:
    """What the trainer may do with a model.

    plain_head: compute the head and the loss in one step. padding_free: compute a batch as one row without padding.
    last_layer_steps: the steps of the last layer that may skip tokens whose logits are not scored.
    """

    plain_head: bool = False
    padding_free: bool = False
    last_layer_steps: tuple[TokenwiseStep, ...] = ()


def prepare_model_for_cpu(base: PreTrainedModel, *, neftune: bool, gradient_checkpointing: bool) -> CpuShortcuts:
    """Switch `base` to padding-free attention if it can use it, and return the shortcuts that it allows.

    Each shortcut is tried on a few tokens rather than derived from the model's class. Call it after fuse_lora_layers
    and fuse_layers: the steps of the last layer are fused ones.
    """
    plain_head = has_plain_head(base)
    # NEFTune scales its noise by the length of a row: in one row for the whole batch it would be another setting
    if neftune or not use_padding_free_attention(base):
        return CpuShortcuts(plain_head)
    if not respects_borders(base):
        base.set_attn_implementation("sdpa")
        return CpuShortcuts(plain_head)
    # checkpointing runs the forward pass again in backward, when the tokens to compute are no longer set
    steps = find_skippable_steps(base) if plain_head and not gradient_checkpointing else ()
    return CpuShortcuts(plain_head, True, steps)
