"""The layout of the settings form: each setting's section, order, label, and when it is shown.

A setting without a row in the table still gets a form field: its section follows from its class and its label from
its name.
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
from toolkit.settings.field_explanations import FIELD_EXPLANATIONS
from toolkit.settings.field_spec import field_specs_by_path, list_field_specs
from toolkit.settings.model_source import DEMO_MODEL, SUGGESTED_MODELS
from toolkit.settings.typed_text import AUTO, is_auto_flag, summarize_value

Level = Literal["basic", "advanced"]
ShowConditions = tuple[tuple[str, tuple[Any, ...]], ...]
"""Pairs of (path, values): the setting at the path must hold one of the values."""


@dataclass(frozen=True)
class FormSection:
    """A tab of the settings form. icon: a Material icon in Streamlit's notation. lead: the sentence under the title."""

    key: str
    title: str
    icon: str
    lead: str


FORM_SECTIONS = (
    FormSection("data", "Data", ":material/table_view:", "What the model is trained on, as on the Data page."),
    FormSection("model", "Model", ":material/deployed_code:", "The base model that the adapter is trained on."),
    FormSection("quantization", "Quantization", ":material/compress:", "Load the base model in 4 or 8 bits."),
    FormSection("lora", "LoRA", ":material/layers:", "The size of the adapter, and the layers that it is applied to."),
    FormSection("training", "Training", ":material/model_training:", "Epochs, learning rate, batch size, optimizer."),
    FormSection("precision", "Precision & speed", ":material/speed:", "Number formats, memory and processes."),
    FormSection("sequence", "Sequence", ":material/short_text:", "Length of the examples, loss, chat template."),
    FormSection("inference", "Inference", ":material/forum:", "How runs and the Playground generate answers."),
    FormSection("study", "Study", ":material/science:", "Try several values of a setting, one trial for each."),
    FormSection("run", "Run & saving", ":material/folder:", "Where runs are stored, and how often they log and save."),
)  # fmt: skip

