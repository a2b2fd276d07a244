"""The source of the base model that a config names: bundled, a local folder, or the Hub; suggestions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.config import BUNDLED, Config
from toolkit.system.paths import ASSETS

ModelKind = Literal["none", "bundled", "local", "hub"]
APACHE, GEMMA, LLAMA = "Apache 2.0", "Gemma terms of use", "Llama 3.2 license"
DEMO_MODEL = BUNDLED + "demo-model"


@dataclass(frozen=True)
class SuggestedModel:
    """An instruct model of the Hub.

    gated: whether its license must be accepted on the Hub before it can be downloaded. sizes: what its config.json
    says, so that there is a forecast without the network.
    """

    name: str
    license: str
    sizes: Mapping[str, Any]
    gated: bool = False


def _sizes(
    kind: str, hidden: int, layers: int, feed: int, heads: int, kv_heads: int, width: int, vocabulary: int
) -> Mapping[str, Any]:
    return {
        "model_type": kind, "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": feed,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": width, "vocab_size": vocabulary,
        "tie_word_embeddings": True,
    }  # fmt: skip


SUGGESTED_MODELS = (
    SuggestedModel("google/gemma-3-270m-it", GEMMA, _sizes("gemma3_text", 640, 18, 2048, 4, 1, 256, 262_144), True),
    SuggestedModel("HuggingFaceTB/SmolLM2-360M-Instruct", APACHE, _sizes("llama", 960, 32, 2560, 15, 5, 64, 49_152)),
    SuggestedModel("Qwen/Qwen2.5-0.5B-Instruct", APACHE, _sizes("qwen2", 896, 24, 4864, 14, 2, 64, 151_936)),
    SuggestedModel("Qwen/Qwen3-0.6B", APACHE, _sizes("qwen3", 1024, 28, 3072, 16, 8, 128, 151_936)),
    SuggestedModel("google/gemma-3-1b-it", GEMMA, _sizes("gemma3_text", 1152, 26, 6912, 4, 1, 256, 262_144), True),
    SuggestedModel("meta-llama/Llama-3.2-1B-Instruct", LLAMA, _sizes("llama", 2048, 16, 8192, 32, 8, 64, 128_256),
                   True),
    SuggestedModel("Qwen/Qwen3-1.7B", APACHE, _sizes("qwen3", 2048, 28, 6144, 16, 8, 128, 151_936)),
    SuggestedModel("HuggingFaceTB/SmolLM3-3B", APACHE, _sizes("smollm3", 2048, 36, 11_008, 16, 4, 128, 128_256)),
    SuggestedModel("meta-llama/Llama-3.2-3B-Instruct", LLAMA, _sizes("llama", 3072, 28, 8192, 24, 8, 128, 128_256),
                   True),
    SuggestedModel("Qwen/Qwen3-4B-Instruct-2507", APACHE, _sizes("qwen3", 2560, 36, 9728, 32, 8, 128, 151_936)),
)  # fmt: skip
"""Small instruct models that are in use today, the smallest first."""


def find_suggested_model(name: str) -> SuggestedModel | None:
    """Return the suggestion of that name, None if there is none."""
    return next((model for model in SUGGESTED_MODELS if model.name == name), None)


def model_kind(config: Config) -> ModelKind:
    """Return the source of the base model. A name that looks like a path, or is an existing folder, is "local"."""
    name = config.model.hf_model_ckpt
    if not name:
        return "none"
    if name.startswith(BUNDLED):
        return "bundled"
    return "local" if name.startswith(("/", "./", "../", "~")) or Path(name).is_dir() else "hub"


def bundled_model_folder(name: str) -> Path | None:
    """Return the folder of a bundled model, or None. A name with path separators never leads outside the assets."""
    plain = name.removeprefix(BUNDLED)
    return ASSETS / plain if re.fullmatch(r"[a-z0-9-]+", plain) and (ASSETS / plain).is_dir() else None
