"""Types, allowed values and validators of the settings in `config.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from toolkit.errors import Problem

BIASES = ("none", "all", "lora_only")

TASK_TYPES = ("CAUSAL_LM",)

StudyMethod = Literal["grid", "random", "tpe"]
"""How a study chooses combinations: all, some at random, or by the results so far."""

StudyObjective = Literal[
    "exact_match",
    "same_words",
    "label_accuracy",
    "json_valid",
    "json_fields",
    "token_f1",
    "rouge_1",
    "word_overlap",
    "rouge_l",
    "chrf",
    "jaccard",
    "cosine",
    "length_difference",
    "length_ratio",
    "pass_rules",
    "eval_loss",
    "perplexity",
]
"""What trials are compared by: a measure of the answers to the test rows, the pass rules, or the test loss."""

QUANT_TYPES = ("nf4", "fp4")

DTYPE_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}

COMPUTE_DTYPES = ("bfloat16", "float16", "float32")

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential", "cpu", "cuda")


# those of transformers that need no further package; a test compares them with the installed version
OPTIMIZERS = (
    "adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop",
    "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit",
    "lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit", "ademamix", "ademamix_8bit",
    "paged_ademamix_32bit", "paged_ademamix_8bit",
)  # fmt: skip

SCHEDULERS = (
    "linear", "cosine", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial",
    "inverse_sqrt",
)  # fmt: skip

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 3_900
"""Bytes of one name in a path, and of a whole path. Linux allows 255 and 4,096; the rest is for files inside it."""


# the blocking problems that may be accepted (toolkit/data/examples/hard_stops.py); a test compares them
ACCEPTABLE_HARD_STOPS = (
    "prompt_too_long", "nothing_trained", "double_bos", "end_untrained", "placeholder", "boundary_merged",
    "tools_unwritten", "calls_unwritten", "results_unwritten", "reasoning_unwritten", "text_unwritten",
    "template_twice",
)  # fmt: skip


def one_of(allowed: Sequence[str]) -> Callable[[str | None], str | None]:
    """Return a validator that accepts the allowed words and None, and lists them in its PydanticCustomError."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise PydanticCustomError(
                "one_of",
                "'{value}' is not a known value; use one of {words}",
                {"value": value, "words": ", ".join(allowed)},
            )
        return value

    return check


def each_of(allowed: Sequence[str]) -> Callable[[list[str] | None], list[str] | None]:
    """Return a validator as `one_of`, for each word of a list."""
    check_word = one_of(allowed)

    def check(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            check_word(value)
        return values

    return check


def normalize_dtype(value: Any) -> Any:
    """Read "bf16" and "torch.bfloat16" as "bfloat16"; the original's examples use them."""
    if isinstance(value, str):
        value = value.removeprefix("torch.")
        value = DTYPE_ALIASES.get(value, value)
        one_of(COMPUTE_DTYPES)(value)
    return value


def check_device_map(value: Any) -> Any:
    """Read "none" as None, as the original does; other words must be device maps of transformers."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return None
    if value not in DEVICE_MAPS and not re.fullmatch(r"cuda:\d{1,3}", value):
        raise PydanticCustomError(
            "device_map",
            "'{value}' is not a device map; use one of {words} or cuda:0, cuda:1, ...",
            {"value": value, "words": ", ".join(DEVICE_MAPS)},
        )
    return value


def find_path_error(text: str) -> str:
    """Return why the text cannot be a path on any disk, or ""; for such text, even asking whether it exists fails."""
    if "\0" in text:
        return "A path cannot contain a NUL character"
    longest = max(len(part.encode(errors="replace")) for part in text.split("/"))
    if longest > MAX_NAME_BYTES or len(str(Path(text).absolute()).encode(errors="replace")) > MAX_PATH_BYTES:
        return "The path, or a name in it, is too long"
    try:
        Path(text).expanduser()
    except RuntimeError:
        return "The path starts with ~ and a user that this machine does not have"
    return ""


def check_path_text(value: Any) -> Any:
    """Raise a PydanticCustomError for text that cannot be a path."""
    fault = find_path_error(value) if isinstance(value, str) else ""
    if fault:
        raise PydanticCustomError("path_text", "{fault}", {"fault": fault})
    return value


def wrap_all_linear(value: Any) -> Any:
    """Read the bare word "all-linear" as a list; later files of the original write it so."""
    return [value] if value == "all-linear" else value


def reject_bool(value: Any) -> Any:
    """Raise a PydanticCustomError for True and False, which pydantic would read as 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("no_bool", "must not be true or false")
    return value


HfModelPath = Annotated[str, BeforeValidator(check_path_text), StringConstraints(min_length=1, max_length=4096)]

DataPath = Annotated[Union[FilePath, HfModelPath], BeforeValidator(check_path_text)]

ModuleName = Annotated[str, StringConstraints(min_length=1, max_length=200)]

TemplateText = Annotated[str, StringConstraints(max_length=20_000)]
RulesText = Annotated[str, StringConstraints(max_length=20_000)]

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
CodecName = Annotated[str, StringConstraints(min_length=1, max_length=40)]
Character = Annotated[str, StringConstraints(min_length=1, max_length=1)]
HostName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$")]
Index = Annotated[int, Field(ge=0), BeforeValidator(reject_bool)]

RowShareOrCount = Union[Annotated[float, Field(gt=0, lt=1)], Annotated[int, Field(ge=1, strict=True)]]


def refuse_contradictions(found: Sequence[Problem]) -> None:
    """Raise pydantic's error for settings that contradict each other. Does nothing without any."""
    if found:
        # validation.py reads the problems from ctx and reports each under its own setting
        summary = "; ".join(map(str, found))
        raise PydanticCustomError("contradiction", "{summary}", {"summary": summary, "problems": list(found)})


def parse_number_text(value: Any) -> Any:
    """Read text as int or float: 1 is one row and 1.0 is an invalid share, so the spelling matters."""
    if not isinstance(value, str):
        return value
    for number in (int, float):
        with suppress(ValueError):
            return number(value)
    raise PydanticCustomError("float_parsing", "it must be a number")


def _takes_bool(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return any(_takes_bool(arg) for arg in get_args(annotation) if arg is not NoneType)
    return annotation is bool


class SettingsSection(BaseModel):
    """Base of all sections of the schema: unknown keys, NaN, infinity and true or false for a number are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        takes = _takes_bool(cls.model_fields[str(info.field_name)].annotation)
        return value if takes else reject_bool(value)  # the original read train_size: true as one row
