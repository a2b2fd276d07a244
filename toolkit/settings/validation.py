"""Draft in, (Config or None, every problem at once) out: the words that a user reads about a setting.

Turns pydantic's errors into Problems in the user's words, and knows the keys of the original toolkit's files that this
one has no use for, with the remedy for each.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem

# Keys of later versions of the original toolkit (research of its config files), and what to do about each.
RETIRED_KEYS = {
    "qa": "Evaluation is not part of a config here: delete the whole qa block.",
    "model.torch_dtype": "Delete it: the weights load in the precision that training_args.bf16 / fp16 ask for.",
    "model.attn_implementation": "Delete it: the attention implementation is chosen for the device.",
    "inference.max_length": "Use inference.max_new_tokens instead.",
}
_DELETE_HINT = "Delete this line: no setting has this name."
_WHOLE, _NUMBER, _BLOCK = "A whole number is needed", "A number is needed", "A block of settings is needed"
# pydantic's error types in our words; {names} are those of the error's context
ERROR_MESSAGES = {
    "int_type": _WHOLE, "int_parsing": _WHOLE, "int_from_float": _WHOLE, "int_parsing_size": _WHOLE,
    "float_type": _NUMBER, "float_parsing": _NUMBER, "finite_number": "A finite number is needed",
    "bool_type": "true or false is needed", "bool_parsing": "true or false is needed",
    "string_type": "Text is needed", "list_type": "A list is needed",
    "model_type": _BLOCK, "dict_type": _BLOCK, "model_attributes_type": _BLOCK,
    "greater_than": "It must be more than {gt}", "greater_than_equal": "It must be at least {ge}",
    "less_than": "It must be less than {lt}", "less_than_equal": "It must be at most {le}",
    "string_too_long": "It may have at most {max_length} characters", "string_too_short": "It must not be empty",
    "literal_error": "It must be {expected}",
    "path_not_file": "A file or a name is needed", "path_type": "A file or a name is needed",
}  # fmt: skip


def validate_draft(draft: Mapping[str, Any]) -> tuple[Config | None, list[Problem]]:
    """Check a nested dict of settings.

    Returns (config, warnings) when it can be used, and (None, errors and warnings) when it can't. Contradictions
    between fields are found even while other fields are wrong: those are set aside for the second look.
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
    """The Config of a draft; raises ConfigError with every problem."""
    config, problems = validate_draft(draft)
    if config is None:
        raise ConfigError(problems)
    return config


def _find_contradictions_without(draft: Mapping[str, Any], error: ValidationError) -> list[Problem]:
    rest = copy.deepcopy(dict(draft))
    wrong = {".".join(_field_names(detail["loc"])) for detail in error.errors()}
    for path in wrong:
        _drop_setting(rest, path)
    try:
        Config.model_validate(rest)
    except ValidationError as second:
        found = [
            p for detail in second.errors() if detail["type"] == "contradiction" for p in _problems_of_error(detail)
        ]
        return [problem for problem in found if problem.path not in wrong]
    return []


def _drop_setting(draft: dict[str, Any], path: str) -> None:
    *parents, leaf = path.split(".")
    here: Any = draft
    for name in parents:
        here = here.get(name) if isinstance(here, dict) else None
    if isinstance(here, dict):
        here.pop(leaf, None)


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
    """Walk the schema, not the value: what is no field name (a union's member, a list's index) ends the path."""
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
        return "To try several values, switch ablation.use_ablate on."
    if path in ("data.train_size", "data.test_size"):
        return "Give a share between 0 and 1, or a whole number of rows."
    if path in ("data.prompt", "data.prompt_stub"):
        if isinstance(value, dict):
            return 'Put it in quotes: YAML reads {output} as a mapping, "{output}" as text.'
        if value is None:
            return "YAML reads lines that begin with # as comments: begin the text with >- or |."
    return ""


def _first_per_field(problems: list[Problem]) -> list[Problem]:
    """A union reports one error a member: the first one under a field is enough."""
    seen: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        key = (problem.path, problem.message if "all-linear" in problem.message else "")
        seen.setdefault(key, problem)
    return list(seen.values())


def find_config_warnings(config: Config) -> list[Problem]:
    """Settings that are valid and do not do what they seem to: warnings, each under its field."""
    args = config.training.training_args
    found: list[Problem] = []

    def warn(path: str, message: str, hint: str = "") -> None:
        found.append(Problem(path, message, hint, "warning"))

    if args.lr_scheduler_type == "constant" and args.warmup_ratio:
        hint = "Choose constant_with_warmup to use it."
        warn("training.training_args.warmup_ratio", "The constant scheduler ignores the warm-up.", hint)
    inference = config.inference
    if not inference.do_sample:
        changed = inference.temperature not in (None, 1.0) or inference.top_p not in (None, 1.0)
        changed = changed or inference.top_k not in (None, type(inference)().top_k)
        if changed or inference.epsilon_cutoff or inference.eta_cutoff:
            message = "Without sampling, temperature, top p, top k and the cutoffs have no effect."
            warn("inference.do_sample", message, "Switch sampling on to use them.")
    bnb = config.model.bitsandbytes
    if not config.model.quantize and bnb != type(bnb)():
        warn("model.quantize", "The bitsandbytes settings are ignored while quantization is off.")
    if config.num_processes is not None and not config.accelerate:
        warn("num_processes", "It has no effect while accelerate is off.")
    return found
