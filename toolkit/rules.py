"""What pydantic's types can't say: vocabularies, spellings of old files, and settings that contradict each other.

Pure functions over values and over a parsed Config. Knows no library, no machine and no data: those checks are
`runs/preflight.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from toolkit.errors import Problem

if TYPE_CHECKING:
    from toolkit.config import Config

BIASES = ("none", "all", "lora_only")
TASK_TYPES = ("CAUSAL_LM",)
QUANT_TYPES = ("nf4", "fp4")
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
COMPUTE_DTYPES = ("bfloat16", "float16", "float32")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential", "cpu", "cuda")
# The names that the installed transformers accepts and that need no further package; a test compares them.
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

MOST_NAME, MOST_PATH = 255, 3_900
"""Bytes of one name in a path, and of a whole path with room for what is kept below it: what systems can look up."""

# The hard stops that a person may accept (toolkit/data/faults.py); a test compares them.
FAULTS = (
    "prompt_too_long", "nothing_trained", "double_bos", "end_untrained", "placeholder", "boundary_merged",
    "template_twice",
)  # fmt: skip


def one_of(words: Sequence[str]) -> Callable[[str | None], str | None]:
    """A validator that accepts `words` and None; raises a PydanticCustomError that lists the words."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in words:
            raise PydanticCustomError(
                "one_of", "'{value}' is not known; use one of {words}", {"value": value, "words": ", ".join(words)}
            )
        return value

    return check


def each_of(words: Sequence[str]) -> Callable[[list[str] | None], list[str] | None]:
    """As `one_of`, for every word of a list."""
    one = one_of(words)

    def check(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            one(value)
        return values

    return check


def dtype_name(value: Any) -> Any:
    """ "bf16" and "torch.bfloat16", which the original's own examples used, mean "bfloat16"."""
    if isinstance(value, str):
        value = value.removeprefix("torch.")
        value = DTYPES.get(value, value)
        one_of(COMPUTE_DTYPES)(value)
    return value


def device_map(value: Any) -> Any:
    """ "none" means None, as in the original; other words must be ones that transformers can place a model by."""
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


def path_fault(text: str) -> str:
    """Why this is a path on no disk, or "": asking the system whether it exists would itself fail."""
    if "\0" in text:
        return "A path has no NUL character"
    longest = max(len(part.encode(errors="replace")) for part in text.split("/"))
    if longest > MOST_NAME or len(str(Path(text).absolute()).encode(errors="replace")) > MOST_PATH:
        return "This is too long for a path, or for a name in one"
    try:
        Path(text).expanduser()
    except RuntimeError:
        return "This machine has no such user, whose folder ~ would mean"
    return ""


def path_text(value: Any) -> Any:
    """A validator: a PydanticCustomError for text that has a `path_fault`."""
    fault = path_fault(value) if isinstance(value, str) else ""
    if fault:
        raise PydanticCustomError("path_text", "{fault}", {"fault": fault})
    return value


def all_linear(value: Any) -> Any:
    """Later files of the original write the bare word "all-linear" where the schema has a list."""
    return [value] if value == "all-linear" else value


def contradictions(config: Config) -> list[Problem]:
    """Every pair of settings that can't both hold, each reported under each of its fields."""
    args, bnb = config.training.training_args, config.model.bitsandbytes
    found: list[Problem] = []

    def both(first: str, second: str, message: str, hint: str) -> None:
        found.extend(Problem(path, message, hint) for path in (first, second))

    if args.bf16 and args.fp16:
        here = "training.training_args."
        both(here + "bf16", here + "fp16", "bf16 and fp16 are both on.", "Switch one of them off.")
    if config.model.quantize and bnb.load_in_8bit and bnb.load_in_4bit:
        here = "model.bitsandbytes."
        both(here + "load_in_8bit", here + "load_in_4bit", "8-bit and 4-bit are both on.", "Switch one of them off.")
    if config.model.quantize and not (bnb.load_in_8bit or bnb.load_in_4bit):
        found.append(
            Problem("model.quantize", "Quantization is on, but neither 8-bit nor 4-bit is.", "Switch one of them on.")
        )
    found.extend(_lora_contradictions(config))
    if config.inference.do_sample and config.inference.temperature == 0:
        found.append(
            Problem("inference.temperature", "Sampling can't use temperature 0.", "Raise it, or switch sampling off.")
        )
    if isinstance(config.data.train_size, float) and isinstance(config.data.test_size, float):
        total = config.data.train_size + config.data.test_size
        if total > 1 + 1e-9:
            both(
                "data.train_size", "data.test_size",
                f"Train and test together are {total:.4g} of the data.", "Together they may be at most 1.",
            )  # fmt: skip
    if config.ablation.use_ablate and not (config.ablation.study_name or "").strip():
        found.append(Problem("ablation.study_name", "The study has no name.", "Type one."))
    return found


def _lora_contradictions(config: Config) -> list[Problem]:
    lora = config.lora
    found: list[Problem] = []
    if lora.layers_pattern is not None and lora.layers_to_transform is None:
        found.append(
            Problem(
                "lora.layers_pattern",
                f"The layer pattern '{lora.layers_pattern}' has no effect without layer indexes.",
                "Fill layers_to_transform, or empty this.",
            )
        )
    targets = lora.target_modules
    if targets is not None and not targets:
        found.append(Problem("lora.target_modules", "The list is empty.", "Name modules, or reset it."))
    if targets and "all-linear" in targets and len(targets) > 1:
        found.append(Problem("lora.target_modules", "all-linear stands beside other names.", "Keep it alone."))
    if targets == ["all-linear"] and lora.layers_to_transform is not None:
        message = "Layer indexes can't be used with all-linear."
        found.append(Problem("lora.layers_to_transform", message, "Name the target modules, e.g. q_proj and v_proj."))
    return found


def remarks(config: Config) -> list[Problem]:
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
