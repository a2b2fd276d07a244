"""Validation of drafts: pydantic's errors become problems with a message and a hint, all of them at once.

Keys of the original toolkit that no longer exist are reported with a remedy for each.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem

# keys of later versions of the original toolkit, collected from its config files
RETIRED_KEYS = {
    "qa": "Delete the whole qa block: in this toolkit, evaluations are not set up in the config file.",
    "model.torch_dtype": "Delete it: training_args.bf16 and fp16 decide the precision of the weights.",
    "model.attn_implementation": "Delete it: the attention implementation is chosen for the device.",
    "inference.max_length": "Use inference.max_new_tokens instead.",
}
_DELETE_HINT = "Delete this line: no setting has this name."
_WHOLE, _NUMBER, _BLOCK = "It must be a whole number", "It must be a number", "It must be a block of settings"
# by pydantic's error type; {names} are filled in from the context of the error
ERROR_MESSAGES = {
    "int_type": _WHOLE, "int_parsing": _WHOLE, "int_from_float": _WHOLE, "int_parsing_size": _WHOLE,
    "float_type": _NUMBER, "float_parsing": _NUMBER, "finite_number": "It must be a finite number",
    "bool_type": "It must be true or false", "bool_parsing": "It must be true or false",
    "string_type": "It must be text", "list_type": "It must be a list",
    "model_type": _BLOCK, "dict_type": _BLOCK, "model_attributes_type": _BLOCK,
    "greater_than": "It must be more than {gt}", "greater_than_equal": "It must be at least {ge}",
    "less_than": "It must be less than {lt}", "less_than_equal": "It must be at most {le}",
    "string_too_long": "It may have at most {max_length} characters", "string_too_short": "It must not be empty",
    "string_pattern_mismatch": "It must be a host name or an IP address",
    "literal_error": "It must be {expected}",
    "path_not_file": "It must be a path or a name", "path_type": "It must be a path or a name",
}  # fmt: skip


def validate_draft(draft: Mapping[str, Any]) -> tuple[Config | None, list[Problem]]:
    """Validate a nested dict of settings.

    Returns (config, warnings) for a valid draft and (None, errors and warnings) for an invalid one. Contradictions
    between settings are found even while other settings are invalid: those are left out in a second pass.
    """
    try:
        config = Config.model_validate(draft)
    except ValidationError as error:
        problems = [problem for detail in error.errors() for problem in _problems_of_error(detail)]
        if not any(detail["type"] == "contradiction" for detail in error.errors()):
            problems += _find_contradictions_without(draft, error)
        return None, _first_per_field(problems)
    return config, find_config_warnings(config)


def parse_draft(draft: Mapping[str, Any]) -> Config:
    """Return the config of a draft. Raises ConfigError with every problem."""
    config, problems = validate_draft(draft)
    if config is None:
        raise ConfigError(problems)
    return config


def _find_contradictions_without(draft: Mapping[str, Any], error: ValidationError) -> list[Problem]:
    """Return the contradictions between the settings that are valid by themselves."""
    remaining = copy.deepcopy(dict(draft))
    invalid = {".".join(_field_names(detail["loc"])) for detail in error.errors()}
    for path in invalid:
        _drop_setting(remaining, path)
    try:
        Config.model_validate(remaining)
    except ValidationError as remaining_error:
        contradictions = [detail for detail in remaining_error.errors() if detail["type"] == "contradiction"]
        problems = [problem for detail in contradictions for problem in _problems_of_error(detail)]
        return [problem for problem in problems if problem.path not in invalid]
    return []


def _drop_setting(draft: dict[str, Any], path: str) -> None:
    *parents, leaf = path.split(".")
    section: Any = draft
    for name in parents:
        section = section.get(name) if isinstance(section, dict) else None
    if isinstance(section, dict):
        section.pop(leaf, None)


def _problems_of_error(detail: ErrorDetails) -> list[Problem]:
    if detail["type"] == "contradiction":
        return list(detail["ctx"]["problems"])
    path = ".".join(_field_names(detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return [Problem(path, f"'{detail['loc'][-1]}' is not a setting.", RETIRED_KEYS.get(path, _DELETE_HINT))]
    value = detail["input"]
    message = f"{_error_message(detail)}; it is {_format_input(value)}."
    return [Problem(path, message, _hint(path, value, detail))]


def _field_names(loc: tuple[int | str, ...]) -> list[str]:
    """Return the field names of an error's location, without the union members and list indexes after them."""
    names: list[str] = []
    model: Any = Config
    for part in loc:
        fields = getattr(model, "model_fields", None)
        if fields is None:
            break
        names.append(str(part))
        if part not in fields:
            break
        model = fields[part].annotation
    return names


