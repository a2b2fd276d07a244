"""The families whose models are written as GGUF: llama.cpp's name for each, its settings, and how its weights differ.

llama.cpp computes a family by its name: what a config sets otherwise is refused here, as it would be ignored there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[Any]
WRITTEN_FAMILIES = "Llama, Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3 and SmolLM"
GEMMA_SCALED_LAYERS = {"gemma2": 46, "gemma3_text": 62}
"""The number of layers of the largest model, whose attention llama.cpp scales by another number."""


@dataclass(frozen=True)
class GgufFamily:
    """How a family is written.

    name: llama.cpp's. interleaved: whether its rotary positions turn neighbors, so that rows of query and key change
    places. norm_offset: what is added to the weights of norms.
    """

    name: str
    activation: str = "silu"
    interleaved: bool = False
    norm_offset: float = 0.0


_GEMMA = {"activation": "gelu_pytorch_tanh", "norm_offset": 1.0}
GGUF_FAMILIES: dict[str, GgufFamily] = {
    "llama": GgufFamily("llama", interleaved=True),
    "mistral": GgufFamily("llama", interleaved=True),
    "qwen2": GgufFamily("qwen2"),
    "qwen3": GgufFamily("qwen3"),
    "gemma2": GgufFamily("gemma2", **_GEMMA),  # type: ignore[arg-type]
    "gemma3_text": GgufFamily("gemma3", **_GEMMA),  # type: ignore[arg-type]
}
"""By `model_type`."""


def find_unwritable(config: Any) -> str:
    """Return why a model with this config can't be written as GGUF here, "" if it can."""
    kind = str(config.model_type)
    if kind not in GGUF_FAMILIES:
        return f"GGUF files are written for {WRITTEN_FAMILIES} models, and this is a '{kind}' model"
    return next(_unusual_settings(config, kind), "")


def _unusual_settings(config: Any, kind: str) -> Iterator[str]:
    family = GGUF_FAMILIES[kind]
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation != family.activation:
        yield f"its activation is {activation}, and llama.cpp computes {family.activation} for '{kind}' models"
    for layers, rope in _rotary_settings(config).items():
        scaled = str(rope.get("rope_type", "default"))
        known = {"default", "linear"} | ({"yarn", "llama3"} if family.interleaved else {"yarn"})
        if scaled not in (known if layers == "full_attention" else {"default"}):
            yield f"its rotary positions are scaled by '{scaled}', which is not written"
        if rope.get("partial_rotary_factor", 1.0) != 1.0 or rope.get("attention_factor") is not None:
            yield "its rotary positions have settings that are not written"
    if family.norm_offset:
        yield from _unusual_gemma(config, kind)


def _unusual_gemma(config: Any, kind: str) -> Iterator[str]:
    if not config.tie_word_embeddings:
        yield "its output layer has weights of its own, and llama.cpp takes the embeddings for it"
    scale, layers = config.query_pre_attn_scalar, config.num_hidden_layers
    wide = config.hidden_size // config.num_attention_heads
    if scale != (wide if layers == GEMMA_SCALED_LAYERS[kind] else config.head_dim):
        yield f"its query_pre_attn_scalar is {scale}, and llama.cpp has another scale for this size"
    if kind == "gemma3_text" and (config.attn_logit_softcapping or config.final_logit_softcapping):
        yield "its logits are capped, which llama.cpp does for Gemma 2 only"
    if _sliding_period(config) is None:
        yield "its layers with a sliding window do not follow one pattern"


def _rotary_settings(config: Any) -> dict[str, Mapping[str, Any]]:
    """Return the rotary settings by kind of layer."""
    parameters = config.rope_parameters or {}
    return parameters if "full_attention" in parameters else {"full_attention": parameters}


def _sliding_period(config: Any) -> int | None:
    """Return n if every n-th layer, and no other, has no sliding window; the number of layers + 1 if none is so."""
    full = [i + 1 for i, layer in enumerate(config.layer_types) if layer == "full_attention"]
    period = full[0] if full else len(config.layer_types) + 1
    return period if full == list(range(period, len(config.layer_types) + 1, period)) else None


def list_gguf_settings(config: Any) -> dict[str, Any]:
    """Return llama.cpp's settings of a model, without the family's name in front of each."""
    kind, head = str(config.model_type), _head_size(config)
    rope = _rotary_settings(config)
    full = rope["full_attention"]
    settings: dict[str, Any] = {
        "context_length": _usable_context(config, kind),
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "rope.freq_base": float(full["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    scaled = full.get("rope_type", "default")
    if scaled in ("linear", "yarn"):
        settings |= {"rope.scaling.type": scaled, "rope.scaling.factor": float(full["factor"])}
    if scaled == "yarn":
        names = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
        settings |= {f"rope.scaling.{new}": float(full[old]) for old, new in names.items() if old in full}
        settings["rope.scaling.original_context_length"] = int(full["original_max_position_embeddings"])
    if GGUF_FAMILIES[kind].norm_offset:
        settings["attention.sliding_window"] = config.sliding_window
        settings["attention.sliding_window_pattern"] = _sliding_period(config)
    if "sliding_attention" in rope:
        settings["rope.freq_base_swa"] = float(rope["sliding_attention"]["rope_theta"])
    if kind == "gemma2":
        settings["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
        settings["final_logit_softcapping"] = float(config.final_logit_softcapping)
    return settings


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _usable_context(config: Any, kind: str) -> int:
    """Return the context in which llama.cpp computes the same: for these families it knows no sliding window."""
    context, window = int(config.max_position_embeddings), getattr(config, "sliding_window", None)
    slides = kind == "mistral" or "sliding_attention" in (getattr(config, "layer_types", None) or ())
    ignored = window is not None and slides and GGUF_FAMILIES[kind].norm_offset == 0
    return min(context, int(window or context)) if ignored else context


def arrange_weights(config: Any, name: str, weights: Weights) -> Weights:
    """Return the weights of `name`, transformers' name for them, as llama.cpp has them."""
    family = GGUF_FAMILIES[str(config.model_type)]
    if family.norm_offset and name.endswith("norm.weight"):
        return np.asarray(weights + family.norm_offset, dtype=np.float32)
    layer = name.rpartition(".")[0]
    if family.interleaved and layer.endswith(("q_proj", "k_proj")):
        heads = config.num_attention_heads if layer.endswith("q_proj") else config.num_key_value_heads
        halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        return halves.swapaxes(1, 2).reshape(weights.shape)
    return weights


def scale_frequencies(config: Any) -> Weights | None:
    """Return what each rotary frequency is divided by in a Llama 3.1 model, None for another one."""
    rope = _rotary_settings(config)["full_attention"]
    if rope.get("rope_type") != "llama3":
        return None
    size, factor = _head_size(config), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    waves = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, size, 2) / size)
    turns = rope["original_max_position_embeddings"] / waves
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), dtype=np.float32)
