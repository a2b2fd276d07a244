"""What kind of model a config.json describes, and which kinds can't be trained here, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem, ToolkitError

BAD_MODEL = "bad_model"
ALL_LINEAR = ["all-linear"]
MAMBA_TARGETS = {
    "mamba": ("in_proj", "x_proj"),
    "falcon_mamba": ("in_proj", "x_proj"),
    "mamba2": ("in_proj",),
    "falcon_h1": ("in_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "nemotron_h": ("in_proj", "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"),
}
"""Models with Mamba layers, in which PEFT refuses two modules -> where an adapter can go. Not on dt_proj: the models
read its weight alone, so that an adapter has no effect."""
MAMBA_REFUSED = ("out_proj", "conv1d")
LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
MAX_LAYERS = 2_000
"""More than ten times those of the deepest models; a library builds each of them before it looks at the weights."""
_OTHER_HEAD = re.compile(
    r"For(Sequence|Token)Classification$|ForQuestionAnswering$|ForMultipleChoice$|ForMaskedLM$|RewardModel$"
)
_NO_HEAD = re.compile(r"(?<!LMHead)(?<!Heads)Model$")
_HEAD_WEIGHTS = re.compile(r"(^|\.)(lm_head|embed_out|output_layer|output)\.")
TRAINED_QUANTIZATIONS = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "mxfp4", "fp8")
"""Ways of quantizing in which a base model may come; of the last two transformers restores the numbers on loading."""
_CHOOSE = "Choose a causal language model (a decoder), for example one of the SmolLM2, Qwen3, Llama or Gemma families."


def refuse_other_architectures(name: str, settings: Mapping[str, Any]) -> None:
    """Raise ToolkitError unless `settings`, a config.json, describes a model that continues a text.

    A kind of model that transformers does not know is not judged here: loading it fails with a reason.
    """
    # here, because an adapter is exported without the heavy libraries
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    kind = str(settings.get("model_type", ""))
    named = settings.get("architectures")
    heads = list(map(str, named)) if isinstance(named, list) else []
    if kind not in CONFIG_MAPPING_NAMES:
        return
    two_parts = kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and settings.get("is_encoder_decoder", True)
    if settings.get("is_encoder_decoder") or two_parts:
        reason = f"is an encoder-decoder model ({kind}): it reads one text and writes another, and has no single prompt"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not settings.get("is_decoder"):
        reason = f"is an encoder model ({kind}): it fills in masked words, and can't write an answer"
    elif kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        reason = f"is a vision-language model ({kind}): transformers can't load it as a model for text only"
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        reason = f"has no head for text generation: transformers has none for '{kind}' models"
    elif heads and all(_OTHER_HEAD.search(head) for head in heads):
        reason = f"has no head for text generation: its config.json names {heads[0]}"
    else:
        return
    raise ToolkitError(f"The model '{name}' {reason}.", _CHOOSE, BAD_MODEL)


def refuse_missing_head(name: str, settings: Mapping[str, Any], weights: Iterable[str]) -> None:
    """Raise ToolkitError for a model that was saved without its output layer, as models for embeddings are.

    settings: of config.json. weights: the names of all weights, which are read only where they decide.
    """
    named = settings.get("architectures")
    heads = list(map(str, named)) if isinstance(named, list) else []
    if not heads or not all(_NO_HEAD.search(head) for head in heads) or _ties_head(settings):
        return
    if not any(map(_HEAD_WEIGHTS.search, weights)):
        message = f"The model '{name}' has no head for text generation: it was saved as {heads[0]}, without one."
        raise ToolkitError(message, _CHOOSE, BAD_MODEL)


def _ties_head(settings: Mapping[str, Any]) -> bool:
    """Return whether the output layer is the embedding matrix: by the settings, or else by the family's default."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if "tie_word_embeddings" in settings:
        return bool(settings["tie_word_embeddings"])
    kind = str(settings.get("model_type", ""))
    return kind not in CONFIG_MAPPING_NAMES or bool(getattr(AutoConfig.for_model(kind), "tie_word_embeddings", True))


def refuse_other_quantizations(name: str, settings: Mapping[str, Any]) -> None:
    """Raise ToolkitError if the weights are quantized in a way not trained here, by `settings`, a config.json."""
    text = settings.get("text_config")
    for part in (settings, text if isinstance(text, Mapping) else {}):
        found = part.get("quantization_config") or {}
        method = str(found.get("quant_method") or "bitsandbytes") if isinstance(found, Mapping) else "unknown"
        if method.lower() not in TRAINED_QUANTIZATIONS:
            message = f"The weights of '{name}' are quantized with {method[:80]}, which can't be trained here."
            hint = "Enter the original model, in 16 or 32 bits, and turn on quantization (QLoRA) to save memory."
            raise ToolkitError(message, hint, BAD_MODEL)


def refuse_too_many_layers(name: str, settings: Mapping[str, Any]) -> None:
    """Raise ToolkitError if `settings`, a config.json, or a part of it asks for more than MAX_LAYERS layers."""
    for key, value in settings.items():
        if key in LAYER_KEYS and isinstance(value, int | float) and value > MAX_LAYERS:
            message = f"config.json of '{name}' sets {key} to {value:,}; at most {MAX_LAYERS:,} are supported."
            raise ToolkitError(message, "Download the model again, or choose another one.", BAD_MODEL)
        if isinstance(value, dict):
            refuse_too_many_layers(name, value)


def check_lora_targets(config: Config, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for modules of Mamba layers on which PEFT refuses an adapter, and for tokens that do not exist.

    settings: of a config.json.
    """
    part = settings.get("text_config")
    size = (part if isinstance(part, Mapping) else settings).get("vocab_size")
    if isinstance(size, int):
        refuse_unknown_tokens(config, size)
    kind, targets = str(settings.get("model_type", "")), config.lora.target_modules
    if kind not in MAMBA_TARGETS:
        return
    refused = [name for name in targets or [] if name.split(".")[-1] in MAMBA_REFUSED]
    if targets is not None and targets != ALL_LINEAR and not refused:
        return
    modules = " and ".join(refused or MAMBA_REFUSED)
    message = f"The model has Mamba layers ({kind}), whose {modules} can't have an adapter: their kernel skips it."
    hint = f"Set target_modules to {', '.join(MAMBA_TARGETS[kind])}."
    raise ConfigError([Problem("lora.target_modules", message, hint)])


def refuse_unknown_tokens(config: Config, size: int) -> None:
    """Raise ConfigError if a token to train is beyond the `size` rows of the embedding matrix."""
    ids = config.lora.trainable_token_indices
    if ids and max(ids) >= size:
        message = f"The model has embeddings for {size:,} tokens; there is no token {max(ids)}."
        hint = f"Use ids from 0 to {size - 1}, which the token view shows."
        raise ConfigError([Problem("lora.trainable_token_indices", message, hint)])
