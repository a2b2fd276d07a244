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
    ACCEPTABLE_HARD_STOPS,
    BIASES,
    COMPUTE_DTYPES,
    DEVICE_MAPS,
    OPTIMIZERS,
    QUANT_TYPES,
    SCHEDULERS,
    TASK_TYPES,
)
from toolkit.settings.draft import get_setting
from toolkit.settings.field_spec import field_specs_by_path, list_field_specs
from toolkit.settings.typed_text import summarize_value

Level = Literal["basic", "advanced"]
ShowConditions = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclass(frozen=True)
class FormSection:
    key: str
    title: str
    icon: str
    lead: str


FORM_SECTIONS = (
    FormSection(
        "data", "Data", ":material/table_view:", "What the model learns from. The Data page shows it row by row."
    ),
    FormSection("model", "Model", ":material/deployed_code:", "The base model that the adapter is trained on."),
    FormSection(
        "quantization", "Quantization", ":material/compress:", "Load the base model in 4 or 8 bits to save memory."
    ),
    FormSection("lora", "LoRA", ":material/layers:", "The adapter: how large it is and where it sits in the model."),
    FormSection(
        "training", "Training", ":material/model_training:", "How long, how fast and in which order it learns."
    ),
    FormSection(
        "precision", "Precision & speed", ":material/speed:", "Number formats, memory savers and several processes."
    ),
    FormSection("sequence", "Sequence", ":material/short_text:", "How long an example may be and how it is wrapped."),
    FormSection("inference", "Inference", ":material/forum:", "How answers are written, here and in the playground."),
    FormSection(
        "study", "Study", ":material/science:", "Try several values of any setting, one run for each combination."
    ),
    FormSection("run", "Run & saving", ":material/folder:", "Where runs are kept and how often they report."),
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
class FieldLayout:
    """How one setting looks. `shown_when`: every (path, values) must hold; hidden values are kept.

    words: values in plain words. empty: what an empty box means. switch: one toggle instead of Off / On.
    """

    section: str
    label: str
    level: Level = "basic"
    suggestions: tuple[str, ...] = ()
    shown_when: ShowConditions = ()
    unit: str = ""
    rows: int = 0
    switch: bool = False
    words: Mapping[str, str] = field(default_factory=dict)
    empty: str = "the library decides"

    @property
    def when_empty(self) -> str:
        return self.empty[:1].upper() + self.empty[1:]


LORA_TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SUGGESTED_MODELS = (
    BUNDLED + "demo-model",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "NousResearch/Llama-2-7b-hf",
    "NousResearch/Meta-Llama-3.1-8B-Instruct",
)
_QUANTIZED: ShowConditions = (("model.quantize", (True,)),)
_LOADS_8BIT: ShowConditions = (*_QUANTIZED, ("model.bitsandbytes.load_in_8bit", (True,)))
_LOADS_4BIT: ShowConditions = (*_QUANTIZED, ("model.bitsandbytes.load_in_4bit", (True,)))
_SAMPLED: ShowConditions = (("inference.do_sample", (True,)),)
_BNB, _ARGS = "model.bitsandbytes.", "training.training_args."

# fmt: off
_FIELD_LAYOUTS: dict[str, FieldLayout] = {
    "data.file_type": FieldLayout("data", "File type", words={
        "csv": "CSV", "json": "JSON or JSONL", "huggingface": "Hugging Face dataset"}),
    "data.path": FieldLayout("data", "File or dataset", suggestions=(BUNDLED + "orders.csv", BUNDLED + "tickets.json")),
    "data.prompt": FieldLayout("data", "Prompt template", rows=3),
    "data.prompt_stub": FieldLayout("data", "Completion template", rows=3),
    "data.train_size": FieldLayout("data", "Training rows", empty="all rows that the test set leaves"),
    "data.test_size": FieldLayout("data", "Test rows", empty="all rows that the training set leaves"),
    "data.train_test_split_seed": FieldLayout("data", "Split seed", "advanced"),
    "data.messages": FieldLayout("data", "Conversations", "advanced", empty="none: the templates are used"),
    "data.test_path": FieldLayout("data", "Test file", "advanced", empty="the test rows are split off the data"),
    "data.stratify": FieldLayout("data", "Stratified split", "advanced", switch=True, empty="off"),
    "data.encoding": FieldLayout("data", "Encoding", "advanced", ("utf-8", "cp1252", "utf-16", "cp932"), empty="found out"),
    "data.delimiter": FieldLayout("data", "Delimiter", "advanced", (",", ";", "|"), empty="found out"),
    "data.rows_from": FieldLayout("data", "Rows are the list", "advanced", empty="the only one"),
    "data.flatten": FieldLayout("data", "Columns from nested objects", "advanced", switch=True, empty="off"),
    "data.bad_rows": FieldLayout("data", "Rows that don't fit", "advanced", empty="refuse the file", words={
        "skip": "leave them out", "fill": "missing cells are empty"}),
    "data.repair_text": FieldLayout("data", "Replace what is no text", "advanced", switch=True, empty="off"),
    "data.accepted": FieldLayout("data", "Accepted hard stops", "advanced", ACCEPTABLE_HARD_STOPS, empty="none"),
    "model.hf_model_ckpt": FieldLayout("model", "Base model", suggestions=SUGGESTED_MODELS, empty="the bundled demo model"),
    "model.device_map": FieldLayout("model", "Device", suggestions=(*DEVICE_MAPS, "cuda:0"),
                              empty="the first GPU, else the CPU"),
    "model.quantize": FieldLayout("quantization", "Quantize the base model", switch=True, empty="off"),
    _BNB + "load_in_4bit": FieldLayout("quantization", "4-bit", shown_when=_QUANTIZED),
    _BNB + "load_in_8bit": FieldLayout("quantization", "8-bit", shown_when=_QUANTIZED),
    _BNB + "bnb_4bit_quant_type": FieldLayout("quantization", "4-bit number format", suggestions=QUANT_TYPES,
                                        shown_when=_LOADS_4BIT, words={"nf4": "NF4", "fp4": "FP4"}),
    _BNB + "bnb_4bit_compute_dtype": FieldLayout("quantization", "4-bit computing precision",
                                           suggestions=COMPUTE_DTYPES, shown_when=_LOADS_4BIT),
    _BNB + "bnb_4bit_use_double_quant": FieldLayout("quantization", "Double quantization", shown_when=_LOADS_4BIT),
    _BNB + "llm_int8_threshold": FieldLayout("quantization", "8-bit outlier threshold", shown_when=_LOADS_8BIT),
    _BNB + "llm_int8_skip_modules": FieldLayout("quantization", "Modules kept in full precision", "advanced", ("lm_head",),
                                          _QUANTIZED, empty="the output layer alone"),
    _BNB + "llm_int8_enable_fp32_cpu_offload": FieldLayout("quantization", "Offload parts to the CPU", "advanced",
                                                     shown_when=_QUANTIZED),
    _BNB + "llm_int8_has_fp16_weight": FieldLayout("quantization", "16-bit main weights", "advanced", shown_when=_LOADS_8BIT),
    "lora.r": FieldLayout("lora", "Rank (r)"),
    "lora.lora_alpha": FieldLayout("lora", "Alpha"),
    "lora.lora_dropout": FieldLayout("lora", "Dropout"),
    "lora.target_modules": FieldLayout("lora", "Target modules", suggestions=("all-linear", *LORA_TARGET_MODULES),
                                 empty="the usual modules of the model's architecture"),
    "lora.bias": FieldLayout("lora", "Train biases", "advanced", BIASES),
    "lora.task_type": FieldLayout("lora", "Task type", "advanced", TASK_TYPES),
    "lora.modules_to_save": FieldLayout("lora", "Modules trained in full", "advanced", ("embed_tokens", "lm_head"),
                                  empty="none"),
    "lora.layers_to_transform": FieldLayout("lora", "Layers", "advanced", empty="every layer"),
    "lora.layers_pattern": FieldLayout("lora", "Name of the layer list", "advanced", ("layers", "h"),
                                 empty="found by itself"),
    "lora.fan_in_fan_out": FieldLayout("lora", "Weights stored as (in, out)", "advanced"),
    _ARGS + "num_train_epochs": FieldLayout("training", "Epochs"),
    _ARGS + "learning_rate": FieldLayout("training", "Learning rate"),
    _ARGS + "per_device_train_batch_size": FieldLayout("training", "Batch size", unit="examples per device"),
    _ARGS + "gradient_accumulation_steps": FieldLayout("training", "Gradient accumulation", unit="batches per step"),
    _ARGS + "lr_scheduler_type": FieldLayout("training", "Learning rate schedule", suggestions=SCHEDULERS),
    _ARGS + "warmup_ratio": FieldLayout("training", "Warm-up", unit="share of all steps"),
    _ARGS + "optim": FieldLayout("training", "Optimizer", "advanced", OPTIMIZERS, empty="AdamW in one kernel"),
    _ARGS + "max_grad_norm": FieldLayout("training", "Gradient clipping", "advanced", unit="largest norm"),
    "training.sft_args.neftune_noise_alpha": FieldLayout("training", "NEFTune noise", "advanced", empty="no noise"),
    _ARGS + "seed": FieldLayout("training", "Training seed", "advanced"),
    _ARGS + "bf16": FieldLayout("precision", "bf16", empty="on where the device gains by it"),
    _ARGS + "fp16": FieldLayout("precision", "fp16"),
    _ARGS + "tf32": FieldLayout("precision", "tf32", empty="on where a GPU has it"),
    _ARGS + "gradient_checkpointing": FieldLayout("precision", "Gradient checkpointing",
                                            empty="on where only that makes the run fit"),
    "training.sft_args.packing": FieldLayout("precision", "Batches", empty="like lengths together", words={
        "grouped": "Like lengths together", "packed": "Packed rows"}),
    "accelerate": FieldLayout("precision", "Train in several processes", switch=True, empty="off"),
    "num_processes": FieldLayout("precision", "Processes", shown_when=(("accelerate", (True,)),),
                           empty="one a GPU, or two on a CPU"),
    "training.sft_args.max_seq_length": FieldLayout("sequence", "Longest example", unit="tokens"),
    "training.sft_args.completion_only_loss": FieldLayout("sequence", "Learn the completion alone", switch=True),
    "data.use_chat_template": FieldLayout("sequence", "Chat template", empty="used when the tokenizer has one"),
    "inference.max_new_tokens": FieldLayout("inference", "Longest answer", unit="tokens"),
    "inference.do_sample": FieldLayout("inference", "Sample", switch=True, empty="off"),
    "inference.temperature": FieldLayout("inference", "Temperature", shown_when=_SAMPLED),
    "inference.top_p": FieldLayout("inference", "Top p", shown_when=_SAMPLED),
    "inference.top_k": FieldLayout("inference", "Top k", shown_when=_SAMPLED, unit="tokens, 0 is all"),
    "inference.epsilon_cutoff": FieldLayout("inference", "Epsilon cutoff", "advanced", shown_when=_SAMPLED, unit="0 is off"),
    "inference.eta_cutoff": FieldLayout("inference", "Eta cutoff", "advanced", shown_when=_SAMPLED, unit="0 is off"),
    "inference.use_cache": FieldLayout("inference", "Key-value cache", "advanced"),
    "ablation.use_ablate": FieldLayout("study", "Try several values", switch=True, empty="off"),
    "ablation.study_name": FieldLayout("study", "Study name", shown_when=(("ablation.use_ablate", (True,)),)),
    "save_dir": FieldLayout("run", "Folder for runs", empty="./experiments"),
    _ARGS + "logging_steps": FieldLayout("run", "Log every", unit="steps"),
    _ARGS + "eval_steps": FieldLayout("run", "Evaluate every", unit="steps", empty="about ten times a run"),
    _ARGS + "early_stopping_patience": FieldLayout("training", "Early stopping", "advanced",
                                             unit="evaluations without a lower test loss", empty="off"),
    _ARGS + "load_best_at_end": FieldLayout("training", "Keep the best weights", "advanced"),
    _ARGS + "save_steps": FieldLayout("run", "Checkpoint every", "advanced", unit="steps",
                                empty="chosen by itself: at most a minute of work is ever at stake"),
    "autopilot": FieldLayout("run", "Autopilot", switch=True),
    "training.pinned_rows": FieldLayout("run", "Test rows on the film strip"),
    "training.pinned_prompts": FieldLayout("run", "Pinned prompts", rows=3, empty="test rows alone"),
}
# fmt: on


def get_form_section(key: str) -> FormSection:
    return next(entry for entry in FORM_SECTIONS if entry.key == key)


def get_field_layout(path: str) -> FieldLayout:
    """How a setting looks; for one without a row, what follows from its class and name."""
    if path in _FIELD_LAYOUTS:
        return _FIELD_LAYOUTS[path]
    parent, _, name = path.rpartition(".")
    return FieldLayout(_SECTION_OF.get(parent, "run"), name.replace("_", " ").capitalize(), "advanced")


def list_section_settings(key: str, level: Level | None = None) -> tuple[str, ...]:
    """The settings of a section in the order of the table, those without a row last."""
    rest = [spec.path for spec in list_field_specs() if spec.path not in _FIELD_LAYOUTS]
    every = [path for path in (*_FIELD_LAYOUTS, *rest) if path in field_specs_by_path()]
    return tuple(
        path
        for path in every
        if get_field_layout(path).section == key and level in (None, get_field_layout(path).level)
    )


def is_setting_shown(path: str, draft: Mapping[str, Any], grid: Mapping[str, Sequence[Any]] | None = None) -> bool:
    """Whether a setting has any effect as the draft, or any run of its study, stands."""
    several = grid or {}
    return all(
        any(value in allowed for value in [get_setting(draft, other), *several.get(other, ())])
        for other, allowed in get_field_layout(path).shown_when
    )


def search_settings(words: str) -> tuple[str, ...]:
    """The settings whose label, name, section or description hold every word, those named so first."""
    wanted = words.lower().split()
    hits: list[tuple[int, str]] = []
    for spec in list_field_specs():
        here = get_field_layout(spec.path)
        named = f"{here.label} {spec.path}".lower()
        text = f"{named} {named.replace('_', ' ')} {get_form_section(here.section).title} {spec.description}".lower()
        if wanted and all(word in text for word in wanted):
            hits.append((0 if all(word in named for word in wanted) else 1, spec.path))
    return tuple(path for _, path in sorted(hits, key=lambda hit: hit[0]))


def help_text(path: str) -> str:
    """Description, limits, what empty means, the default, and the name in the file: plain text, one fact a line."""
    spec, here = field_specs_by_path()[path], get_field_layout(path)
    limits = spec.bounds.words()
    lines = [
        spec.description.rstrip(".") + ".",
        f"Allowed: {limits}." if limits else "",
        f"Empty: {here.empty}." if spec.optional else "",
        f"Default: {summarize_value(spec, spec.default)}.",
        f"In the file: {path}",
    ]
    return "\n".join(line for line in lines if line)
