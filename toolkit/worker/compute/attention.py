"""Attention over rows without padding, on a CPU: each example by itself, short ones of like length by plain products.

The library's fused kernels know no borders inside a row: a mask over all pairs would cost the square of the whole row.
Here every example is as wide as it is. Measured (Zen 4, 6 heads of 64, forward and backward): 8 examples of 90 tokens
in bf16 take the kernel 14 ms and the products 4 ms; in fp32 the kernel wins from some 200 tokens on.
Knows no trainer; causal models alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

PADDING_FREE_ATTENTION = "toolkit_padding_free"
MAX_PRODUCT_TOKENS = {torch.bfloat16: 512, torch.float32: 256}
"""Tokens up to which the products are used: they keep a weight for every pair of tokens, which beyond this costs more
memory or time than the kernel."""
MIN_LENGTH_RATIO, MAX_TOKEN_PAIRS = 0.8, 80_000
"""Examples share a product when the shortest has at least this part of the longest one's tokens, and up to so many
pairs of tokens: what is more does not stay near the core, and one after the other is faster."""
GROUP_WIDTH_MULTIPLE = 16
"""Tokens that a group's width is a multiple of in bf16: each new one costs memory for good (even_shapes.py)."""
UNSUPPORTED_ARGUMENTS = ("position_bias", "softcap", "cache")
"""What a few models add to their scores, or keep beside them: the library's own function knows it, or says that not."""
REQUESTED_WINDOWS: set[int | None] = set()
"""Windows of the masks that models have asked for, None for none: what the library's attention would keep to."""
APPLIED_WINDOWS: set[int | None] = set()
"""Windows that `attend` was told beside borders: what it keeps to. For `padding_free.py`, which compares them."""


def use_padding_free_attention(model: PreTrainedModel) -> bool:
    """Let a model that uses sdpa compute rows whose borders it is told (`cu_seq_lens_q`) example by example."""
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return False
    AttentionInterface.register(PADDING_FREE_ATTENTION, attend_by_example)
    AttentionMaskInterface.register(PADDING_FREE_ATTENTION, _recording_mask)
    model.set_attn_implementation(PADDING_FREE_ATTENTION)
    return True


def _recording_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    REQUESTED_WINDOWS.add(kwargs.get("local_size"))
    return sdpa_mask(*args, **kwargs)


