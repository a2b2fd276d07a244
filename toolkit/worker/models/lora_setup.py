"""Build peft's LoRA config for a base model, checking its module names against the modules that the model has.

peft ignores a wrong name without a warning if another one matches; here each name must match.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem
from toolkit.worker.models.architecture import refuse_unknown_tokens
from toolkit.worker.models.library_arguments import UNQUANTIZED_MODULE, lora_args

_EXPERTS = ".experts."


def build_lora_config(config: Config, model: PreTrainedModel) -> LoraConfig:
    """Return peft's config for this model. Raises ConfigError with every name and layer that the model lacks."""
    problems = [
        *_target_problems(config, model),
        *_named_module_problems(config, model),
        *_layer_problems(config, model),
        *_parameter_problems(config, model),
        *_token_problems(config, model),
    ]
    if problems:
        raise ConfigError(problems)
    arguments = lora_args(config)
    if arguments.get("target_modules") == "all-linear" and (routers := _list_routers(model)):
        arguments["exclude_modules"] = [*(arguments.get("exclude_modules") or []), *routers]
    # without it peft would train a copy of a shared weight and leave the other module with the old one
    if arguments.get("modules_to_save") and getattr(model.config, "tie_word_embeddings", False):
        arguments["ensure_weight_tying"] = True
    return LoraConfig(**arguments)


def _list_routers(model: PreTrainedModel) -> list[str]:
    """Return the ends of the names of linear layers that choose experts and return more than one tensor.

    PEFT takes them for plain layers, and fails in the first step.
    """
    named = (name for name, part in model.named_modules() if isinstance(part, nn.Linear) and _is_router(part))
    return sorted({".".join(name.split(".")[-2:]) for name in named})


def _is_router(part: nn.Module) -> bool:
    return type(part).__name__.endswith("Router")


def _target_problems(config: Config, model: PreTrainedModel) -> list[Problem]:
    targets = config.lora.target_modules
    if targets is None or targets == ["all-linear"]:
        return []
    adaptable = (name for name, part in model.named_modules() if _can_adapt(part))
    problems = _unknown_module_problems("lora.target_modules", targets, adaptable)
    if any(name.split(".")[-1] == UNQUANTIZED_MODULE for name in targets):
        message = "An adapter on lm_head would not be trained."
        hint = "Remove it from target_modules, or add it to modules_to_save."
        problems.append(Problem("lora.target_modules", message, hint))
    return problems


def _named_module_problems(config: Config, model: PreTrainedModel) -> list[Problem]:
    names = [name for name, _ in model.named_modules()]
    return [
        *_unknown_module_problems("lora.modules_to_save", config.lora.modules_to_save or [], names),
        *_unknown_module_problems("lora.exclude_modules", config.lora.exclude_modules or [], names),
    ]


def _unknown_module_problems(field: str, wanted: Iterable[str], known: Iterable[str]) -> list[Problem]:
    """Return a problem for each wanted name that is neither a module's full name nor the end of one."""
    names = list(known)
    short = sorted({name.split(".")[-1] for name in names} - {""})
    problems = []
    for word in wanted:
        if not any(name == word or name.endswith("." + word) for name in names):
            similar = difflib.get_close_matches(word, short, n=1)
            available = [name for name in short if not name.isdigit()]
            hint = f"Did you mean {similar[0]}?" if similar else f"Available: {', '.join(available[:20])}."
            problems.append(Problem(field, f"The model has no module '{word}' that this setting can use.", hint))
    return problems


def _parameter_problems(config: Config, model: PreTrainedModel) -> list[Problem]:
    wanted = config.lora.target_parameters or []
    problems = _unknown_module_problems(
        "lora.target_parameters", wanted, (name for name, _ in model.named_parameters())
    )
    for name, value in (("lora_dropout", config.lora.lora_dropout), ("use_dora", config.lora.use_dora)):
        if wanted and value:
            hint = "Turn it off, or leave target_parameters empty."
            problems.append(Problem(f"lora.{name}", f"Adapters on parameters do not work with {name}.", hint))
    return problems


