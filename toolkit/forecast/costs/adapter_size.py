"""The number of parameters that a LoRA config trains in a model of a given shape, counted as peft counts them."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.config import LoraConfig
from toolkit.forecast.costs.model_shape import LinearLayer, ModelShape

LIBRARY_RANK = 8  # peft's default


@dataclass(frozen=True)
class AdapterSize:
    """The trained parameters of an adapter.

    lora: parameters of all low-rank pairs. whole: parameters of biases and of modules that are trained in full.
    narrow: sum of the ranks of one layer's pairs. inputs: sum of the input widths of one layer's pairs. pairs: number
    of pairs in all layers. copied: parameters of the base that exist a second time in each step.
    """

    lora: int
    whole: int
    narrow: int
    inputs: int
    pairs: int
    copied: int = 0

    @property
    def parameters(self) -> int:
        """All trained parameters."""
        return self.lora + self.whole


def compute_adapter_size(config: LoraConfig, shape: ModelShape) -> AdapterSize:
    """Return the size of the adapter that `config` trains in a model of `shape`."""
    rank = config.r if config.r is not None else LIBRARY_RANK
    excluded = set(config.exclude_modules or ())
    targets = (linear for linear in shape.linears if _is_target(linear.name, config.target_modules, shape))
    chosen = [linear for linear in targets if linear.name not in excluded]
    layers = _count_adapted_layers(config, shape)
    magnitudes = 1 if config.use_dora else 0  # one for each output
    lora = layers * sum(rank * (linear.inputs + linear.outputs) + magnitudes * linear.outputs for linear in chosen)
    biased = shape.linears if config.bias == "all" else chosen if config.bias == "lora_only" else ()
    biases = (shape.layers if config.bias == "all" else layers) * sum(
        linear.outputs for linear in biased if linear.bias
    )
    whole = biases + sum(_module_parameters(name, shape) for name in set(config.modules_to_save or ()))
    tokens = set(config.trainable_token_indices or ())
    whole += shape.hidden * len(tokens)
    # peft writes the trained rows into a copy; one that the output layer reads too is kept, and gets a gradient
    copied = shape.embedding * (2 if shape.tied else 1) if tokens else 0
    inputs = sum(linear.inputs for linear in chosen)
    return AdapterSize(lora, whole, rank * len(chosen), inputs, layers * len(chosen), copied)


def _is_target(name: str, targets: list[str] | None, shape: ModelShape) -> bool:
    if targets is None:
        return name in shape.usual
    return targets == ["all-linear"] or any(name == target.rsplit(".", 1)[-1] for target in targets)


def _count_adapted_layers(config: LoraConfig, shape: ModelShape) -> int:
    chosen = config.layers_to_transform
    if chosen is None:
        return shape.layers
    return len({index for index in ([chosen] if isinstance(chosen, int) else chosen) if index < shape.layers})


def _module_parameters(name: str, shape: ModelShape) -> int:
    last = name.rsplit(".", 1)[-1]
    if last in ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out"):
        return shape.embedding
    named: list[LinearLayer] = [linear for linear in shape.linears if linear.name == last]
    return shape.layers * sum(linear.parameters for linear in named)
