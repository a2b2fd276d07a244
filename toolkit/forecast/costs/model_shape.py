"""The shape of a model from its config.json: linear layers, widths, parameters.

Covers decoders with the layers of Llama, GPT-2, GPT-NeoX, Phi-3 or OPT. Another kind of model is rejected by name
instead of guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from toolkit.errors import ToolkitError

RawModelConfig = Mapping[str, Any]
MAX_DIMENSION = 10**9
"""Larger widths or vocabularies are taken for an error in config.json."""


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer that every decoder layer has once."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.inputs * self.outputs + self.outputs * self.bias


@dataclass(frozen=True)
class ModelShape:
    """A decoder: an embedding, `layers` layers with the same `linears`, and an output head.

    queries, keys: widths of all heads together. feed: width of the feed-forward layer. positions: maximum length, or
    None. usual: the modules that peft adapts by default. tied: whether embedding and head share their weights. norms:
    parameters of a layer's norms. experts: parameters of a layer's experts, of which a token uses `expert_share`.
    steps_kept: intermediate results as wide as `feed` that an activation of several operations stores. drops: whether
    the model drops attention weights in training. plain_head: whether the logits are not scaled or capped.
    """

    family: str
    hidden: int
    layers: int
    heads: int
    queries: int
    keys: int
    feed: int
    vocabulary: int
    positions: int | None
    linears: tuple[LinearLayer, ...]
    usual: tuple[str, ...]
    tied: bool
    norms: int
    final_norm: int
    learned_positions: int = 0
    experts: int = 0
    expert_share: float = 1.0
    steps_kept: int = 0
    drops: bool = False
    plain_head: bool = True

    @property
    def embedding(self) -> int:
        """Parameters of the embedding."""
        return self.vocabulary * self.hidden

    @cached_property
    def linear_parameters(self) -> int:
        """Parameters of the linear layers of all layers, with the experts."""
        return self.layers * (sum(linear.parameters for linear in self.linears) + self.experts)

    @cached_property
    def active_parameters(self) -> int:
        """The part of `linear_parameters` that one token uses."""
        each = sum(linear.parameters for linear in self.linears) + self.experts * self.expert_share
        return round(self.layers * each)

    @cached_property
    def parameters(self) -> int:
        """All parameters of the model."""
        around = self.embedding * (1 if self.tied else 2) + self.learned_positions + self.final_norm
        return around + self.linear_parameters + self.layers * self.norms


def read_model_shape(config: RawModelConfig) -> ModelShape:
    """Return the shape that a config.json describes.

    Raises ToolkitError for an unknown kind of model and for invalid sizes.
    """
    inner = config.get("text_config")
    raw = {**config, **(inner if isinstance(inner, Mapping) else {})}
    kind = str(raw.get("model_type", ""))
    looks_like_llama = {"hidden_size", "intermediate_size", "num_key_value_heads"} <= set(raw)
    family = _FAMILIES.get(kind) or (_llama if looks_like_llama else None)
    if family is None or kind in _UNSUPPORTED_MODELS:
        raise ToolkitError(f"'{kind or 'unnamed'}' models are not supported by the forecast.", "Press Measure instead.")
    try:
        found = family(raw)
    except KeyError as error:
        raise ToolkitError(f"The model's config.json lacks {error}.", "Download the model again.") from error
    except (TypeError, ValueError, ArithmeticError):
        found = None
    if found is None or not _has_valid_sizes(found):
        raise ToolkitError("The model's config.json has invalid sizes.", "Download the model again.")
    return found


def _has_valid_sizes(shape: ModelShape) -> bool:
    sizes = (shape.hidden, shape.layers, shape.heads, shape.queries, shape.keys, shape.feed, shape.vocabulary)
    given = sizes if shape.positions is None else (*sizes, shape.positions)
    return all(type(size) is int and 0 < size <= MAX_DIMENSION for size in given)


def _llama(raw: RawModelConfig) -> ModelShape:
    """Llama and models with the same layers: Mistral, Qwen, Gemma, SmolLM and others."""
    kind, hidden, layers = raw["model_type"], raw["hidden_size"], raw["num_hidden_layers"]
    heads = raw["num_attention_heads"]
    kv_heads = raw.get("num_key_value_heads") or heads
    width = raw.get("head_dim") or _HEAD_WIDTH.get(kind) or hidden // heads
    queries, keys, feed = heads * width, kv_heads * width, raw["intermediate_size"]
    bias, qkv_bias = bool(raw.get("attention_bias")), kind == "qwen2" or bool(raw.get("attention_bias"))
    attention = (
        LinearLayer("q_proj", hidden, queries, qkv_bias),
        LinearLayer("k_proj", hidden, keys, qkv_bias),
        LinearLayer("v_proj", hidden, keys, qkv_bias),
        LinearLayer("o_proj", queries, hidden, bias),
    )
    count = int(raw.get("num_local_experts") or raw.get("num_experts") or 0)
    mlp_bias = bool(raw.get("mlp_bias"))
    dense = (
        LinearLayer("gate_proj", hidden, feed, mlp_bias),
        LinearLayer("up_proj", hidden, feed, mlp_bias),
        LinearLayer("down_proj", feed, hidden, mlp_bias),
    )
    inner = int(raw.get("moe_intermediate_size") or feed)
    norms = hidden * (4 if kind in ("gemma2", "gemma3", "gemma3_text") else 2)
    norms += 2 * width if kind in ("qwen3", "qwen3_moe", "gemma3", "gemma3_text") else 0
    return ModelShape(
        family=kind,
        hidden=hidden,
        layers=layers,
        heads=heads,
        queries=queries,
        keys=keys,
        feed=inner * _experts_per_token(raw) if count else feed,
        vocabulary=raw["vocab_size"],
        positions=raw.get("max_position_embeddings"),
        linears=attention if count else (*attention, *dense),
        usual=("q_proj", "v_proj"),
        tied=bool(raw.get("tie_word_embeddings", kind.startswith("gemma"))),
        norms=norms,
        final_norm=hidden,
        experts=count * (3 * inner * hidden + hidden),
        expert_share=_experts_per_token(raw) / count if count else 1.0,
        plain_head=not any(raw.get(name) for name in _LOGIT_SETTINGS),
    )


def _experts_per_token(raw: RawModelConfig) -> int:
    return int(raw.get("num_experts_per_tok") or 1)


def _phi3(raw: RawModelConfig) -> ModelShape:
    plain = _llama(raw)
    hidden, queries, keys, feed = plain.hidden, plain.queries, plain.keys, plain.feed
    linears = (
        LinearLayer("qkv_proj", hidden, queries + 2 * keys),
        LinearLayer("o_proj", queries, hidden),
        LinearLayer("gate_up_proj", hidden, 2 * feed),
        LinearLayer("down_proj", feed, hidden),
    )
    return ModelShape(**{**vars(plain), "linears": linears, "usual": ("qkv_proj",)})


def _full_attention(hidden: int) -> dict[str, Any]:
    """Return the sizes of models whose keys are as wide as their queries, and whose norms have biases."""
    return {"hidden": hidden, "queries": hidden, "keys": hidden, "norms": 4 * hidden, "final_norm": 2 * hidden}


def _gpt2(raw: RawModelConfig) -> ModelShape:
    hidden = raw["n_embd"]
    feed, positions = raw.get("n_inner") or 4 * hidden, raw.get("n_positions", 1024)
    linears = (
        LinearLayer("c_attn", hidden, 3 * hidden, True),
        LinearLayer("c_proj", hidden, hidden, True),
        LinearLayer("c_fc", hidden, feed, True),
        LinearLayer("c_proj", feed, hidden, True),
    )
    return ModelShape(
        family="gpt2",
        **_full_attention(hidden),
        layers=raw["n_layer"],
        heads=raw["n_head"],
        feed=feed,
        vocabulary=raw["vocab_size"],
        positions=positions,
        linears=linears,
        usual=("c_attn",),
        tied=bool(raw.get("tie_word_embeddings", True)),
        learned_positions=positions * hidden,
        steps_kept=_COMPOSED_ACTIVATIONS.get(raw.get("activation_function", "gelu_new"), 0),
        drops=bool(raw.get("attn_pdrop", 0.1)),
    )


def _gpt_neox(raw: RawModelConfig) -> ModelShape:
    hidden, feed = raw["hidden_size"], raw["intermediate_size"]
    bias = bool(raw.get("attention_bias", True))
    linears = (
        LinearLayer("query_key_value", hidden, 3 * hidden, bias),
        LinearLayer("dense", hidden, hidden, bias),
        LinearLayer("dense_h_to_4h", hidden, feed, True),
        LinearLayer("dense_4h_to_h", feed, hidden, True),
    )
    return ModelShape(
        family="gpt_neox",
        **_full_attention(hidden),
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        feed=feed,
        vocabulary=raw["vocab_size"],
        positions=raw.get("max_position_embeddings"),
        linears=linears,
        usual=("query_key_value",),
        tied=bool(raw.get("tie_word_embeddings", False)),
    )


def _opt(raw: RawModelConfig) -> ModelShape:
    hidden, feed = raw["hidden_size"], raw["ffn_dim"]
    if raw.get("word_embed_proj_dim", hidden) != hidden:
        raise KeyError("an embedding as wide as its layers")
    bias, positions = bool(raw.get("enable_bias", True)), raw.get("max_position_embeddings", 2048)
    attention = tuple(LinearLayer(name, hidden, hidden, bias) for name in ("k_proj", "v_proj", "q_proj", "out_proj"))
    linears = (*attention, LinearLayer("fc1", hidden, feed, bias), LinearLayer("fc2", feed, hidden, bias))
    return ModelShape(
        family="opt",
        **_full_attention(hidden),
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        feed=feed,
        vocabulary=raw["vocab_size"],
        positions=positions,
        linears=linears,
        usual=("q_proj", "v_proj"),
        tied=bool(raw.get("tie_word_embeddings", True)),
        learned_positions=(positions + 2) * hidden,  # OPT's positions begin at 2
    )


_HEAD_WIDTH = {"gemma": 256, "gemma2": 256, "gemma3": 256, "gemma3_text": 256, "qwen3": 128, "qwen3_moe": 128}
_LOGIT_SETTINGS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
_COMPOSED_ACTIVATIONS = {"gelu_new": 3, "gelu_fast": 3, "quick_gelu": 1}
"""Activations that transformers computes in several operations, and the intermediate results that each stores."""
_UNSUPPORTED_MODELS = {
    "deepseek_v2", "deepseek_v3", "jamba", "falcon_h1", "qwen3_next", "gemma3n", "gemma3n_text", "gpt_oss",
}  # fmt: skip
"""Models with the usual keys but other layers: compressed attention, state spaces, per-layer embeddings."""
_FAMILIES: dict[str, Callable[[RawModelConfig], ModelShape]] = {
    "gpt2": _gpt2, "gpt_neox": _gpt_neox, "opt": _opt, "phi3": _phi3,
}  # fmt: skip
