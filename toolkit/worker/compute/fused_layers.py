"""Fused RMS norms and gated feed-forwards: the library's numbers with less work and less memory kept for backward.

The norm keeps its input instead of an fp32 copy. The feed-forward keeps the input of the activation and computes the
product again in backward. A module is replaced only if its output equals that of the fused step on random numbers, so a
model with another kind of norm or activation keeps its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from toolkit.worker.compute.fused_lora import LoraPair, TokenwiseStep, fused_forward_of, restore_shape

TOKENS_PER_PART = 512
"""Tokens of a long fp32 row that are computed at once: their states fit a core's cache. Measured on 1,600 tokens of
width 384: 112 ms at once, 102 ms in parts."""
AGREEMENT_ROWS = 4
"""Random rows on which a module and its fused step must agree."""
AGREEMENT_FP32, AGREEMENT_HALF = 1e-4, 3e-2
"""Largest difference, relative to the largest output of a row: rounding in fp32 and in half precision."""
FEED_FORWARD_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def fuse_layers(model: nn.Module) -> int:
    """Replace the forward of every norm and feed-forward that allows it and return their number.

    Call it after fuse_lora_layers: a feed-forward can be fused only if its three projections are.
    """
    fused = 0
    for module in model.modules():
        step = _norm_step(module) or _feed_forward_step(module)
        if step is not None and _matches_module(module, step):
            module.forward = step
            fused += 1
    return fused


class _NormStep:
    """Replaces the `forward` of an RMS norm."""

    def __init__(self, norm: Any) -> None:
        self._norm = norm
        self.width, self.dtype, self.device = len(norm.weight), norm.weight.dtype, norm.weight.device

    def __call__(self, x: Tensor) -> Tensor:
        weight = self._norm.weight
        # the fused step computes no gradient of the weight and rounds to one type only
        if x.dtype != weight.dtype or weight.requires_grad:
            return type(self._norm).forward(self._norm, x)
        return _FusedNorm.apply(x, weight, self._norm.variance_epsilon)


class FeedForwardStep(TokenwiseStep):
    """Replaces the `forward` of a gated feed-forward whose three projections are fused."""

    def __init__(self, feed: Any) -> None:
        self._feed = feed
        steps = [fused_forward_of(getattr(feed, name)) for name in FEED_FORWARD_PROJECTIONS]
        self._steps = [step for step in steps if step is not None]
        weight = feed.gate_proj.base_layer.weight
        self.width, self.dtype, self.device = weight.shape[1], weight.dtype, weight.device

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply_to_tokens(x, self._in_parts)

    def _in_parts(self, x: Tensor) -> Tensor:
        # measured for fp32 on a CPU only; a row of less than one and a half parts is not worth splitting
        if x.dtype != torch.float32 or x.device.type != "cpu" or x.shape[1] < 3 * TOKENS_PER_PART // 2:
            return self._whole(x)
        return torch.cat([self._whole(part) for part in x.split(TOKENS_PER_PART, dim=1)], dim=1)

    def _whole(self, x: Tensor) -> Tensor:
        if not all(step.is_plain_training for step in self._steps):
            return type(self._feed).forward(self._feed, x)
        pairs = [step.lora_pair(x) for step in self._steps]
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
    # another `forward` on the instance (hooks that move tensors) has a purpose and stays; Liger patches its kernels in
    # when the training begins, and then replaces the fused step
    return type(module).__module__.startswith("transformers.models.") and "forward" not in vars(module)


def _matches_module(module: nn.Module, step: Any) -> bool:
    """Return whether the fused step computes what the module does, up to rounding, on random rows."""
    # a generator of its own leaves the training's random numbers as they are; rows of several sizes reach the bend of
    # the activation whatever the weights are
    random = torch.Generator().manual_seed(0)
    sizes = 4.0 ** torch.arange(AGREEMENT_ROWS)[:, None]
    x = (torch.randn(1, AGREEMENT_ROWS, step.width, generator=random) * sizes).to(step.device, step.dtype)
    # in training mode a dropout in the module shows as a difference
    was, module.training = module.training, True
    with torch.no_grad():
        own, fused = type(module).forward(module, x), step(x)
    module.training = was
    if own.dtype != fused.dtype:
        return False
    # each row by its own size: the small ones would disappear in the rounding of the large ones
    largest = own.abs().amax(-1)
    difference = (own - fused).abs().amax(-1)
    tolerance = AGREEMENT_FP32 if step.dtype == torch.float32 else AGREEMENT_HALF
    return bool((largest > 0).all() and (difference <= tolerance * largest).all())


class _FusedNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon), differentiable in x; the mean in fp32, the quotient rounded once."""

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
    """down(silu(gate(x)) * up(x)) with a LoRA adapter on each of the three, differentiable in x and the adapters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: list[float], *tensors: Tensor) -> Tensor:
        gate, up, down = _lora_pairs(tensors, scales)
        # everything has its final type here: autocast would only check it again
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
        output_gradient = gradient.reshape(-1, gradient.shape[-1])
        active = nn.functional.silu(opened)  # computed again: cheaper than keeping it for every layer
        for_inner, *of_down = down.backward(output_gradient, active * raised, narrow_down)
        for_x, *of_up = up.backward(for_inner * active, rows, narrow_up)
        for_opened = torch.ops.aten.silu_backward(for_inner.mul_(raised), opened)
        # gate and up read the same x: the second adds to the gradient of the first, in place
        for_x, *of_gate = gate.backward(for_opened, rows, narrow_gate, accumulate_into=for_x)
        # one gradient for each tensor of the three pairs; the frozen weight and bias get None
        of_tensors = [part for pair in (of_gate, of_up, of_down) for part in (None, None, *pair)]
        return for_x.view(*gradient.shape[:-1], rows.shape[-1]), None, *of_tensors


def _lora_pairs(tensors: Any, scales: list[float]) -> tuple[LoraPair, LoraPair, LoraPair]:
    """Return the pairs of gate, up and down. tensors: weight, bias, down and up of each, in this order."""
    pairs = []
    for start, scale in zip((0, 4, 8), scales, strict=True):
        weight, bias, down, up = tensors[start : start + 4]
        pairs.append(LoraPair(weight, bias, down, up, scale))
    return pairs[0], pairs[1], pairs[2]
