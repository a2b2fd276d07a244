"""Write config.json and tokenizer_config.json so that transformers 4 and the tools built on it read them as well.

transformers 5 saves the rotary settings under one new name, the number of experts under that of another family, and
special tokens as a list under a name that held a dictionary before. An older version ignores the first silently, and
computes with another base frequency; the others it can't read at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolkit.system.durable import durable_write

CONFIG_FILE, TOKENIZER_CONFIG_FILE = "config.json", "tokenizer_config.json"
OLD_ROPE_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct"), "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct")}
"""Names of base frequency and rotated share in families that did not say rope_theta and partial_rotary_factor."""
NEW_TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Classes that transformers 5 renamed. It still reads their old names."""


def write_both_config_forms(folder: Path) -> None:
    """Add the older names of rotary settings, experts and precision to the config.json of `folder`.

    The file is left as it was if the installed transformers would then read other rotary settings from it.
    """
    path = folder / CONFIG_FILE
    before, written = _read_rotary_settings(folder), path.read_text(encoding="utf-8")
    settings = json.loads(written)
    add_old_config_names(settings)
    durable_write(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    if _read_rotary_settings(folder) != before:
        durable_write(path, written)


def add_old_config_names(settings: dict[str, Any]) -> None:
    """Add the older names to the content of a config.json, in place; names that are there keep their values."""
    for inner in settings.values():
        if isinstance(inner, dict):  # a model of several parts has a config for each
            add_old_config_names(inner)
    if isinstance(settings.get("dtype"), str):
        settings.setdefault("torch_dtype", settings["dtype"])
    if isinstance(settings.get("num_local_experts"), int):
        settings.setdefault("num_experts", settings["num_local_experts"])  # Qwen3-MoE's name for it
    parameters = settings.get("rope_parameters")
    if not isinstance(parameters, dict):
        return
    local, whole = parameters.get("sliding_attention"), parameters
    if isinstance(parameters.get("full_attention"), dict):
        whole = parameters["full_attention"]
        if isinstance(local, dict) and "rope_theta" in local:
            settings.setdefault("rope_local_base_freq", local["rope_theta"])
    theta, share = OLD_ROPE_NAMES.get(str(settings.get("model_type")), ("rope_theta", "partial_rotary_factor"))
    for old, new in ((theta, "rope_theta"), (share, "partial_rotary_factor")):
        if whole.get(new) is not None:
            settings.setdefault(old, whole[new])
    scaling = {name: value for name, value in whole.items() if name not in ("rope_theta", "partial_rotary_factor")}
    if scaling and scaling != {"rope_type": "default"}:
        settings.setdefault("rope_scaling", scaling)


def write_old_tokenizer_form(folder: Path) -> None:
    """Write special tokens and class in the tokenizer_config.json of `folder` by the names that all versions read."""
    path = folder / TOKENIZER_CONFIG_FILE
    if not path.is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    use_old_tokenizer_names(settings)
    durable_write(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def use_old_tokenizer_names(settings: dict[str, Any]) -> None:
    """Rename a list of extra special tokens and a renamed class in the content of a tokenizer_config.json, in place."""
    if isinstance(settings.get("extra_special_tokens"), list):
        tokens = settings.pop("extra_special_tokens")
        settings.setdefault("additional_special_tokens", tokens)
    name = settings.get("tokenizer_class")
    if name in NEW_TOKENIZER_CLASSES:
        settings["tokenizer_class"] = NEW_TOKENIZER_CLASSES[name]


def _read_rotary_settings(folder: Path) -> Any:
    from transformers import AutoConfig  # an adapter is exported without it

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    parts = [config, *(getattr(config, name) for name in config.sub_configs if getattr(config, name, None))]
    return [getattr(part, "rope_parameters", None) for part in parts]