def _error_message(detail: ErrorDetails) -> str:
    words = ERROR_MESSAGES.get(detail["type"], detail["msg"])
    for name, value in detail.get("ctx", {}).items():
        words = words.replace(f"{{{name}}}", str(value) if isinstance(value, str) else f"{value:,.10g}")
    return words[:1].upper() + words[1:]


def _format_input(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _hint(path: str, value: Any, detail: ErrorDetails) -> str:
    if isinstance(value, list) and not detail["type"].startswith("list"):
        return "To try several values, turn ablation.use_ablate on."
    if path in ("data.train_size", "data.test_size"):
        return "Enter a fraction between 0 and 1, or a whole number of rows."
    if path in ("data.prompt", "data.prompt_stub"):
        if isinstance(value, dict):
            return 'Put the template in quotes: YAML reads {output} as a mapping and "{output}" as text.'
        if value is None:
            return "YAML reads lines that start with # as comments: start the text with >- or |."
    return ""


def _first_per_field(problems: list[Problem]) -> list[Problem]:
    """Keep one problem per setting: pydantic reports one error for each member of a union."""
    seen: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        key = (problem.path, problem.message if "all-linear" in problem.message else "")
        seen.setdefault(key, problem)
    return list(seen.values())


def find_config_warnings(config: Config) -> list[Problem]:
    """Return warnings for valid settings that have no effect."""
    args = config.training.training_args
    found: list[Problem] = []

    def warn(path: str, message: str, hint: str = "") -> None:
        found.append(Problem(path, message, hint, "warning"))

    if args.lr_scheduler_type == "constant" and args.warmup_ratio:
        hint = "Choose the scheduler constant_with_warmup to use it."
        warn("training.training_args.warmup_ratio", "The constant scheduler ignores the warmup ratio.", hint)
    inference = config.inference
    if not inference.do_sample:
        changed = inference.temperature not in (None, 1.0) or inference.top_p not in (None, 1.0)
        changed = changed or inference.top_k not in (None, type(inference)().top_k)
        if changed or inference.epsilon_cutoff or inference.eta_cutoff:
            message = "Temperature, top-p, top-k and the cutoffs have no effect while sampling is off."
            warn("inference.do_sample", message, "Turn sampling on to use them.")
    bnb = config.model.bitsandbytes
    if not config.model.quantize and bnb != type(bnb)():
        warn("model.quantize", "The bitsandbytes settings have no effect while quantization is off.")
    if config.num_processes is not None and not config.accelerate:
        warn("num_processes", "The number of processes has no effect while accelerate is off.")
    if config.shard_model and (not config.accelerate or config.num_processes == 1 == (config.num_machines or 1)):
        warn("shard_model", "Sharding has no effect with one process.", "Turn accelerate on, or use more processes.")
    if (config.num_machines or 1) > 1 and not config.accelerate:
        warn("num_machines", "The number of machines has no effect while accelerate is off.")
    wanted = config.model.device_map
    if config.accelerate and wanted not in (None, "auto", "cpu"):
        message = f"The device map '{wanted}' has no effect with accelerate: each process has a GPU of its own."
        warn("model.device_map", message, "Set it to auto.")
    return found
