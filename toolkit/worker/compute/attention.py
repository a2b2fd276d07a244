"""Attention over rows without padding on a CPU, for causal models: each example is computed by itself.

PyTorch's fused kernels take no borders inside a row, and a mask over all pairs would cost the square of the whole row.
Here short examples of similar length share plain matrix products; long ones go to the kernel one by one. Measured (Zen
4, 6 heads of 64, forward and backward): 8 examples of 90 tokens in bf16 take 14 ms with the kernel and 4 ms with
products; in fp32 the kernel is faster from about 200 tokens on.
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
"""Longest example, in tokens, that is computed by products. They keep a weight for every pair of tokens, which above
this length takes more memory or time than the kernel."""
MIN_LENGTH_RATIO = 0.8
"""Examples share a product only if the shortest has this share of the longest one's tokens: the rest is padding."""
MAX_TOKEN_PAIRS = 80_000
"""Pairs of tokens in one product. More do not fit a core's cache, and several products are faster."""
GROUP_WIDTH_MULTIPLE = 16
"""A group's width in tokens is a multiple of this in bf16: oneDNN keeps a kernel in memory for each new shape."""
UNSUPPORTED_ARGUMENTS = ("position_bias", "softcap", "cache")
"""Arguments of models that add a bias, a soft cap or a cache to the scores. Such calls go to the library's own
function, which supports them or raises an error."""
REQUESTED_WINDOWS: set[int | None] = set()
"""Sliding-window sizes in the masks that models request (None: no window), as the library's attention applies them."""
APPLIED_WINDOWS: set[int | None] = set()
"""Sliding-window sizes passed to `attend_by_example` together with row borders. `respects_borders` compares the two."""


def use_padding_free_attention(model: PreTrainedModel) -> bool:
    """Let a model that uses sdpa compute rows with borders (`cu_seq_lens_q`) example by example.

    Return False and change nothing for a model with another attention.
    """
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
    """Compute causal attention within the borders of each example, as an attention function of transformers.

    query [batch, heads, tokens, width], key and value with the same or fewer heads -> ([batch, tokens, heads, width],
    None). Without borders the library's sdpa function is called. With borders, a mask of the model's own (more than the
    single value that stands for no mask) raises ValueError.
    """
    borders = kwargs.pop("cu_seq_lens_q", None)
    if borders is None or any(kwargs.get(name) is not None for name in UNSUPPORTED_ARGUMENTS):
        own: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return own
    if attention_mask is not None and (attention_mask.dtype != torch.bool or attention_mask.numel() > 1):
        raise ValueError("the model makes a mask of its own, which does not apply to rows of several examples")
    # autocast converts the arguments of the fused kernel, but not those of a custom autograd function
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    lengths = tuple(borders.diff().tolist())
    APPLIED_WINDOWS.add(window := kwargs.get("sliding_window"))
    scale = scaling or query.shape[-1] ** -0.5
    # the products have no dropout, and need queries and values of the same width
    if dropout or max(lengths) > MAX_PRODUCT_TOKENS.get(query.dtype, 0) or query.shape[-1] != value.shape[-1]:
        out = _attend_by_kernel(query, key, value, lengths, window, dropout_p=dropout, scale=scale, enable_gqa=True)
        return out, None
    width_multiple = GROUP_WIDTH_MULTIPLE if query.dtype == torch.bfloat16 else 1
    plan = plan_attention(lengths, query.shape[1], key.shape[1], width_multiple)
    return _ExampleAttention.apply(query, key, value, plan, window, scale), None


def _attend_by_kernel(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], window: int | None, **kwargs: Any
) -> Tensor:
    examples = zip(*(whole.split(list(lengths), dim=2) for whole in (query, key, value)), strict=True)
    outputs = []
    for example in examples:
        tokens = example[0].shape[2]
        # a mask keeps the kernel from its fast causal path, so pass one only if the window is shorter than the example
        mask = None if window is None or tokens <= window else ~_masked_pairs(tokens, window)
        out = nn.functional.scaled_dot_product_attention(*example, attn_mask=mask, is_causal=mask is None, **kwargs)
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, dim=1)


@dataclass(frozen=True, eq=False)
class AttentionGroup:
    """Examples of similar length that share one product.

    examples: their number. tokens: the width of the group, at least that of its longest example. query_at, key_at:
    where its rows are among the gathered ones.
    """

    examples: int
    tokens: int
    query_at: slice
    key_at: slice


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """Index tables that gather a row's states [tokens * heads] into groups [examples, heads, tokens] and back.

    A group's shorter examples are filled up with tokens of other examples. These come after the example's own tokens,
    so that causal attention never reads them; `filled` [gathered query rows, 1] is 0 there, or None without any.
    """

    groups: tuple[AttentionGroup, ...]
    query_in: Tensor
    query_out: Tensor
    key_in: Tensor
    key_out: Tensor
    filled: Tensor | None


