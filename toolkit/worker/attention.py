"""How attention is computed where: the library's fused kernels, and for short bf16 rows on a CPU plain products.

Measured (Zen 4, 6 heads of 64, forward and backward): for 8 rows of 90 tokens in bf16 the fused CPU kernel takes
14.6 ms and the products 3.9 ms; at 1,024 tokens 46 and 37 ms; in fp32 the kernel wins from some 200 tokens on.
Knows no trainer; causal models alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "toolkit_short_rows"
LONGEST = 512
"""Tokens up to which the products are used: they keep a score for every pair of tokens, which beyond this costs more
memory than bf16 saves, for a gain that shrinks."""

OTHERS = ("position_bias", "softcap", "cache")
"""What a few models add to their scores, or keep beside them: the library's own function knows it, or says that not."""


def use_short_rows(model: PreTrainedModel) -> bool:
    """Let a model that uses sdpa compute short bf16 rows by plain products; False when it uses something else."""
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [batch, heads, tokens, width], key and value with fewer heads -> ([batch, tokens, heads, width], None)."""
    batch, heads, tokens, width = query.shape
    plain = query.dtype == torch.bfloat16 and query.device.type == "cpu" and tokens == key.shape[2] <= LONGEST
    other = any(kwargs.get(name) is not None for name in OTHERS)
    if not plain or other or dropout or kwargs.get("is_causal") is False or not getattr(module, "is_causal", True):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = key.shape[1]
    together = query.reshape(batch, groups, heads // groups * tokens, width) * (scaling or width**-0.5)
    scores = (together @ key.transpose(2, 3)).view(batch, heads, tokens, tokens)
    weights = torch.softmax(_masked(scores, attention_mask), dim=-1)
    mixed = weights.view(batch, groups, heads // groups * tokens, tokens) @ value
    return mixed.view(batch, heads, tokens, value.shape[-1]).transpose(1, 2).contiguous(), None


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    tokens = scores.shape[-1]
    if mask is None:
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=scores.device).tril_()
    if mask.dtype != torch.bool:
        return scores + mask
    # a row without any visible token would be all NaN: the least number instead of minus infinity
    bias = torch.zeros(mask.shape, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores + bias
