"""LoRA for a given base model: the config's adapter settings, checked against the modules that the model really has.

peft ignores a wrong name in silence when another one matches; here each name must match. Knows no data and no run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem
from toolkit.worker.models.library_arguments import UNQUANTIZED_MODULE, lora_args


def build_lora_config(config: Config, model: PreTrainedModel) -> LoraConfig:
    """peft's config for this model. Raises ConfigError with every name and layer that the model does not have."""
    problems = [
        *_target_problems(config, model),
        *_saved_module_problems(config, model),
        *_layer_problems(config, model),
    ]
    if problems:
        raise ConfigError(problems)
    arguments = lora_args(config)
    if arguments.get("modules_to_save") and getattr(model.config, "tie_word_embeddings", False):
        arguments["ensure_weight_tying"] = True
    return LoraConfig(**arguments)


def _target_problems(config: Config, model: PreTrainedModel) -> list[Problem]:
    targets = config.lora.target_modules
    if targets is None or targets == ["all-linear"]:
        return []
    found = _unknown_module_problems(
        "lora.target_modules", targets, model, (name for name, part in _named_modules(model) if _can_adapt(part))
    )
    if any(name.split(".")[-1] == UNQUANTIZED_MODULE for name in targets):
        message = "An adapter on lm_head would never be trained."
        found.append(Problem("lora.target_modules", message, "Leave it out, or name it in modules_to_save."))
    return found


def _saved_module_problems(config: Config, model: PreTrainedModel) -> list[Problem]:
    names = config.lora.modules_to_save or []
    return _unknown_module_problems("lora.modules_to_save", names, model, (name for name, _ in _named_modules(model)))


def _unknown_module_problems(
    field: str, wanted: Iterable[str], model: PreTrainedModel, known: Iterable[str]
) -> list[Problem]:
    names = list(known)
    short = sorted({name.split(".")[-1] for name in names} - {""})
    found = []
    for word in wanted:
        if not any(name == word or name.endswith("." + word) for name in names):
            near = difflib.get_close_matches(word, short, n=1)
            offer = [name for name in short if not name.isdigit()]
            hint = f"Did you mean {near[0]}?" if near else f"It has: {', '.join(offer[:20])}."
            found.append(Problem(field, f"The model has no module '{word}' that this setting can use.", hint))
    return found


def _layer_problems(config: Config, model: PreTrainedModel) -> list[Problem]:
    chosen = config.lora.layers_to_transform
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if chosen is None or not isinstance(count, int):
        return []
    wrong = [index for index in ([chosen] if isinstance(chosen, int) else chosen) if index >= count]
    found = []
    if wrong:
        message = f"The model has {count} layers, numbered from 0; there is no layer {wrong[0]}."
        found.append(Problem("lora.layers_to_transform", message, f"Use numbers from 0 to {count - 1}."))
    pattern = config.lora.layers_pattern
    if pattern and not any(re.search(rf"(^|\.){re.escape(pattern)}\.\d+\.", name) for name, _ in _named_modules(model)):
        message = f"The model has no numbered list of layers called '{pattern}'."
        found.append(Problem("lora.layers_pattern", message, "Empty it, or enter e.g. layers or h."))
    return found


def _named_modules(model: PreTrainedModel) -> Iterable[tuple[str, nn.Module]]:
    return model.named_modules()


def _can_adapt(part: nn.Module) -> bool:
    # Conv1D is what GPT-2 calls its linear layers
    return isinstance(part, nn.Linear | nn.Embedding | nn.Conv2d) or type(part).__name__ == "Conv1D"
