"""LoRA's linear layers in one step: the same numbers as peft's, with fewer passes over memory and less kept for later.

peft adds a scaled copy of the adapter's output to the layer's own, and under autocast copies the input once a module;
here both products go into one buffer, and the backward keeps the input and the narrow product alone. Layers with
dropout, a variant, several adapters or quantized weights stay peft's. Knows no config and no trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn


def fuse_lora_layers(model: nn.Module) -> int:
    """Give every layer that allows it the fused forward; returns their number."""
    layers = [layer for layer in model.modules() if _can_fuse(layer)]
    for layer in layers:
        layer.forward = _FusedForward(layer)
    return len(layers)


def _can_fuse(layer: nn.Module) -> bool:
    if type(layer) is not LoraLinear or type(layer.base_layer) is not nn.Linear or len(layer.lora_A) != 1:
        return False
    if "forward" in vars(layer) or "forward" in vars(layer.base_layer):  # hooks bring its weights when they are needed
        return False
    (name,) = layer.lora_A
    dropout = layer.lora_dropout[name]
    plain = name not in layer.lora_variant and layer.lora_B[name].bias is None and not layer.fan_in_fan_out
    frozen = not layer.base_layer.weight.requires_grad
    bias = layer.base_layer.bias
    return plain and frozen and isinstance(dropout, nn.Identity) and (bias is None or not bias.requires_grad)


@dataclass(frozen=True)
class LoraPair:
    """A frozen weight [out, in] with its bias, and the adapter's down [rank, in] and up [out, rank] beside it."""

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [n, in] -> (x @ weight.T + bias + scale * (x @ down.T) @ up.T, the narrow product)."""
        narrow = rows @ self.down.to(rows.dtype).T
        out = rows @ self.weight.T
        if self.bias is not None:
            out += self.bias
        return out.addmm_(narrow, self.up.to(rows.dtype).T, alpha=self.scale), narrow

    def backward(
        self, flat: Tensor, rows: Tensor, narrow: Tensor, into: Tensor | None = None, *, inputs: bool = True
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients for (rows, down, up) from that of the output; `into` is added to the first, in place."""
        back = (flat @ self.up.to(flat.dtype)).mul_(self.scale)
        for_up = (flat.T @ narrow).mul_(self.scale).to(self.up.dtype)
        for_down = (back.T @ rows).to(self.down.dtype)
        if inputs:
            into = flat @ self.weight if into is None else into.addmm_(flat, self.weight)
            into.addmm_(back, self.down.to(flat.dtype))
        return into, for_down, for_up


def fused_forward_of(layer: nn.Module) -> _FusedForward | None:
    """The fused forward that `fuse` gave a layer."""
    found = vars(layer).get("forward")
    return found if isinstance(found, _FusedForward) else None


class TokenwiseStep:
    """What a layer does to each token by itself: it can leave tokens out whose result nobody reads."""

    only: Tensor | None = None
    """Places [n] of an input [1, tokens, width] that are computed; the output is zero elsewhere. None: all of them."""

    def apply_to_tokens(self, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        if self.only is None or x.dim() != 3 or len(x) > 1:  # experts get rows [n, width], and not always all of them
            return step(x)
        found = step(x.index_select(1, self.only))
        return found.new_zeros(*x.shape[:-1], found.shape[-1]).index_copy(1, self.only, found)


class _FusedForward(TokenwiseStep):
    """Stands where a layer's `forward` was; whatever is not plain training goes to peft's own."""

    def __init__(self, layer: Any) -> None:
        (self._name,) = layer.lora_A
        self._layer = layer

    @property
    def plain(self) -> bool:
        layer = self._layer
        return not layer.disable_adapters and not layer.merged and layer.active_adapters == [self._name]

    def pair(self, x: Tensor) -> LoraPair:
        """The layer's tensors, the frozen ones in the precision that `x` is computed in."""
        layer, name, kind = self._layer, self._name, x.device.type
        base = layer.base_layer
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.weight.dtype
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        return LoraPair(base.weight.to(dtype), base.bias, down, up, layer.scaling[name])

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self.plain:
            return type(self._layer).forward(self._layer, x, *args, **kwargs)
        return self.apply_to_tokens(x, self._product)

    def _product(self, x: Tensor) -> Tensor:
        pair = self.pair(x)
        return _LoraProduct.apply(x.to(pair.weight.dtype), pair.weight, pair.bias, pair.down, pair.up, pair.scale)


def restore_shape(out: Tensor, x: Tensor) -> Tensor:
    """[n, out] -> x's shape with another width; no view, which a model that goes on in place (Gemma 3n) is refused."""
    return torch.ops.aten._unsafe_view(out, [*x.shape[:-1], out.shape[-1]])


class _LoraProduct(torch.autograd.Function):
    """A pair's product, differentiable in x, down and up."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1])
            out, narrow = LoraPair(weight, bias, down, up, scale).forward(rows)
        ctx.save_for_backward(rows, narrow, weight, down, up)
        ctx.scale = scale
        return restore_shape(out, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, narrow, weight, down, up = ctx.saved_tensors
        gradient = gradients[0]
        flat = gradient.reshape(-1, gradient.shape[-1])
        pair = LoraPair(weight, None, down, up, ctx.scale)
        for_x, for_down, for_up = pair.backward(flat, rows, narrow, inputs=ctx.needs_input_grad[0])
        if for_x is not None:
            for_x = for_x.view(*gradient.shape[:-1], rows.shape[-1])
        return for_x, None, None, for_down, for_up, None
