"""Fused LoRA linear layers: peft's numbers with fewer passes over memory and less kept for backward.

peft adds a scaled copy of the adapter's output to that of the layer, and under autocast copies the input once for each
module. Here both products go into one buffer, and only the input and the narrow product are kept for backward. Layers
with dropout, a LoRA variant, several adapters or quantized weights keep peft's forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn


def fuse_lora_layers(model: nn.Module) -> int:
    """Replace the forward of every LoRA layer that allows it and return their number."""
    layers = [layer for layer in model.modules() if _can_fuse(layer)]
    for layer in layers:
        layer.forward = _FusedForward(layer)
    return len(layers)


def _can_fuse(layer: nn.Module) -> bool:
    if type(layer) is not LoraLinear or type(layer.base_layer) is not nn.Linear or len(layer.lora_A) != 1:
        return False
    # hooks (of offloading) replace `forward` on the instance and load the weights when they are needed
    if "forward" in vars(layer) or "forward" in vars(layer.base_layer):
        return False
    (name,) = layer.lora_A
    dropout = layer.lora_dropout[name]
    plain = name not in layer.lora_variant and layer.lora_B[name].bias is None and not layer.fan_in_fan_out
    frozen = not layer.base_layer.weight.requires_grad
    bias = layer.base_layer.bias
    return plain and frozen and isinstance(dropout, nn.Identity) and (bias is None or not bias.requires_grad)


@dataclass(frozen=True)
class LoraPair:
    """The tensors of a LoRA layer: a frozen weight [out, in] with its bias, down [rank, in] and up [out, rank]."""

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return (rows @ weight.T + bias + scale * (rows @ down.T) @ up.T, the narrow product rows @ down.T).

        rows: [n, in].
        """
        narrow = rows @ self.down.to(rows.dtype).T
        out = rows @ self.weight.T
        if self.bias is not None:
            out += self.bias
        return out.addmm_(narrow, self.up.to(rows.dtype).T, alpha=self.scale), narrow

    def backward(
        self,
        output_gradient: Tensor,
        rows: Tensor,
        narrow: Tensor,
        accumulate_into: Tensor | None = None,
        *,
        needs_input_gradient: bool = True,
    ) -> tuple[Any, Tensor, Tensor]:
        """Return the gradients of (rows, down, up) from that of the output [n, out].

        accumulate_into: a tensor [n, in] to which the gradient of the rows is added in place. The gradient of the rows
        is None if it is not needed.
        """
        for_narrow = (output_gradient @ self.up.to(output_gradient.dtype)).mul_(self.scale)
        for_up = (output_gradient.T @ narrow).mul_(self.scale).to(self.up.dtype)
        for_down = (for_narrow.T @ rows).to(self.down.dtype)
        for_rows = accumulate_into
        if needs_input_gradient:
            # addmm_ adds the product to the buffer without an intermediate of the size of the input
            if for_rows is None:
                for_rows = output_gradient @ self.weight
            else:
                for_rows.addmm_(output_gradient, self.weight)
            for_rows.addmm_(for_narrow, self.down.to(output_gradient.dtype))
        return for_rows, for_down, for_up


def fused_forward_of(layer: nn.Module) -> _FusedForward | None:
    """Return the fused forward that fuse_lora_layers gave a layer, or None."""
    found = vars(layer).get("forward")
    return found if isinstance(found, _FusedForward) else None


class TokenwiseStep:
    """A step of a layer that handles each token by itself and can skip tokens whose result is not read."""

    selected_tokens: Tensor | None = None
    """Positions [n] of an input [1, tokens, width] to compute; the output is zero elsewhere. None computes all."""

    def apply_to_tokens(self, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `step` to the selected tokens of `x`."""
        # experts get rows [n, width] in an order of their own, to which the positions do not apply
        if self.selected_tokens is None or x.dim() != 3 or len(x) > 1:
            return step(x)
        out = step(x.index_select(1, self.selected_tokens))
        return out.new_zeros(*x.shape[:-1], out.shape[-1]).index_copy(1, self.selected_tokens, out)


class _FusedForward(TokenwiseStep):
    """Replaces the `forward` of a LoRA layer. Calls other than plain training go to peft's own."""

    def __init__(self, layer: Any) -> None:
        (self._name,) = layer.lora_A
        self._layer = layer

    @property
    def is_plain_training(self) -> bool:
        layer = self._layer
        return not layer.disable_adapters and not layer.merged and layer.active_adapters == [self._name]

    def lora_pair(self, x: Tensor) -> LoraPair:
        """Return the layer's tensors, the frozen weight in the precision that `x` is computed in."""
        layer, name, kind = self._layer, self._name, x.device.type
        base = layer.base_layer
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.weight.dtype
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        return LoraPair(base.weight.to(dtype), base.bias, down, up, layer.scaling[name])

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self.is_plain_training:
            return type(self._layer).forward(self._layer, x, *args, **kwargs)
        return self.apply_to_tokens(x, self._product)

    def _product(self, x: Tensor) -> Tensor:
        pair = self.lora_pair(x)
        return _LoraProduct.apply(x.to(pair.weight.dtype), pair.weight, pair.bias, pair.down, pair.up, pair.scale)


def restore_shape(out: Tensor, x: Tensor) -> Tensor:
    """Return `out` [n, width] in the shape of `x` but for the last dimension."""
    # not as a view: autograd refuses in-place changes of a custom function's view, and Gemma 3n makes them
    return torch.ops.aten._unsafe_view(out, [*x.shape[:-1], out.shape[-1]])


class _LoraProduct(torch.autograd.Function):
    """The product of a LoraPair, differentiable in x, down and up."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        # the arguments have their final type: autocast would only check and copy them again
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
        output_gradient = gradient.reshape(-1, gradient.shape[-1])
        pair = LoraPair(weight, None, down, up, ctx.scale)
        # the first layer of a model reads frozen embeddings, which need no gradient
        for_x, for_down, for_up = pair.backward(
            output_gradient, rows, narrow, needs_input_gradient=ctx.needs_input_grad[0]
        )
        if for_x is not None:
            for_x = for_x.view(*gradient.shape[:-1], rows.shape[-1])
        return for_x, None, None, for_down, for_up, None