BASICS = FormSection(
    "basics", "Basics", ":material/star:", "The settings that matter most. Each of them is also in its own section."
)
"""The section that the form opens with: a selection of settings from the others."""
BASIC_SETTINGS = (
    "model.hf_model_ckpt",
    "training.training_args.num_train_epochs",
    "training.training_args.learning_rate",
    "lora.r",
    "training.sft_args.max_seq_length",
    "training.training_args.per_device_train_batch_size",
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
    """How one setting looks in the form.

    suggestions: values to choose from; others may be typed where the schema allows. shown_when: the setting is shown
    while every condition holds; the value of a hidden setting is kept. rows: lines of a text area, 0 for one line.
    switch: one toggle instead of Off / On. words: labels of the values. empty: what an empty box means.
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
    empty: str = "the library's default"

    @property
    def when_empty(self) -> str:
        """What an empty box means, with a capital letter."""
        return self.empty[:1].upper() + self.empty[1:]


LORA_TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MODEL_NAMES = (DEMO_MODEL, *(model.name for model in SUGGESTED_MODELS), "NousResearch/Meta-Llama-3.1-8B-Instruct")
_QUANTIZED: ShowConditions = (("model.quantize", (True,)),)
_LOADS_8BIT: ShowConditions = (*_QUANTIZED, ("model.bitsandbytes.load_in_8bit", (True,)))
_LOADS_4BIT: ShowConditions = (*_QUANTIZED, ("model.bitsandbytes.load_in_4bit", (True,)))
_SAMPLED: ShowConditions = (("inference.do_sample", (True,)),)
_HUB: ShowConditions = (("data.file_type", ("huggingface",)),)
_STUDY: ShowConditions = (("ablation.use_ablate", (True,)),)
_RULED: ShowConditions = (*_STUDY, ("ablation.objective", ("pass_rules",)))
_SEARCHED: ShowConditions = (*_STUDY, ("ablation.method", ("random", "tpe")))
_ACCELERATED: ShowConditions = (("accelerate", (True,)),)
_SEVERAL_MACHINES: ShowConditions = (*_ACCELERATED, ("num_machines", tuple(range(2, 1025))))
_BNB, _ARGS, _SFT = "model.bitsandbytes.", "training.training_args.", "training.sft_args."

# Labels are the names that papers and libraries use; the plain explanation is in `field_explanations.py`.
_FIELD_LAYOUTS: dict[str, FieldLayout] = {
    "data.file_type": FieldLayout("data", "File type", words={
        "csv": "CSV", "json": "JSON or JSONL", "huggingface": "Hugging Face dataset"}),
    "data.path": FieldLayout("data", "Dataset path", suggestions=(BUNDLED + "orders.csv", BUNDLED + "tickets.json")),
    "data.prompt": FieldLayout("data", "Prompt template", rows=3),
    "data.prompt_stub": FieldLayout("data", "Completion template", rows=3),
    "data.train_size": FieldLayout("data", "Training split", empty="all rows that are not in the test split"),
    "data.test_size": FieldLayout("data", "Test split", empty="all rows that are not in the training split"),
    "data.train_test_split_seed": FieldLayout("data", "Split seed", "advanced"),
    "data.messages": FieldLayout("data", "Conversation column", "advanced", empty="none; the templates are used"),
    "data.test_path": FieldLayout("data", "Test file", "advanced", empty="the test set is split off the dataset"),
    "data.stratify": FieldLayout("data", "Stratified split", "advanced", switch=True, empty="off"),
    "data.encoding": FieldLayout("data", "Encoding", "advanced", ("utf-8", "cp1252", "utf-16", "cp932"),
                                 empty="detect automatically"),
    "data.delimiter": FieldLayout("data", "Delimiter", "advanced", (",", ";", "|"), empty="detect automatically"),
    "data.rows_from": FieldLayout("data", "Path to the rows in the file", "advanced", empty="the file's only list"),
    "data.flatten": FieldLayout("data", "Flatten nested objects", "advanced", switch=True, empty="off"),
    "data.bad_rows": FieldLayout("data", "Malformed rows", "advanced", empty="reject the file", words={
        "skip": "Skip them", "fill": "Treat missing cells as empty"}),
    "data.repair_text": FieldLayout("data", "Replace invalid characters", "advanced", switch=True, empty="off"),
    "data.answered_by": FieldLayout("data", "Speaker who answers", "advanced", empty="none"),
    "data.number_names": FieldLayout("data", "Number repeated column names", "advanced", switch=True, empty="off"),
    "data.join_messages": FieldLayout("data", "Join messages into conversations", "advanced", switch=True, empty="off"),
    "data.quotes": FieldLayout("data", "Quotes", "advanced", empty="around cells, also across lines", words={
        "lines": "Read lines of a cell as rows", "cells": "Keep cells across lines", "text": "Ordinary characters",
        "backslash": "\\\" is a quote inside a cell"}),
    "data.header_row": FieldLayout("data", "Row of the column names", "advanced", empty="detect automatically"),
    "data.hub_config": FieldLayout("data", "Configuration", "advanced", empty="the default one", shown_when=_HUB),
    "data.hub_split": FieldLayout("data", "Split", "advanced", empty="train, or the only one", shown_when=_HUB),
    "data.hub_revision": FieldLayout("data", "Revision", "advanced", empty="the newest one", shown_when=_HUB),
    "data.optional_columns": FieldLayout("data", "Optional columns", "advanced", empty="none"),
    "data.accepted": FieldLayout("data", "Accepted blocking problems", "advanced", ACCEPTABLE_HARD_STOPS, empty="none"),
    "model.hf_model_ckpt": FieldLayout("model", "Base model", suggestions=MODEL_NAMES,
                                       empty="the bundled demo model"),
    "model.device_map": FieldLayout("model", "Device map", suggestions=(*DEVICE_MAPS, "cuda:0"),
                                    empty="the first GPU, or the CPU if there is none"),
    "model.quantize": FieldLayout("quantization", "Quantize the base model", switch=True, empty="off"),
    _BNB + "load_in_4bit": FieldLayout("quantization", "Load in 4-bit", shown_when=_QUANTIZED),
    _BNB + "load_in_8bit": FieldLayout("quantization", "Load in 8-bit", shown_when=_QUANTIZED),
    _BNB + "bnb_4bit_quant_type": FieldLayout("quantization", "4-bit quantization type", suggestions=QUANT_TYPES,
                                              shown_when=_LOADS_4BIT, words={"nf4": "NF4", "fp4": "FP4"}),
    _BNB + "bnb_4bit_compute_dtype": FieldLayout("quantization", "4-bit compute dtype", suggestions=COMPUTE_DTYPES,
                                                 shown_when=_LOADS_4BIT),
    _BNB + "bnb_4bit_use_double_quant": FieldLayout("quantization", "Double quantization", shown_when=_LOADS_4BIT),
    _BNB + "llm_int8_threshold": FieldLayout("quantization", "8-bit outlier threshold", shown_when=_LOADS_8BIT),
    _BNB + "llm_int8_skip_modules": FieldLayout("quantization", "Modules to skip", "advanced", ("lm_head",), _QUANTIZED,
                                                empty="the output layer only"),
    _BNB + "llm_int8_enable_fp32_cpu_offload": FieldLayout("quantization", "FP32 CPU offload", "advanced",
                                                           shown_when=_QUANTIZED),
    _BNB + "llm_int8_has_fp16_weight": FieldLayout("quantization", "FP16 main weights (8-bit)", "advanced",
                                                   shown_when=_LOADS_8BIT),
    "lora.r": FieldLayout("lora", "LoRA rank (r)"),
    "lora.lora_alpha": FieldLayout("lora", "LoRA alpha"),
    "lora.lora_dropout": FieldLayout("lora", "LoRA dropout"),
    "lora.target_modules": FieldLayout("lora", "Target modules", suggestions=("all-linear", *LORA_TARGET_MODULES),
                                       empty="the usual modules of the model's architecture"),
    "lora.bias": FieldLayout("lora", "Bias training", "advanced", BIASES),
    "lora.task_type": FieldLayout("lora", "Task type", "advanced", TASK_TYPES),
    "lora.modules_to_save": FieldLayout("lora", "Modules to save", "advanced", ("embed_tokens", "lm_head"),
                                        empty="none"),
    "lora.layers_to_transform": FieldLayout("lora", "Layers to transform", "advanced", empty="every layer"),
    "lora.layers_pattern": FieldLayout("lora", "Layers pattern", "advanced", ("layers", "h"),
                                       empty="detect automatically"),
    "lora.exclude_modules": FieldLayout("lora", "Excluded modules", "advanced", LORA_TARGET_MODULES, empty="none"),
    "lora.target_parameters": FieldLayout("lora", "Target parameters", "advanced",
                                          ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"), empty="none"),
    "lora.trainable_token_indices": FieldLayout("lora", "Trainable tokens (ids)", "advanced", empty="none"),
    "lora.use_rslora": FieldLayout("lora", "Rank-stabilized scaling (rsLoRA)", "advanced", switch=True, empty="off"),
    "lora.use_dora": FieldLayout("lora", "Weight decomposition (DoRA)", "advanced", switch=True, empty="off"),
    "lora.fan_in_fan_out": FieldLayout("lora", "Fan-in fan-out weights", "advanced"),
    _ARGS + "num_train_epochs": FieldLayout("training", "Epochs"),
    _ARGS + "learning_rate": FieldLayout("training", "Learning rate"),
    _ARGS + "per_device_train_batch_size": FieldLayout("training", "Batch size per device", unit="examples"),
    _ARGS + "gradient_accumulation_steps": FieldLayout("training", "Gradient accumulation steps",
                                                           unit="batches per step"),
    _ARGS + "lr_scheduler_type": FieldLayout("training", "Learning rate scheduler", suggestions=SCHEDULERS),
    _ARGS + "warmup_ratio": FieldLayout("training", "Warmup ratio", unit="share of all steps"),
    _ARGS + "optim": FieldLayout("training", "Optimizer", "advanced", OPTIMIZERS, empty="fused AdamW"),
    _ARGS + "max_grad_norm": FieldLayout("training", "Max gradient norm", "advanced"),
    _ARGS + "weight_decay": FieldLayout("training", "Weight decay", "advanced", empty="none"),
    _ARGS + "max_steps": FieldLayout("training", "Max steps", "advanced", empty="as many as the epochs take"),
    _SFT + "neftune_noise_alpha": FieldLayout("training", "NEFTune noise alpha", "advanced", empty="no noise"),
    _ARGS + "seed": FieldLayout("training", "Training seed", "advanced"),
    _ARGS + "bf16": FieldLayout("precision", "bf16", empty="on if the device computes it faster"),
    _ARGS + "fp16": FieldLayout("precision", "fp16"),
    _ARGS + "tf32": FieldLayout("precision", "tf32", empty="on if the GPU supports it"),
    _ARGS + "gradient_checkpointing": FieldLayout("precision", "Gradient checkpointing",
                                                  empty="on if the run does not fit into memory without it"),
    _SFT + "packing": FieldLayout("precision", "Packing", empty="group by length", words={
        "grouped": "Group by length", "packed": "Pack into rows"}),
    "accelerate": FieldLayout("precision", "Multi-process training (Accelerate)", switch=True, empty="off"),
    "num_processes": FieldLayout("precision", "Number of processes", shown_when=_ACCELERATED,
                                 unit="on each machine", empty="one per GPU, or two on a CPU"),
    "shard_model": FieldLayout("precision", "Shard the model", shown_when=_ACCELERATED,
                               empty="on if a GPU can't hold all of it"),
    "num_machines": FieldLayout("precision", "Number of machines", "advanced", shown_when=_ACCELERATED, empty="one"),
    "machine_rank": FieldLayout("precision", "Rank of this machine", "advanced", shown_when=_SEVERAL_MACHINES,
                                unit="0 for the main machine", empty="0"),
    "main_process_ip": FieldLayout("precision", "Address of the main machine", "advanced",
                                   shown_when=_SEVERAL_MACHINES, empty="none; several machines need one"),
    "main_process_port": FieldLayout("precision", "Port of the main machine", "advanced",
                                     shown_when=_SEVERAL_MACHINES, empty="none; several machines need one"),
    _SFT + "max_seq_length": FieldLayout("sequence", "Max sequence length (tokens)"),
    _SFT + "completion_only_loss": FieldLayout("sequence", "Loss on completion only", switch=True),
    "data.use_chat_template": FieldLayout("sequence", "Chat template", empty="used if the tokenizer has one"),
    "inference.max_new_tokens": FieldLayout("inference", "Max new tokens"),
    "inference.do_sample": FieldLayout("inference", "Sampling", switch=True, empty="off"),
    "inference.temperature": FieldLayout("inference", "Temperature", shown_when=_SAMPLED),
    "inference.top_p": FieldLayout("inference", "Top-p", shown_when=_SAMPLED),
    "inference.top_k": FieldLayout("inference", "Top-k", shown_when=_SAMPLED, unit="tokens, 0 for all"),
    "inference.epsilon_cutoff": FieldLayout("inference", "Epsilon cutoff", "advanced", (), _SAMPLED, unit="0 for off"),
    "inference.eta_cutoff": FieldLayout("inference", "Eta cutoff", "advanced", (), _SAMPLED, unit="0 for off"),
    "inference.use_cache": FieldLayout("inference", "KV cache", "advanced"),
    "ablation.use_ablate": FieldLayout("study", "Ablation study", switch=True, empty="off"),
    "ablation.study_name": FieldLayout("study", "Study name", shown_when=_STUDY, empty="no name; a study needs one"),
    "ablation.seeds": FieldLayout("study", "Seeds", shown_when=_STUDY, unit="runs of each combination",
                                  empty="3 for up to 4 combinations, else 1"),
    "ablation.objective": FieldLayout("study", "Objective", shown_when=_STUDY, words={
        "exact_match": "Exact match", "same_words": "Same words", "label_accuracy": "Label accuracy",
        "json_valid": "Valid JSON", "json_fields": "Correct JSON fields", "token_f1": "Word F1", "rouge_1": "ROUGE-1",
        "word_overlap": "Word recall", "rouge_l": "ROUGE-L", "chrf": "chrF", "jaccard": "Jaccard", "cosine": "Cosine",
        "length_difference": "Length difference (lower is better)",
        "length_ratio": "Length ratio (closest to 1 is best)", "pass_rules": "Pass rules",
        "eval_loss": "Test loss (lower is better)", "perplexity": "Perplexity (lower is better)"},
        empty="exact match; word F1 if hardly any answer matches"),
    "ablation.pass_rules": FieldLayout("study", "Pass rules", shown_when=_RULED, rows=4, empty="no rule"),
    "ablation.method": FieldLayout("study", "Search method", shown_when=_STUDY, words={
        "grid": "Grid: every combination", "random": "Random: some combinations", "tpe": "TPE: chosen by results"},
        empty="every combination"),
    "ablation.prune_losers": FieldLayout("study", "Successive halving", shown_when=_STUDY, switch=True),
    "ablation.stop_when_decided": FieldLayout("study", "Stop when decided", shown_when=_STUDY, switch=True),
    "ablation.trials": FieldLayout("study", "Trials", shown_when=_SEARCHED, unit="combinations to train", empty="20"),
    "save_dir": FieldLayout("run", "Output folder", empty="./experiments"),
    _ARGS + "logging_steps": FieldLayout("run", "Logging interval", unit="steps"),
    _ARGS + "eval_steps": FieldLayout("run", "Evaluation interval", unit="steps",
                                       empty="about ten evaluations per run"),
    _ARGS + "early_stopping_patience": FieldLayout("training", "Early stopping patience", "advanced",
                                                   unit="evaluations without a lower test loss", empty="off"),
    _ARGS + "load_best_at_end": FieldLayout("training", "Load best weights at end", "advanced"),
    _ARGS + "save_steps": FieldLayout("run", "Checkpoint interval", "advanced", unit="steps",
                                      empty="adaptive: a crash costs at most a minute of training"),
    "autopilot": FieldLayout("run", "Auto-recovery", switch=True),
    "training.pinned_rows": FieldLayout("run", "Sample outputs: test rows"),
    "training.pinned_prompts": FieldLayout("run", "Sample outputs: prompts", rows=3, empty="test rows only"),
}  # fmt: skip


def get_form_section(key: str) -> FormSection:
    """Return the section of that key. Raises StopIteration for an unknown key."""
    return next(section for section in (BASICS, *FORM_SECTIONS) if section.key == key)


def get_field_layout(path: str) -> FieldLayout:
    """Return the layout of a setting; without a row in the table, one that follows from its class and name."""
    if path in _FIELD_LAYOUTS:
        return _FIELD_LAYOUTS[path]
    parent, _, name = path.rpartition(".")
    return FieldLayout(_SECTION_OF.get(parent, "run"), name.replace("_", " ").capitalize(), "advanced")


def name_setting(path: str) -> str:
    """Return the label of a setting as the form shows it; the path itself if this version has no such setting."""
    return get_field_layout(path).label if path in field_specs_by_path() else path


FILE_SETTINGS = ("data.path", "data.test_path")
"""Settings whose end says most: they are shortened at the front."""
MAX_PATH_CHARACTERS = 40


def describe_value(path: str, value: Any) -> str:
    """Return a value as the form shows it: "NF4", "on", "2e-4"."""
    spec = field_specs_by_path().get(path)
    if spec is None:
        return str(value)
    if path in FILE_SETTINGS and isinstance(value, str) and len(value) > MAX_PATH_CHARACTERS:
        return f"…/{value.rstrip('/').rpartition('/')[2][-MAX_PATH_CHARACTERS:]}"
    layout = get_field_layout(path)
    if value is None and layout.empty != FieldLayout.empty:
        return layout.empty
    shown = summarize_value(spec, value)
    return layout.words.get(value, shown) if isinstance(value, str) else shown


def list_section_settings(key: str, level: Level | None = None) -> tuple[str, ...]:
    """Return the paths of a section's settings in the order of the table; those without a row come last."""
    if key == BASICS.key:
        return BASIC_SETTINGS if level != "advanced" else ()
    without_row = [spec.path for spec in list_field_specs() if spec.path not in _FIELD_LAYOUTS]
    existing = [path for path in (*_FIELD_LAYOUTS, *without_row) if path in field_specs_by_path()]
    return tuple(
        path
        for path in existing
        if get_field_layout(path).section == key and level in (None, get_field_layout(path).level)
    )


def is_setting_shown(path: str, draft: Mapping[str, Any], grid: Mapping[str, Sequence[Any]] | None = None) -> bool:
    """Return whether a setting has an effect with these values, or in at least one trial of the study."""
    study_values = grid or {}
    return all(
        any(value in allowed for value in [get_setting(draft, other), *study_values.get(other, ())])
        for other, allowed in get_field_layout(path).shown_when
    )


def search_settings(query: str) -> tuple[str, ...]:
    """Return the paths of the settings that match every word of the query.

    A word matches the label, path, section, description or explanation; matches of label and path come first.
    """
    wanted = query.lower().split()
    hits: list[tuple[int, str]] = []
    for spec in list_field_specs():
        layout = get_field_layout(spec.path)
        named = f"{layout.label} {spec.path}".lower()
        about = f"{get_form_section(layout.section).title} {spec.description} {FIELD_EXPLANATIONS.get(spec.path, '')}"
        text = f"{named} {named.replace('_', ' ')} {about}".lower()
        if wanted and all(word in text for word in wanted):
            hits.append((0 if all(word in named for word in wanted) else 1, spec.path))
    return tuple(path for _, path in sorted(hits, key=lambda hit: hit[0]))


def help_text(path: str) -> str:
    """Return the help of a setting as plain text, one fact per line.

    The lines: description, explanation, limits, meaning of an empty box, default, name in the YAML file.
    """
    spec, layout = field_specs_by_path()[path], get_field_layout(path)
    limits = spec.bounds.words()
    lines = [
        spec.description.rstrip(".") + ".",
        FIELD_EXPLANATIONS.get(path, ""),
        f"Allowed: {limits}." if limits else "",
        f"{AUTO if is_auto_flag(spec) else 'Empty'}: {layout.empty}." if spec.optional else "",
        f"Default: {summarize_value(spec, spec.default)}.",
        f"In the file: {path}",
    ]
    return "\n".join(line for line in lines if line)
