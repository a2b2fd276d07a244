"""A block's norms and its gated feed-forward in one step each: the library's numbers, less work, less kept for later.

The norm keeps its input instead of an fp32 copy; the feed-forward keeps what enters the activation and computes the
product again on the way back. A module is taken only when it answers as the fused step does on random numbers, so that
a model whose norm or activation is another kind keeps its own. Knows no config and no trainer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from toolkit.worker.compute.fused_lora import LoraPair, TokenwiseStep, fused_forward_of, restore_shape

TOKENS_PER_PART = 512
"""Tokens of a long row that are computed at once in fp32 (1,600 tokens of 384: 112 ms whole, 102 ms in parts)."""
AGREEMENT_ROWS = 4
"""Random rows on which a module and its fused step must agree."""
FEED_FORWARD_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def fuse_layers(model: nn.Module) -> int:
    """Give every norm and feed-forward that allows it the fused step; returns their number. After `fuse`."""
    found = 0
    for module in model.modules():
        step = _norm_step(module) or _feed_forward_step(module)
        if step is not None and _matches_module(module, step):
            module.forward = step
            found += 1
    return found


class _NormStep:
    """Stands where an RMS norm's `forward` was."""

    def __init__(self, norm: Any) -> None:
        self._norm = norm
        self.width, self.dtype, self.device = len(norm.weight), norm.weight.dtype, norm.weight.device

    def __call__(self, x: Tensor) -> Tensor:
        weight = self._norm.weight
        if x.dtype != weight.dtype or weight.requires_grad:
            return type(self._norm).forward(self._norm, x)
        return _FusedNorm.apply(x, weight, self._norm.variance_epsilon)


class FeedForwardStep(TokenwiseStep):
    """Stands where a gated feed-forward's `forward` was."""

    def __init__(self, feed: Any) -> None:
        self._feed = feed
        self._steps = [fused_forward_of(getattr(feed, name)) for name in FEED_FORWARD_PROJECTIONS]
        weight = feed.gate_proj.base_layer.weight
        self.width, self.dtype, self.device = weight.shape[1], weight.dtype, weight.device

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply_to_tokens(x, self._in_parts)

    def _in_parts(self, x: Tensor) -> Tensor:
        """Long fp32 rows on a CPU part by part: what is wider than a core's own memory takes a tenth longer."""
        if x.dtype != torch.float32 or x.device.type != "cpu" or x.shape[1] < 3 * TOKENS_PER_PART // 2:
            return self._whole(x)
        return torch.cat([self._whole(part) for part in x.split(TOKENS_PER_PART, dim=1)], dim=1)

    def _whole(self, x: Tensor) -> Tensor:
        if not all(step is not None and step.plain for step in self._steps):
            return type(self._feed).forward(self._feed, x)
        pairs = [step.pair(x) for step in self._steps]
        tensors = [tensor for pair in pairs for tensor in (pair.weight, pair.bias, pair.down, pair.up)]
        return _FusedFeedForward.apply(x.to(pairs[0].weight.dtype), [pair.scale for pair in pairs], *tensors)


def _norm_step(module: nn.Module) -> _NormStep | None:
    weight = getattr(module, "weight", None)
    named = _is_unpatched(module) and type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")
    frozen = isinstance(weight, nn.Parameter) and weight.dim() == 1 and not weight.requires_grad
    return _NormStep(module) if named and frozen else None


def _feed_forward_step(module: nn.Module) -> FeedForwardStep | None:
    parts = [getattr(module, name, None) for name in FEED_FORWARD_PROJECTIONS]
    if not _is_unpatched(module) or any(part is None or fused_forward_of(part) is None for part in parts):
        return None
    return FeedForwardStep(module)


def _is_unpatched(module: nn.Module) -> bool:
    """What somebody put in a module's place (hooks that move tensors) is there for a reason. Liger's kernels come when
    the training begins, and take the place of ours."""
    return type(module).__module__.startswith("transformers.models.") and "forward" not in vars(module)


@torch.no_grad()
def _matches_module(module: nn.Module, step: Any) -> bool:
    """To rounding, each row by its own measure, for what a module gives may be small: rows of several sizes reach the
    bend of an activation whatever the weights are. In training mode, where a dropout shows itself."""
    random = torch.Generator().manual_seed(0)
    sizes = 4.0 ** torch.arange(AGREEMENT_ROWS)[:, None]
    x = (torch.randn(1, AGREEMENT_ROWS, step.width, generator=random) * sizes).to(step.device, step.dtype)
    was, module.training = module.training, True
    own, fused = type(module).forward(module, x), step(x)
    module.training = was
    if own.dtype != fused.dtype:
        return False
    largest = own.abs().amax(-1)
    off = (own - fused).abs().amax(-1)
    return bool((largest > 0).all() and (off <= (1e-4 if step.dtype == torch.float32 else 3e-2) * largest).all())


class _FusedNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon), the mean in fp32 and the quotient rounded once; differentiable in x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        wide, into = x.float(), (gradients[0] * weight).float()
        share = (into * wide).mean(-1, keepdim=True) * inverse.square()
        return into.addcmul_(wide, share, value=-1).mul_(inverse).to(x.dtype), None, None


class _FusedFeedForward(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)) with an adapter on each of the three; differentiable in x and the adapters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: list[float], *tensors: Tensor) -> Tensor:
        gate, up, down = _lora_pairs(tensors, scales)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1])
            opened, narrow_gate = gate.forward(rows)
            raised, narrow_up = up.forward(rows)
            out, narrow_down = down.forward(nn.functional.silu(opened).mul_(raised))
        ctx.save_for_backward(rows, opened, raised, narrow_gate, narrow_up, narrow_down, *tensors)
        ctx.scales = scales
        return restore_shape(out, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, opened, raised, narrow_gate, narrow_up, narrow_down, *tensors = ctx.saved_tensors
        gate, up, down = _lora_pairs(tensors, ctx.scales)
        gradient = gradients[0]
        flat = gradient.reshape(-1, gradient.shape[-1])
        active = nn.functional.silu(opened)
        inner, *of_down = down.backward(flat, active * raised, narrow_down)
        for_x, *of_up = up.backward(inner * active, rows, narrow_up)
        opening = torch.ops.aten.silu_backward(inner.mul_(raised), opened)
        for_x, *of_gate = gate.backward(opening, rows, narrow_gate, into=for_x)
        learned = [part for found in (of_gate, of_up, of_down) for part in (None, None, *found)]
        return for_x.view(*gradient.shape[:-1], rows.shape[-1]), None, *learned


def _lora_pairs(tensors: Any, scales: list[float]) -> tuple[LoraPair, ...]:
    return tuple(LoraPair(*tensors[4 * i : 4 * i + 4], scales[i]) for i in range(3))