# all layers of a step use the same plan; few are kept, since one for many heads and tokens takes megabytes
@lru_cache(maxsize=8)
def plan_attention(lengths: tuple[int, ...], heads: int, key_heads: int, width_multiple: int = 1) -> AttentionPlan:
    """Return the plan for a row of examples with these lengths in tokens.

    width_multiple: each group's width is a multiple of it.
    """
    ends = torch.tensor(lengths).cumsum(0)
    # longest first: the first example of a group sets its width
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
        width = -(-lengths[run[0]] // width_multiple) * width_multiple
        offsets, counts = torch.arange(width), torch.tensor([lengths[i] for i in run])
        starts = (ends[run] - counts)[:, None]
        # behind an example's end the next one follows; behind the row's end its last token is repeated
        places.append((starts + offsets).clamp_(max=int(ends[-1]) - 1))
        own.append(offsets < counts[:, None])
        next_query, next_key = query_rows + len(run) * width * heads, key_rows + len(run) * width * key_heads
        groups.append(AttentionGroup(len(run), width, slice(query_rows, next_query), slice(key_rows, next_key)))
        query_rows, key_rows = next_query, next_key
    query_in, query_out, real = _gather_indices(places, own, heads)
    key_in, key_out, _ = _gather_indices(places, own, key_heads)
    return AttentionPlan(tuple(groups), query_in, query_out, key_in, key_out, None if real.all() else real[:, None])


def _gather_indices(places: list[Tensor], own: list[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (gathered row -> row of [tokens * heads], the inverse for real rows, whether a gathered row is real)."""
    head = torch.arange(heads)[None, :, None]
    into = torch.cat([(place[:, None, :] * heads + head).flatten() for place in places])
    real = torch.cat([mask[:, None, :].expand(-1, heads, -1).flatten() for mask in own])
    back = torch.empty(int(real.sum()), dtype=torch.long)
    back[into[real]] = real.nonzero().flatten()
    return into, back, real


@lru_cache(maxsize=4)
def _masked_pairs(tokens: int, window: int | None) -> Tensor:
    """Return [tokens, tokens], True where a token must not attend: later tokens and those before its window."""
    pairs = torch.ones(tokens, tokens, dtype=torch.bool)
    return pairs.triu(1) if window is None else pairs.triu(1) | pairs.tril(-window)


@lru_cache(maxsize=32)
def _mask_bias(tokens: int, window: int | None, dtype: torch.dtype) -> Tensor:
    return torch.zeros(tokens, tokens, dtype=dtype).masked_fill_(_masked_pairs(tokens, window), torch.finfo(dtype).min)


class _ExampleAttention(torch.autograd.Function):
    """Causal softmax(scale q k') v of each example, differentiable in q, k and v. Keeps a weight for every pair."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, window: int | None, scale: float
    ) -> Tensor:
        heads, key_heads = query.shape[1], key.shape[1]
        q = _gather_rows(query, plan.query_in).mul_(scale)
        k, v = _gather_rows(key, plan.key_in), _gather_rows(value, plan.key_in)
        out = torch.empty_like(q)
        # the states have their final type: autocast would only check and copy them again
        with torch.autocast(q.device.type, enabled=False):
            weights = [
                _attend_group(group, _group_states(group, q, k, v), out[group.query_at], window)
                for group in plan.groups
            ]
        ctx.save_for_backward(q, k, v, *weights)
        ctx.plan, ctx.scale, ctx.heads = plan, scale, (heads, key_heads)
        rows = out.index_select(0, plan.query_out)
        # autograd refuses in-place changes of a custom function's view, and some models make them
        return torch.ops.aten._unsafe_view(rows, [1, query.shape[2], heads, q.shape[1]])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        plan, (heads, key_heads) = ctx.plan, ctx.heads
        for_out = _gather_rows(gradients[0].transpose(1, 2), plan.query_in)
        if plan.filled is not None:
            # filled-up queries have copies of other tokens' gradients, which must not reach keys and values
            for_out.mul_(plan.filled)
        for_q, for_k, for_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for group, weight in zip(plan.groups, weights, strict=True):
            queries, keys, values = _group_states(group, q, k, v)
            for_mixed = for_out[group.query_at].view(queries.shape)
            torch.bmm(weight.transpose(1, 2), for_mixed, out=for_v[group.key_at].view(keys.shape))
            for_scores = torch.bmm(for_mixed, values.transpose(1, 2))
            for_scores = torch.ops.aten._softmax_backward_data(for_scores, weight, -1, weight.dtype)
            # q was scaled in the forward: k's gradient has the scale already, q's gets it below
            torch.bmm(for_scores.transpose(1, 2), queries, out=for_k[group.key_at].view(keys.shape))
            torch.bmm(for_scores, keys, out=for_q[group.query_at].view(queries.shape))
        return (
            _restore_order(for_q.mul_(ctx.scale), plan.query_out, heads),
            _restore_order(for_k, plan.key_out, key_heads),
            _restore_order(for_v, plan.key_out, key_heads),
            None,
            None,
            None,
        )


def _attend_group(
    group: AttentionGroup, states: tuple[Tensor, Tensor, Tensor], out: Tensor, window: int | None
) -> Tensor:
    """Return the weights [examples * key heads, queries of each, tokens]; write the mixed values to `out`."""
    queries, keys, values = states
    bias = _mask_bias(group.tokens, window, queries.dtype)
    scores = torch.bmm(queries, keys.transpose(1, 2)).view(-1, *bias.shape)
    weights = torch.softmax(scores.add_(bias), dim=-1).view(*queries.shape[:2], group.tokens)
    torch.bmm(weights, values, out=out.view(queries.shape))
    return weights


def _gather_rows(states: Tensor, rows: Tensor) -> Tensor:
    """Return a copy of these rows of [tokens * heads, width]. states: [1, heads, tokens, width]."""
    return states.transpose(1, 2).reshape(-1, states.shape[-1]).index_select(0, rows)


def _restore_order(rows: Tensor, out: Tensor, heads: int) -> Tensor:
    return rows.index_select(0, out).view(1, -1, heads, rows.shape[1]).transpose(1, 2)


def _group_states(group: AttentionGroup, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the queries, keys and values of a group, each [examples * key heads, rows of each, width].

    With grouped-query attention the query heads of one key head are rows of the same matrix.
    """
    batches = group.examples * (k[group.key_at].shape[0] // (group.examples * group.tokens))
    queries, keys, values = (
        part.view(batches, -1, part.shape[1]) for part in (q[group.query_at], k[group.key_at], v[group.key_at])
    )
    return queries, keys, values