def attend_by_example(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [batch, heads, tokens, width], key and value with fewer heads -> ([batch, tokens, heads, width], None).

    With borders, a mask of a model's own (more than the one value that stands for none) raises ValueError.
    """
    borders = kwargs.pop("cu_seq_lens_q", None)
    if borders is None or any(kwargs.get(name) is not None for name in UNSUPPORTED_ARGUMENTS):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if attention_mask is not None and (attention_mask.dtype != torch.bool or attention_mask.numel() > 1):
        raise ValueError("the model makes a mask of its own, which rows of several examples have no place for")
    if torch.is_autocast_enabled(query.device.type):  # as it does for the kernel
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    lengths = tuple(borders.diff().tolist())
    APPLIED_WINDOWS.add(window := kwargs.get("sliding_window"))
    scale = scaling or query.shape[-1] ** -0.5
    if dropout or max(lengths) > MAX_PRODUCT_TOKENS.get(query.dtype, 0) or query.shape[-1] != value.shape[-1]:
        return _attend_by_kernel(
            query, key, value, lengths, window, dropout_p=dropout, scale=scale, enable_gqa=True
        ), None
    even = GROUP_WIDTH_MULTIPLE if query.dtype == torch.bfloat16 else 1
    return _ExampleAttention.apply(
        query, key, value, plan_attention(lengths, query.shape[1], key.shape[1], even), window, scale
    ), None


def _attend_by_kernel(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], window: int | None, **kwargs: Any
) -> Tensor:
    together = zip(*(whole.split(list(lengths), dim=2) for whole in (query, key, value)), strict=True)
    found = []
    for part in together:
        tokens = part[0].shape[2]
        near = None if window is None or tokens <= window else ~_masked_pairs(tokens, window)
        attended = nn.functional.scaled_dot_product_attention(*part, attn_mask=near, is_causal=near is None, **kwargs)
        found.append(attended.transpose(1, 2))
    return torch.cat(found, dim=1)


@dataclass(frozen=True, eq=False)
class AttentionGroup:
    """Examples of like length: their number, the tokens of the longest, and their first places in the gathered rows."""

    examples: int
    tokens: int
    query_at: slice
    key_at: slice


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """Which rows of a row's heads go where: from [tokens * heads] into groups of [examples, heads, tokens], and back.

    A group's shorter examples are filled up with tokens of others: they come after their own, so that nobody looks at
    them, and `filled` [gathered query rows, 1] is 0 there.
    """

    groups: tuple[AttentionGroup, ...]
    query_in: Tensor
    query_out: Tensor
    key_in: Tensor
    key_out: Tensor
    filled: Tensor | None


@lru_cache(maxsize=8)  # all layers of a step ask for the same one; of many heads and tokens it has megabytes
def plan_attention(lengths: tuple[int, ...], heads: int, key_heads: int, even: int = 1) -> AttentionPlan:
    """The plan for examples of so many tokens, one behind the other; groups as wide as a multiple of `even`."""
    ends = torch.tensor(lengths).cumsum(0)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    runs: list[list[int]] = []
    for i in order:
        longest = lengths[runs[-1][0]] if runs else 0
        if not runs or lengths[i] < MIN_LENGTH_RATIO * longest or (len(runs[-1]) + 1) * longest**2 > MAX_TOKEN_PAIRS:
            runs.append([])
        runs[-1].append(i)
    groups, places, own = [], [], []
    query_rows = key_rows = 0
    for run in runs:
        width = -(-lengths[run[0]] // even) * even
        offsets, counts = torch.arange(width), torch.tensor([lengths[i] for i in run])
        starts = (ends[run] - counts)[:, None]
        places.append((starts + offsets).clamp_(max=int(ends[-1]) - 1))
        own.append(offsets < counts[:, None])
        next_query, next_key = query_rows + len(run) * width * heads, key_rows + len(run) * width * key_heads
        groups.append(AttentionGroup(len(run), width, slice(query_rows, next_query), slice(key_rows, next_key)))
        query_rows, key_rows = next_query, next_key
    query_in, query_out, real = _gather_indices(places, own, heads)
    key_in, key_out, _ = _gather_indices(places, own, key_heads)
    return AttentionPlan(tuple(groups), query_in, query_out, key_in, key_out, None if real.all() else real[:, None])


def _gather_indices(places: list[Tensor], own: list[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(gathered row -> row of [tokens, heads], the way back for every token's own, whether a gathered row is own)"""
    head = torch.arange(heads)[None, :, None]
    into = torch.cat([(place[:, None, :] * heads + head).flatten() for place in places])
    real = torch.cat([mask[:, None, :].expand(-1, heads, -1).flatten() for mask in own])
    back = torch.empty(int(real.sum()), dtype=torch.long)
    back[into[real]] = real.nonzero().flatten()
    return into, back, real


@lru_cache(maxsize=4)
def _masked_pairs(tokens: int, window: int | None) -> Tensor:
    """[tokens, tokens]: what a token does not look at, the ones after it and those before its window."""
    pairs = torch.ones(tokens, tokens, dtype=torch.bool)
    return pairs.triu(1) if window is None else pairs.triu(1) | pairs.tril(-window)


@lru_cache(maxsize=32)
def _mask_bias(tokens: int, window: int | None, dtype: torch.dtype) -> Tensor:
    return torch.zeros(tokens, tokens, dtype=dtype).masked_fill_(_masked_pairs(tokens, window), torch.finfo(dtype).min)


class _ExampleAttention(torch.autograd.Function):
    """softmax(scale q k') v of each example, causal; differentiable in all three. Keeps a weight for every pair."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, window: int | None, scale: float
    ) -> Tensor:
        heads, key_heads = query.shape[1], key.shape[1]
        q = _gather_rows(query, plan.query_in).mul_(scale)
        k, v = _gather_rows(key, plan.key_in), _gather_rows(value, plan.key_in)
        out = torch.empty_like(q)
        with torch.autocast(q.device.type, enabled=False):
            weights = [
                _attend_group(group, _group_states(group, q, k, v), out[group.query_at], window)
                for group in plan.groups
            ]
        ctx.save_for_backward(q, k, v, *weights)
        ctx.plan, ctx.scale, ctx.heads = plan, scale, (heads, key_heads)
        back = out.index_select(0, plan.query_out)
        return torch.ops.aten._unsafe_view(back, [1, query.shape[2], heads, q.shape[1]])  # models go on in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        plan, (heads, key_heads) = ctx.plan, ctx.heads
        into = _gather_rows(gradients[0].transpose(1, 2), plan.query_in)
        if plan.filled is not None:
            into.mul_(plan.filled)
        for_q, for_k, for_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for group, weight in zip(plan.groups, weights, strict=True):
            own, keys, values = _group_states(group, q, k, v)
            flow = into[group.query_at].view(own.shape)
            torch.bmm(weight.transpose(1, 2), flow, out=for_v[group.key_at].view(keys.shape))
            slope = torch.bmm(flow, values.transpose(1, 2))
            slope = torch.ops.aten._softmax_backward_data(slope, weight, -1, weight.dtype)
            torch.bmm(slope.transpose(1, 2), own, out=for_k[group.key_at].view(keys.shape))
            torch.bmm(slope, keys, out=for_q[group.query_at].view(own.shape))
        back = (
            _restore_order(for_q.mul_(ctx.scale), plan.query_out, heads),
            _restore_order(for_k, plan.key_out, key_heads),
        )
        return *back, _restore_order(for_v, plan.key_out, key_heads), None, None, None


def _attend_group(
    group: AttentionGroup, states: tuple[Tensor, Tensor, Tensor], out: Tensor, window: int | None
) -> Tensor:
    """The weights [examples * key heads, queries of each, tokens]; the mixed values are written to `out`."""
    own, keys, values = states
    bias = _mask_bias(group.tokens, window, own.dtype)
    scores = torch.bmm(own, keys.transpose(1, 2)).view(-1, *bias.shape)
    weights = torch.softmax(scores.add_(bias), dim=-1).view(*own.shape[:2], group.tokens)
    torch.bmm(weights, values, out=out.view(own.shape))
    return weights


def _gather_rows(states: Tensor, rows: Tensor) -> Tensor:
    """[1, heads, tokens, width] -> the asked-for rows of [tokens * heads, width], a copy."""
    return states.transpose(1, 2).reshape(-1, states.shape[-1]).index_select(0, rows)


def _restore_order(rows: Tensor, out: Tensor, heads: int) -> Tensor:
    return rows.index_select(0, out).view(1, -1, heads, rows.shape[1]).transpose(1, 2)


def _group_states(group: AttentionGroup, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The group's own, [examples * key heads, rows of each, width]."""
    each = group.examples * (k[group.key_at].shape[0] // (group.examples * group.tokens))
    parts = (q[group.query_at], k[group.key_at], v[group.key_at])
    return tuple(part.view(each, -1, part.shape[1]) for part in parts)  # type: ignore[return-value]
