"""How each setting looks: its group, order, plain words, and when it is worth showing. A table; no Streamlit.

*What* a setting is stays in `config.py`. A setting without a row here still gets a form: its group follows from its
class and its label from its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit.config import BUNDLED
from toolkit.field_types import (
    BIASES,
    COMPUTE_DTYPES,
    DEVICE_MAPS,
    FAULTS,
    OPTIMIZERS,
    QUANT_TYPES,
    SCHEDULERS,
    TASK_TYPES,
)
from toolkit.settings.draft import get
from toolkit.settings.field_spec import by_path, leaves
from toolkit.settings.typed_text import say

Level = Literal["basic", "advanced"]
Conditions = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    icon: str
    lead: str


SECTIONS = (
    Section("data", "Data", ":material/table_view:", "What the model learns from. The Data page shows it row by row."),
    Section("model", "Model", ":material/deployed_code:", "The base model that the adapter is trained on."),
    Section(
        "quantization", "Quantization", ":material/compress:", "Load the base model in 4 or 8 bits to save memory."
    ),
    Section("lora", "LoRA", ":material/layers:", "The adapter: how large it is and where it sits in the model."),
    Section("training", "Training", ":material/model_training:", "How long, how fast and in which order it learns."),
    Section(
        "precision", "Precision & speed", ":material/speed:", "Number formats, memory savers and several processes."
    ),
    Section("sequence", "Sequence", ":material/short_text:", "How long an example may be and how it is wrapped."),
    Section("inference", "Inference", ":material/forum:", "How answers are written, here and in the playground."),
    Section("study", "Study", ":material/science:", "Try several values of any setting, one run for each combination."),
    Section("run", "Run & saving", ":material/folder:", "Where runs are kept and how often they report."),
)

_SECTION_OF = {
    "data": "data",
    "model.bitsandbytes": "quantization",
    "model": "model",
    "lora": "lora",
    "training.training_args": "training",
    "training.sft_args": "sequence",
    "inference": "inference",
    "ablation": "study",
    "": "run",
}


@dataclass(frozen=True)
class Place:
    """How one setting looks. `shown_when`: every (path, values) must hold; hidden values are kept.

    words: values in plain words. empty: what an empty box means. switch: one toggle instead of Off / On.
    """

    section: str
    label: str
    level: Level = "basic"
    suggestions: tuple[str, ...] = ()
    shown_when: Conditions = ()
    unit: str = ""
    rows: int = 0
    switch: bool = False
    words: Mapping[str, str] = field(default_factory=dict)
    empty: str = "the library decides"

    @property
    def when_empty(self) -> str:
        return self.empty[:1].upper() + self.empty[1:]


MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MODELS = (
    BUNDLED + "demo-model",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "NousResearch/Llama-2-7b-hf",
    "NousResearch/Meta-Llama-3.1-8B-Instruct",
)
_QUANTIZED: Conditions = (("model.quantize", (True,)),)
_IN_8: Conditions = (*_QUANTIZED, ("model.bitsandbytes.load_in_8bit", (True,)))
_IN_4: Conditions = (*_QUANTIZED, ("model.bitsandbytes.load_in_4bit", (True,)))
_SAMPLED: Conditions = (("inference.do_sample", (True,)),)
_BNB, _ARGS = "model.bitsandbytes.", "training.training_args."

# fmt: off
_TABLE: dict[str, Place] = {
    "data.file_type": Place("data", "File type", words={
        "csv": "CSV", "json": "JSON or JSONL", "huggingface": "Hugging Face dataset"}),
    "data.path": Place("data", "File or dataset", suggestions=(BUNDLED + "orders.csv", BUNDLED + "tickets.json")),
    "data.prompt": Place("data", "Prompt template", rows=3),
    "data.prompt_stub": Place("data", "Completion template", rows=3),
    "data.train_size": Place("data", "Training rows", empty="all rows that the test set leaves"),
    "data.test_size": Place("data", "Test rows", empty="all rows that the training set leaves"),
    "data.train_test_split_seed": Place("data", "Split seed", "advanced"),
    "data.messages": Place("data", "Conversations", "advanced", empty="none: the templates are used"),
    "data.test_path": Place("data", "Test file", "advanced", empty="the test rows are split off the data"),
    "data.stratify": Place("data", "Stratified split", "advanced", switch=True, empty="off"),
    "data.encoding": Place("data", "Encoding", "advanced", ("utf-8", "cp1252", "utf-16", "cp932"), empty="found out"),
    "data.delimiter": Place("data", "Delimiter", "advanced", (",", ";", "|"), empty="found out"),
    "data.rows_from": Place("data", "Rows are the list", "advanced", empty="the only one"),
    "data.flatten": Place("data", "Columns from nested objects", "advanced", switch=True, empty="off"),
    "data.bad_rows": Place("data", "Rows that don't fit", "advanced", empty="refuse the file", words={
        "skip": "leave them out", "fill": "missing cells are empty"}),
    "data.repair_text": Place("data", "Replace what is no text", "advanced", switch=True, empty="off"),
    "data.accepted": Place("data", "Accepted hard stops", "advanced", FAULTS, empty="none"),
    "model.hf_model_ckpt": Place("model", "Base model", suggestions=MODELS, empty="the bundled demo model"),
    "model.device_map": Place("model", "Device", suggestions=(*DEVICE_MAPS, "cuda:0"),
                              empty="the first GPU, else the CPU"),
    "model.quantize": Place("quantization", "Quantize the base model", switch=True, empty="off"),
    _BNB + "load_in_4bit": Place("quantization", "4-bit", shown_when=_QUANTIZED),
    _BNB + "load_in_8bit": Place("quantization", "8-bit", shown_when=_QUANTIZED),
    _BNB + "bnb_4bit_quant_type": Place("quantization", "4-bit number format", suggestions=QUANT_TYPES,
                                        shown_when=_IN_4, words={"nf4": "NF4", "fp4": "FP4"}),
    _BNB + "bnb_4bit_compute_dtype": Place("quantization", "4-bit computing precision",
                                           suggestions=COMPUTE_DTYPES, shown_when=_IN_4),
    _BNB + "bnb_4bit_use_double_quant": Place("quantization", "Double quantization", shown_when=_IN_4),
    _BNB + "llm_int8_threshold": Place("quantization", "8-bit outlier threshold", shown_when=_IN_8),
    _BNB + "llm_int8_skip_modules": Place("quantization", "Modules kept in full precision", "advanced", ("lm_head",),
                                          _QUANTIZED, empty="the output layer alone"),
    _BNB + "llm_int8_enable_fp32_cpu_offload": Place("quantization", "Offload parts to the CPU", "advanced",
                                                     shown_when=_QUANTIZED),
    _BNB + "llm_int8_has_fp16_weight": Place("quantization", "16-bit main weights", "advanced", shown_when=_IN_8),
    "lora.r": Place("lora", "Rank (r)"),
    "lora.lora_alpha": Place("lora", "Alpha"),
    "lora.lora_dropout": Place("lora", "Dropout"),
    "lora.target_modules": Place("lora", "Target modules", suggestions=("all-linear", *MODULES),
                                 empty="the usual modules of the model's architecture"),
    "lora.bias": Place("lora", "Train biases", "advanced", BIASES),
    "lora.task_type": Place("lora", "Task type", "advanced", TASK_TYPES),
    "lora.modules_to_save": Place("lora", "Modules trained in full", "advanced", ("embed_tokens", "lm_head"),
                                  empty="none"),
    "lora.layers_to_transform": Place("lora", "Layers", "advanced", empty="every layer"),
    "lora.layers_pattern": Place("lora", "Name of the layer list", "advanced", ("layers", "h"),
                                 empty="found by itself"),
    "lora.fan_in_fan_out": Place("lora", "Weights stored as (in, out)", "advanced"),
    _ARGS + "num_train_epochs": Place("training", "Epochs"),
    _ARGS + "learning_rate": Place("training", "Learning rate"),
    _ARGS + "per_device_train_batch_size": Place("training", "Batch size", unit="examples per device"),
    _ARGS + "gradient_accumulation_steps": Place("training", "Gradient accumulation", unit="batches per step"),
    _ARGS + "lr_scheduler_type": Place("training", "Learning rate schedule", suggestions=SCHEDULERS),
    _ARGS + "warmup_ratio": Place("training", "Warm-up", unit="share of all steps"),
    _ARGS + "optim": Place("training", "Optimizer", "advanced", OPTIMIZERS, empty="AdamW in one kernel"),
    _ARGS + "max_grad_norm": Place("training", "Gradient clipping", "advanced", unit="largest norm"),
    "training.sft_args.neftune_noise_alpha": Place("training", "NEFTune noise", "advanced", empty="no noise"),
    _ARGS + "seed": Place("training", "Training seed", "advanced"),
    _ARGS + "bf16": Place("precision", "bf16", empty="on where the device gains by it"),
    _ARGS + "fp16": Place("precision", "fp16"),
    _ARGS + "tf32": Place("precision", "tf32", empty="on where a GPU has it"),
    _ARGS + "gradient_checkpointing": Place("precision", "Gradient checkpointing",
                                            empty="on where only that makes the run fit"),
    "training.sft_args.packing": Place("precision", "Batches", empty="like lengths together", words={
        "grouped": "Like lengths together", "packed": "Packed rows"}),
    "accelerate": Place("precision", "Train in several processes", switch=True, empty="off"),
    "num_processes": Place("precision", "Processes", shown_when=(("accelerate", (True,)),),
                           empty="one a GPU, or two on a CPU"),
    "training.sft_args.max_seq_length": Place("sequence", "Longest example", unit="tokens"),
    "training.sft_args.completion_only_loss": Place("sequence", "Learn the completion alone", switch=True),
    "data.use_chat_template": Place("sequence", "Chat template", empty="used when the tokenizer has one"),
    "inference.max_new_tokens": Place("inference", "Longest answer", unit="tokens"),
    "inference.do_sample": Place("inference", "Sample", switch=True, empty="off"),
    "inference.temperature": Place("inference", "Temperature", shown_when=_SAMPLED),
    "inference.top_p": Place("inference", "Top p", shown_when=_SAMPLED),
    "inference.top_k": Place("inference", "Top k", shown_when=_SAMPLED, unit="tokens, 0 is all"),
    "inference.epsilon_cutoff": Place("inference", "Epsilon cutoff", "advanced", shown_when=_SAMPLED, unit="0 is off"),
    "inference.eta_cutoff": Place("inference", "Eta cutoff", "advanced", shown_when=_SAMPLED, unit="0 is off"),
    "inference.use_cache": Place("inference", "Key-value cache", "advanced"),
    "ablation.use_ablate": Place("study", "Try several values", switch=True, empty="off"),
    "ablation.study_name": Place("study", "Study name", shown_when=(("ablation.use_ablate", (True,)),)),
    "save_dir": Place("run", "Folder for runs", empty="./experiments"),
    _ARGS + "logging_steps": Place("run", "Log every", unit="steps"),
    _ARGS + "eval_steps": Place("run", "Evaluate every", unit="steps", empty="about ten times a run"),
    _ARGS + "early_stopping_patience": Place("training", "Early stopping", "advanced",
                                             unit="evaluations without a lower test loss", empty="off"),
    _ARGS + "load_best_at_end": Place("training", "Keep the best weights", "advanced"),
    _ARGS + "save_steps": Place("run", "Checkpoint every", "advanced", unit="steps",
                                empty="chosen by itself: at most a minute of work is ever at stake"),
    "autopilot": Place("run", "Autopilot", switch=True),
    "training.pinned_rows": Place("run", "Test rows on the film strip"),
    "training.pinned_prompts": Place("run", "Pinned prompts", rows=3, empty="test rows alone"),
}
# fmt: on


def section(key: str) -> Section:
    return next(entry for entry in SECTIONS if entry.key == key)


def place(path: str) -> Place:
    """How a setting looks; for one without a row, what follows from its class and name."""
    if path in _TABLE:
        return _TABLE[path]
    parent, _, name = path.rpartition(".")
    return Place(_SECTION_OF.get(parent, "run"), name.replace("_", " ").capitalize(), "advanced")


def paths(key: str, level: Level | None = None) -> tuple[str, ...]:
    """The settings of a section in the order of the table, those without a row last."""
    rest = [spec.path for spec in leaves() if spec.path not in _TABLE]
    every = [path for path in (*_TABLE, *rest) if path in by_path()]
    return tuple(path for path in every if place(path).section == key and level in (None, place(path).level))


def is_shown(path: str, draft: Mapping[str, Any], grid: Mapping[str, Sequence[Any]] | None = None) -> bool:
    """Whether a setting has any effect as the draft, or any run of its study, stands."""
    several = grid or {}
    return all(
        any(value in allowed for value in [get(draft, other), *several.get(other, ())])
        for other, allowed in place(path).shown_when
    )


def search(words: str) -> tuple[str, ...]:
    """The settings whose label, name, section or description hold every word, those named so first."""
    wanted = words.lower().split()
    hits: list[tuple[int, str]] = []
    for spec in leaves():
        here = place(spec.path)
        named = f"{here.label} {spec.path}".lower()
        text = f"{named} {named.replace('_', ' ')} {section(here.section).title} {spec.description}".lower()
        if wanted and all(word in text for word in wanted):
            hits.append((0 if all(word in named for word in wanted) else 1, spec.path))
    return tuple(path for _, path in sorted(hits, key=lambda hit: hit[0]))


def help_text(path: str) -> str:
    """Description, limits, what empty means, the default, and the name in the file: plain text, one fact a line."""
    spec, here = by_path()[path], place(path)
    limits = spec.bounds.words()
    lines = [
        spec.description.rstrip(".") + ".",
        f"Allowed: {limits}." if limits else "",
        f"Empty: {here.empty}." if spec.optional else "",
        f"Default: {say(spec, spec.default)}.",
        f"In the file: {path}",
    ]
    return "\n".join(line for line in lines if line)
