"""The settings of an adapter, and which weights are its own: those that its settings name, as PEFT saves them.

PEFT loads any other weight of the file as well. It would replace that weight of the base model, for every run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field

from toolkit.errors import EngineError
from toolkit.system.printable import format_plural

ADAPTER_CONFIG_FILE = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
RETRAIN_HINT = "Train it again, or choose another run."

EMBEDDING_NAMES = ("embed_tokens", "lm_head")
"""Modules of the base whose own weights peft saves as well if the adapter targets them."""
_LORA_KEY = re.compile(r"(.+?)((?:\.base_layer)*)\.(lora_[AB]\.weight|lora_embedding_[AB]|lora_magnitude_vector)")
_PEFT_PARTS = {"base_layer", "original_module", "modules_to_save"}
ROWS_MARK = ".token_adapter.trainable_tokens_delta"
"""End of the name of an embedding's trained rows in an adapter's file."""

AdapterWeights = dict[str, torch.Tensor]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=1_000_000)]
TokenRows = dict[str, tuple[list[int], torch.Tensor]]
"""Name of an embedding's weight in the base model -> ids of tokens, and their rows."""
# PEFT takes many of these for regular expressions: one that backtracks would stop the engine for all
AdapterModule = Annotated[str, Field(max_length=200, pattern=r"^[\w.-]*$")]
ModuleNames = Annotated[list[AdapterModule], Field(max_length=10_000)]
ModulePattern = Annotated[str, Field(max_length=200, pattern=r"^\^?(\.\*)?([\w-]|\\?\.)*\$?$")]
"""The end of a module's name: points may be escaped, it may be anchored, and PEFT writes ".*" in front for experts."""


class AdapterFile(BaseModel):
    """The settings read from adapter_config.json. The base model and the rest come from the run's own config."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    peft_type: Annotated[str, Field(pattern="^LORA$")]
    r: Annotated[int, Field(ge=1, le=65536)]
    lora_alpha: Annotated[int | float, Field(ge=0, le=1e6)]
    target_modules: ModuleNames
    bias: Annotated[str, Field(pattern="^(none|all|lora_only)$")] = "none"
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    exclude_modules: ModuleNames | None = None
    # experts are stored as one tensor for all, and PEFT fuses names and ranks of earlier versions for them
    target_parameters: ModuleNames | None = None
    rank_pattern: dict[ModulePattern, Annotated[int, Field(ge=1, le=65536)]] = Field({}, max_length=10_000)
    alpha_pattern: dict[ModulePattern, Annotated[int | float, Field(ge=0, le=1e6)]] = Field({}, max_length=10_000)
    modules_to_save: ModuleNames | None = None
    trainable_token_indices: TokenIds | Annotated[dict[AdapterModule, TokenIds], Field(max_length=100)] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: AdapterModule | ModuleNames | None = None
    ensure_weight_tying: bool = False


def check_adapter_keys(chosen: AdapterFile, names: Iterable[str]) -> None:
    """Raise EngineError unless the settings of the adapter name every weight: others replace weights of the base."""
    foreign = sorted(name for name in names if not _is_own_key(chosen, name))
    if foreign:
        raise EngineError(
            f"The adapter holds {format_plural(len(foreign), 'weight')} that its {ADAPTER_CONFIG_FILE} does not name, "
            f"for example {foreign[0][:200]}.",
            RETRAIN_HINT,
        )


def _is_own_key(chosen: AdapterFile, name: str) -> bool:
    path = name.removeprefix(PEFT_PREFIX)
    if path == name:
        return False
    lora = _LORA_KEY.fullmatch(path)
    if lora is not None:
        target, nested, part = lora.groups()
        if nested or not (_is_listed(target, chosen.target_modules) or _is_tied(chosen, target, chosen.target_modules)):
            # the wrappers of several parameters of one module, such as those of experts, are nested
            return part != "lora_magnitude_vector" and owns_parameter(target, chosen.target_parameters or ())
        return part != "lora_magnitude_vector" or chosen.use_dora
    if path.endswith(ROWS_MARK):
        return bool(_trained_token_ids(chosen, path.removesuffix(ROWS_MARK)))
    module, _, leaf = path.rpartition(".")
    plain = module.removesuffix(".base_layer")
    if leaf == "bias" and chosen.bias != "none" and not _PEFT_PARTS & {*plain.split(".")}:
        return chosen.bias == "all" or _is_listed(plain, chosen.target_modules)
    if leaf == "weight" and plain != module:
        return is_embedding(plain) and _is_own_key(chosen, f"{PEFT_PREFIX}{plain}.lora_A.weight")
    return is_saved_whole(chosen, module)


def owns_parameter(module: str, parameters: Iterable[str]) -> bool:
    """Return whether one of the parameters, by their full names or the ends of them, may belong to the module."""
    owners = [parameter.rpartition(".")[0] for parameter in parameters]
    return "" in owners or _is_listed(module, owners)


def is_saved_whole(chosen: AdapterFile, module: str) -> bool:
    """Return whether the adapter has a copy of that module of the base, or of one around it, as `modules_to_save`."""
    parts, saved = module.split("."), chosen.modules_to_save or ()
    around = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return not _PEFT_PARTS & {*parts} and any(_is_listed(one, saved) or _is_tied(chosen, one, saved) for one in around)


def is_embedding(module: str) -> bool:
    """Return whether the full name of a module is that of input embeddings or of the output layer."""
    return _is_listed(module, EMBEDDING_NAMES)


def _is_listed(module: str, listed: Iterable[str]) -> bool:
    """Return whether a module's full name is listed, in full or by its end: that is how peft reads such lists."""
    return any(module == one or module.endswith(f".{one}") for one in listed)


def _is_tied(chosen: AdapterFile, module: str, listed: Iterable[str]) -> bool:
    # peft then saves both of two layers that share a weight, although the settings name only one
    return chosen.ensure_weight_tying and is_embedding(module) and any(map(is_embedding, listed))


def pop_base_values(weights: AdapterWeights, chosen: AdapterFile) -> AdapterWeights:
    """Remove the values of the base's own parameters from `weights` and return them by the base's parameter names.

    These are trained biases, and the weights of embeddings that the adapter targets.
    """

    def is_base_value(key: str) -> bool:
        module, _, leaf = key.removeprefix(PEFT_PREFIX).rpartition(".")
        # the bias of a module that is saved as a whole belongs to the adapter, like its weight
        bias = leaf == "bias" and ".lora_" not in key and not is_saved_whole(chosen, module)
        return bias or key.endswith(".base_layer.weight")

    names = [key for key in weights if is_base_value(key)]
    return {name.removeprefix(PEFT_PREFIX).replace(".base_layer.", "."): weights.pop(name) for name in names}


def pop_token_rows(weights: AdapterWeights, chosen: AdapterFile) -> TokenRows:
    """Remove the trained rows of embeddings from `weights` and return them."""
    modules = {key: key.removeprefix(PEFT_PREFIX).removesuffix(ROWS_MARK) for key in weights if key.endswith(ROWS_MARK)}
    return {
        f"{module}.weight": (_trained_token_ids(chosen, module), weights.pop(key)) for key, module in modules.items()
    }


def _trained_token_ids(chosen: AdapterFile, module: str) -> list[int]:
    """Return the ids of the tokens that are trained in an embedding; a list is that of the input embeddings."""
    ids = chosen.trainable_token_indices
    if isinstance(ids, dict):
        return next((listed for name, listed in ids.items() if _is_listed(module, [name])), [])
    return ids or []