def _token_problems(config: Config, model: PreTrainedModel) -> list[Problem]:
    ids, field = config.lora.trainable_token_indices, "lora.trainable_token_indices"
    if not ids:
        return []
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(table, nn.Embedding):
        message = "The tokens of this model can't be trained alone: its embeddings are not one matrix."
        return [Problem(field, message, "Empty it.")]
    refuse_unknown_tokens(config, len(table.weight))
    shared = head is not None and head.weight is table.weight
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    if shared and (not tied or head.bias is not None):  # PEFT would train the embeddings only, or leave out the bias
        message = "The tokens of this model can't be trained alone: PEFT does not support the way it shares a weight."
        return [Problem(field, message, "Empty it.")]
    whole = {*(config.lora.modules_to_save or ()), *(config.lora.target_modules or ())}
    parts = [table, head] if shared else [table]
    named = (name for name, part in model.named_modules() if any(part is one for one in parts))
    twice = [word for name in named for word in whole if name == word or name.endswith("." + word)]
    if twice:
        message = f"Single tokens can't be trained where {twice[0]} is trained as a whole."
        return [Problem(field, message, f"Empty it, or remove {twice[0]} from modules_to_save and target_modules.")]
    return []


def describe_absent_tokens(config: Config, rows: Iterable[Iterable[int]]) -> str:
    """Return a warning if some of the tokens whose embeddings are trained are in no training row, else ""."""
    absent = set(config.lora.trainable_token_indices or ())
    for ids in rows if absent else ():
        absent.difference_update(ids)
        if not absent:
            break
    if not absent:
        return ""
    shown = ", ".join(map(str, sorted(absent)[:10])) + (", ..." if len(absent) > 10 else "")
    return (
        f"No training row has the tokens {shown} of trainable_token_indices: their embeddings learn little. "
        "Check the ids in the token view."
    )


def describe_untrained_experts(model: PeftModel) -> str:
    """Return a warning if the model has experts and none of them is trained, else ""."""
    named = [(name, part) for name, part in model.get_base_model().named_parameters() if _EXPERTS in name]
    experts = [(name, part) for name, part in named if ".lora_" not in name]
    if not experts or any(part.requires_grad for _, part in named):
        return ""
    share = sum(part.numel() for _, part in experts) / model.get_nb_trainable_parameters()[1]
    stacked = sorted({".".join(name.split(".")[-3:]) for name, part in experts if part.dim() == 3})
    hint = f" To train them too, set target_parameters to {', '.join(stacked)}." if stacked else ""
    return f"The model's experts, {share:.0%} of its weights, get no adapter with these settings.{hint}"


def describe_unreached_modules(model: PeftModel) -> str:
    """Return a warning if no loss reaches the adapters on modules of some name, else "". Call it after a backward pass.

    Some models read a module's weight instead of calling the module, which passes over its adapter: Mamba's dt_proj,
    and more modules where fused kernels are installed. Others have modules for images. One reached module of a name
    is enough, as a router chooses experts.
    """
    reached: dict[str, bool] = {}
    for name, part in model.named_parameters():
        module, _, adapter = name.partition(".lora_")
        if adapter and part.requires_grad:
            short = module.split(".")[-1]
            reached[short] = reached.get(short, False) or part.grad is not None
    unreached = sorted(name for name, found in reached.items() if not found)
    if not unreached or len(unreached) == len(
        reached
    ):  # all: the gradients are kept elsewhere, as when they are sharded
        return ""
    names = ", ".join(unreached)
    return (
        f"The training rows do not reach the adapters on {names}, so they are not trained: the model reads the weights "
        f"of these modules without calling them, or uses them for images only. Add {names} to exclude_modules to leave "
        "them out."
    )


def _layer_problems(config: Config, model: PreTrainedModel) -> list[Problem]:
    chosen = config.lora.layers_to_transform
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if chosen is None or not isinstance(count, int):
        return []
    wrong = [index for index in ([chosen] if isinstance(chosen, int) else chosen) if index >= count]
    problems = []
    if wrong:
        message = f"The model has {count} layers, numbered from 0; there is no layer {wrong[0]}."
        problems.append(Problem("lora.layers_to_transform", message, f"Use numbers from 0 to {count - 1}."))
    pattern = config.lora.layers_pattern
    if pattern and not any(re.search(rf"(^|\.){re.escape(pattern)}\.\d+\.", name) for name, _ in model.named_modules()):
        message = f"The model has no numbered list of layers called '{pattern}'."
        problems.append(Problem("lora.layers_pattern", message, "Leave it empty, or enter for example layers or h."))
    return problems


def _can_adapt(part: nn.Module) -> bool:
    # Conv1D is GPT-2's name for a linear layer
    return isinstance(part, nn.Linear | nn.Embedding | nn.Conv2d) or type(part).__name__ == "Conv1D"
