"""LoRA's linear layers in one step: the same numbers as peft's, with fewer passes over memory and less kept for later.

peft adds a scaled copy of the adapter's output to the layer's own, and under autocast copies the input once a module;
here both products go into one buffer, and the backward keeps the input and the narrow product alone. Layers with
dropout, a variant, several adapters or quantized weights stay peft's. Knows no config and no trainer.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn


def fuse(model: nn.Module) -> int:
    """Give every layer that allows it the fused forward; returns their number. Undone by `unfuse`."""
    layers = [layer for layer in model.modules() if _fusible(layer)]
    for layer in layers:
        layer.forward = _Forward(layer)
    return len(layers)


def unfuse(model: nn.Module) -> None:
    """Back to peft's own forward."""
    for layer in model.modules():
        if isinstance(vars(layer).get("forward"), _Forward):
            del layer.forward


def _fusible(layer: nn.Module) -> bool:
    if type(layer) is not LoraLinear or type(layer.base_layer) is not nn.Linear or len(layer.lora_A) != 1:
        return False
    (name,) = layer.lora_A
    dropout = layer.lora_dropout[name]
    plain = name not in layer.lora_variant and layer.lora_B[name].bias is None and not layer.fan_in_fan_out
    frozen = not layer.base_layer.weight.requires_grad
    bias = layer.base_layer.bias
    return plain and frozen and isinstance(dropout, nn.Identity) and (bias is None or not bias.requires_grad)


class _Forward:
    """Stands where a layer's `forward` was; whatever is not plain training goes to peft's own."""

    def __init__(self, layer: Any) -> None:
        (self._name,) = layer.lora_A
        self._layer = layer

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer, name = self._layer, self._name
        if args or kwargs or layer.disable_adapters or layer.merged or layer.active_adapters != [name]:
            return type(layer).forward(layer, x, *args, **kwargs)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else layer.base_layer.weight.dtype
        base = layer.base_layer
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        return _LoraProduct.apply(x.to(dtype), base.weight.to(dtype), base.bias, down, up, layer.scaling[name])


class _LoraProduct(torch.autograd.Function):
    """x @ weight.T + bias + scale * (x @ down.T) @ up.T, differentiable in x, down and up."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1])
            narrow = rows @ down.to(x.dtype).T
            out = rows @ weight.T
            if bias is not None:
                out += bias
            out.addmm_(narrow, up.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(rows, narrow, weight, down, up)
        ctx.scale = scale
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, narrow, weight, down, up = ctx.saved_tensors
        gradient = gradients[0]
        flat = gradient.reshape(-1, gradient.shape[-1])
        back = (flat @ up.to(flat.dtype)).mul_(ctx.scale)
        for_up = (flat.T @ narrow).mul_(ctx.scale).to(up.dtype)
        for_down = (back.T @ rows).to(down.dtype)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = (flat @ weight).addmm_(back, down.to(flat.dtype)).view(*gradient.shape[:-1], rows.shape[-1])
        return for_x, None, None, for_down, for_up, None
