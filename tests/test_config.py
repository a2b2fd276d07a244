"""The schema is public API: names, types, descriptions, contradictions, and old files that still load."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, List, Literal, Optional, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, FilePath

from toolkit import config as schema
from toolkit.config import Config
from toolkit.errors import ConfigError
from toolkit.settings.draft import default_draft, replace_setting
from toolkit.settings.import_export import import_settings
from toolkit.settings.validation import parse_draft, validate_draft

HfModelPath = str
SCHEMA: dict[str, dict[str, tuple[str, str]]] = {
    "Config": {
        "save_dir": ("Optional[str]", "Folder to save to"),
        "ablation": ("AblationConfig", "Ablation configuration"),
        "accelerate": (
            "Optional[bool]",
            "set to True if you want to use multi-gpu training; then launch with `accelerate launch "
            "--config_file ./accelerate_config toolkit.py`",
        ),
        "data": ("DataConfig", "Data configuration"),
        "model": ("ModelConfig", "Model configuration"),
        "lora": ("LoraConfig", "LoRA configuration"),
        "training": ("TrainingConfig", "Training configuration"),
        "inference": ("InferenceConfig", "Inference configuration"),
    },
    "DataConfig": {
        "file_type": ('Literal["json", "csv", "huggingface"]', "File type"),
        "path": ("Union[FilePath, HfModelPath]", "Path to the file or HuggingFace model"),
        "prompt": ("str", "Prompt for the model. Use {} brackets for column name"),
        "prompt_stub": (
            "str",
            "Stub for the prompt; this is injected during training. Use {} brackets for column name",
        ),
        "train_size": (
            "Optional[Union[float, int]]",
            "Size of the training set; float for proportion and int for # of examples",
        ),
        "test_size": (
            "Optional[Union[float, int]]",
            "Size of the test set; float for proportion and int for # of examples",
        ),
        "train_test_split_seed": (
            "int",
            "Seed used in the train test split. This is used to ensure that the train and test sets "
            "are the same across runs",
        ),
    },
    "ModelConfig": {
        "hf_model_ckpt": ("Optional[str]", "Path to the model (huggingface repo or local path)"),
        "device_map": ("Optional[str]", "device onto which to load the model"),
        "quantize": ("Optional[bool]", "Flag to enable quantization"),
        "bitsandbytes": ("BitsAndBytesConfig", "Bits and Bytes configuration"),
    },
    "BitsAndBytesConfig": {
        "load_in_8bit": ("Optional[bool]", "Enable 8-bit quantization with LLM.int8()"),
        "llm_int8_threshold": ("Optional[float]", "Outlier threshold for outlier detection in 8-bit quantization"),
        "llm_int8_skip_modules": ("Optional[List[str]]", "List of modules that we do not want to convert in 8-bit"),
        "llm_int8_enable_fp32_cpu_offload": (
            "Optional[bool]",
            "Enable splitting model parts between int8 on GPU and fp32 on CPU",
        ),
        "llm_int8_has_fp16_weight": ("Optional[bool]", "Run LLM.int8() with 16-bit main weights"),
        "load_in_4bit": (
            "Optional[bool]",
            "Enable 4-bit quantization by replacing the Linear layers with FP4/NF4 layers from bitsandbytes",
        ),
        "bnb_4bit_compute_dtype": ("Optional[str]", "Computational type for 4-bit quantization"),
        "bnb_4bit_quant_type": ("Optional[str]", "Quantization data type in the bnb.nn.Linear4Bit layers"),
        "bnb_4bit_use_double_quant": (
            "Optional[bool]",
            "Enable nested quantization where the quantization constants from the first quantization "
            "are quantized again",
        ),
    },
    "LoraConfig": {
        "r": ("Optional[int]", "Lora rank"),
        "task_type": ("Optional[str]", "Base Model task type during training"),
        "lora_alpha": ("Optional[int]", "The alpha parameter for Lora scaling"),
        "bias": ("Optional[str]", "Bias type for Lora. Can be 'none', 'all' or 'lora_only'"),
        "lora_dropout": ("Optional[float]", "The dropout probability for Lora layers"),
        "target_modules": ("Optional[List[str]]", "The names of the modules to apply Lora to"),
        "fan_in_fan_out": (
            "Optional[bool]",
            "Flag to indicate if the layer to replace stores weight like (fan_in, fan_out)",
        ),
        "modules_to_save": (
            "Optional[List[str]]",
            "List of modules apart from LoRA layers to be set as trainable and saved in the final checkpoint",
        ),
        "layers_to_transform": ("Optional[Union[List[int], int]]", "The layer indexes to transform"),
        "layers_pattern": ("Optional[str]", "The layer pattern name"),
    },
    "TrainingConfig": {
        "training_args": ("TrainingArgs", "Training arguments"),
        "sft_args": ("SftArgs", "SFT arguments"),
    },
    "TrainingArgs": {
        "num_train_epochs": ("Optional[int]", "Number of training epochs"),
        "per_device_train_batch_size": ("Optional[int]", "Batch size per training device"),
        "gradient_accumulation_steps": ("Optional[int]", "Number of steps for gradient accumulation"),
        "gradient_checkpointing": ("Optional[bool]", "Flag to enable gradient checkpointing"),
        "optim": ("Optional[str]", "Optimizer"),
        "logging_steps": ("Optional[int]", "Number of logging steps"),
        "learning_rate": ("Optional[float]", "Learning rate"),
        "bf16": ("Optional[bool]", "Flag to enable bf16"),
        "tf32": ("Optional[bool]", "Flag to enable tf32"),
        "fp16": ("Optional[bool]", "Flag to enable fp16"),
        "max_grad_norm": ("Optional[float]", "Maximum gradient norm"),
        "warmup_ratio": ("Optional[float]", "Warmup ratio"),
        "lr_scheduler_type": ("Optional[str]", "Learning rate scheduler type"),
    },
    "SftArgs": {
        "max_seq_length": ("Optional[int]", "Maximum sequence length"),
        "neftune_noise_alpha": (
            "Optional[float]",
            "If not None, this will activate NEFTune noise embeddings. This can drastically improve "
            "model performance for instruction fine-tuning.",
        ),
    },
    "InferenceConfig": {
        "max_new_tokens": ("Optional[int]", "Maximum new tokens"),
        "use_cache": ("Optional[bool]", "Flag to enable cache usage"),
        "do_sample": ("Optional[bool]", "Flag to enable sampling"),
        "top_p": ("Optional[float]", "Top p value"),
        "temperature": ("Optional[float]", "Temperature value"),
        "epsilon_cutoff": ("Optional[float]", "epsilon cutoff value"),
        "eta_cutoff": ("Optional[float]", "eta cutoff value"),
        "top_k": ("Optional[int]", "top-k sampling"),
    },
    "AblationConfig": {
        "use_ablate": ("Optional[bool]", "Flag to enable ablation"),
        "study_name": ("Optional[str]", "Name of the study"),
    },
}


def bare(annotation: Any) -> Any:
    """An annotation without its bounds: unions as sets, Annotated unwrapped."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return bare(get_args(annotation)[0])
    if origin in (Union, UnionType):
        members = [bare(member) for member in get_args(annotation)]
        return frozenset(part for member in members for part in (member if isinstance(member, frozenset) else [member]))
    if origin is list:
        return ("list", bare(get_args(annotation)[0]))
    if origin is Literal:
        return ("literal", *get_args(annotation))
    return annotation


def written(text: str) -> Any:
    names = {
        **{model: getattr(schema, model) for model in SCHEMA},
        "Optional": Optional,
        "Union": Union,
        "List": List,
        "Literal": Literal,
        "FilePath": FilePath,
        "HfModelPath": HfModelPath,
        "int": int,
        "float": float,
        "str": str,
        "bool": bool,
    }
    return bare(eval(text, {"__builtins__": {}}, names))


def test_classes_fields_types_and_descriptions_are_the_published_ones() -> None:
    leaves = 0
    for name, fields in SCHEMA.items():
        model = getattr(schema, name)
        for field, (kind, description) in fields.items():
            info = model.model_fields[field]
            assert bare(info.annotation) == written(kind), f"{name}.{field}"
            assert info.description == description, f"{name}.{field}"
            leaves += not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel))
    assert leaves == 56
    assert len(SCHEMA) == 10


def test_added_fields_keep_old_files_valid() -> None:
    added = {name: set(getattr(schema, name).model_fields) - set(fields) for name, fields in SCHEMA.items()}
    assert sum(map(len, added.values())) > 0
    for name, fields in added.items():
        for field in fields:
            assert not getattr(schema, name).model_fields[field].is_required(), f"{name}.{field}"


def test_the_defaults_are_a_config() -> None:
    config, problems = validate_draft({})
    assert config == Config()
    assert problems == []


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        (
            {"training.training_args.bf16": True, "training.training_args.fp16": True},
            {"training.training_args.bf16", "training.training_args.fp16"},
        ),
        (
            {"model.quantize": True, "model.bitsandbytes.load_in_8bit": True},
            {"model.bitsandbytes.load_in_8bit", "model.bitsandbytes.load_in_4bit"},
        ),
        ({"model.quantize": True, "model.bitsandbytes.load_in_4bit": False}, {"model.quantize"}),
        ({"lora.layers_pattern": "layers"}, {"lora.layers_pattern"}),
        ({"lora.layers_to_transform": [0]}, {"lora.layers_to_transform"}),
        ({"lora.target_modules": []}, {"lora.target_modules"}),
        ({"lora.target_modules": ["all-linear", "q_proj"]}, {"lora.target_modules"}),
        ({"inference.do_sample": True, "inference.temperature": 0}, {"inference.temperature"}),
        ({"data.train_size": 0.9, "data.test_size": 0.2}, {"data.train_size", "data.test_size"}),
        ({"ablation.use_ablate": True, "ablation.study_name": " "}, {"ablation.study_name"}),
        ({"model.device_map": "cuda:x"}, {"model.device_map"}),
        ({"lora.bias": "zzz"}, {"lora.bias"}),
        ({"lora.r": True}, {"lora.r"}),
        ({"data.train_size": 1.0}, {"data.train_size"}),
        *[
            ({path: text}, {path})
            for path in ("data.path", "data.test_path", "model.hf_model_ckpt", "save_dir")
            for text in ("/data/" + "x" * 300, "a/" * 2_000, "nul\0.csv", "~no-such-user/x")
        ],
        ({"training.training_args.learning_rate": float("nan")}, {"training.training_args.learning_rate"}),
    ],
)
def test_invalid_settings_are_reported_under_each_setting_involved(settings: dict[str, Any], paths: set[str]) -> None:
    draft = default_draft()
    for path, value in settings.items():
        draft = replace_setting(draft, path, value)
    config, problems = validate_draft(draft)
    assert config is None
    assert {problem.path for problem in problems if problem.severity == "error"} == paths
    assert all(problem.message for problem in problems)


def test_all_errors_and_contradictions_are_reported_at_once() -> None:
    draft = replace_setting(replace_setting(default_draft(), "lora.r", 0), "training.training_args.bf16", True)
    draft = replace_setting(draft, "training.training_args.fp16", True)
    paths = {problem.path for problem in validate_draft(draft)[1]}
    assert paths >= {"lora.r", "training.training_args.bf16", "training.training_args.fp16"}


def test_one_row_and_the_share_one_are_kept_apart() -> None:
    assert parse_draft({"data": {"train_size": 1, "test_size": 1}}).data.train_size == 1
    assert isinstance(parse_draft({"data": {"train_size": "12"}}).data.train_size, int)
    assert validate_draft({"data": {"train_size": 1.0}})[0] is None


# a file of the original toolkit, with every value of its defaults and its starter file
OLD_FILE = """
save_dir: "./experiment/"
ablation: {use_ablate: false, study_name: ablation}
accelerate: false
data:
  file_type: "huggingface"
  path: "yahma/alpaca-cleaned"
  prompt: >-
    ### Instruction: {instruction} ### Input: {input} ### Output:
  prompt_stub: >-
    {output}
  train_size: 500
  test_size: 25
  train_test_split_seed: 42
model:
  hf_model_ckpt: "NousResearch/Llama-2-7b-hf"
  device_map: "none"
  quantize: true
  bitsandbytes:
    load_in_4bit: true
    bnb_4bit_compute_dtype: "bf16"
    bnb_4bit_quant_type: "nf4"
lora:
  task_type: "CAUSAL_LM"
  r: 32
  lora_alpha: 64
  lora_dropout: 0.1
  bias: none
  target_modules: "all-linear"
training:
  training_args:
    num_train_epochs: 1
    per_device_train_batch_size: 4
    gradient_accumulation_steps: 4
    gradient_checkpointing: true
    optim: "paged_adamw_32bit"
    logging_steps: 100
    learning_rate: 2.0e-4
    bf16: true
    tf32: true
    max_grad_norm: 0.3
    warmup_ratio: 0.03
    lr_scheduler_type: "constant"
  sft_args: {max_seq_length: 1024}
inference: {max_new_tokens: 1024, use_cache: true, do_sample: true, top_p: 0.9, temperature: 0.8,
  epsilon_cutoff: 0.0, eta_cutoff: 0.0, top_k: 50}
"""


def test_a_file_of_the_original_toolkit_loads() -> None:
    config = parse_draft(import_settings(OLD_FILE).draft)
    assert config.model.bitsandbytes.bnb_4bit_compute_dtype == "bfloat16"
    assert config.model.device_map is None
    assert config.lora.target_modules == ["all-linear"]
    assert config.data.prompt.startswith("### Instruction: {instruction}")


def test_a_file_without_the_quantization_block_loads() -> None:
    assert (
        parse_draft(import_settings("model: {quantize: true, bitsandbytes: }").draft).model.bitsandbytes.load_in_4bit
        is True
    )


@pytest.mark.parametrize(
    ("addition", "path", "remedy"),
    [
        ({"qa": {"llm_metrics": ["length"]}}, "qa", "Delete the whole qa block"),
        ({"model": {"torch_dtype": "auto"}}, "model.torch_dtype", "Delete it"),
        ({"model": {"attn_implementation": "sdpa"}}, "model.attn_implementation", "Delete it"),
        ({"inference": {"max_length": 20}}, "inference.max_length", "max_new_tokens"),
        ({"data": {"prompt": {"output": None}}}, "data.prompt", "quotes"),
        ({"lora": {"r": [8, 16]}}, "lora.r", "use_ablate"),
        ({"lora": {"rank": 8}}, "lora.rank", "no setting has this name"),
    ],
)
def test_retired_keys_and_invalid_values_have_a_remedy(addition: dict[str, Any], path: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_settings(yaml.safe_dump(addition))
    (problem,) = caught.value.problems
    assert problem.path == path
    assert remedy in problem.hint


def test_a_path_is_kept_as_written_whether_it_exists_or_not(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2\n")
    assert str(parse_draft({"data": {"path": str(file)}}).data.path) == str(file)
    assert parse_draft({"data": {"path": "yahma/alpaca-cleaned"}}).data.path == "yahma/alpaca-cleaned"


# one wrong value for every kind of field: what the user reads, and that no word of a library is in it
WRONG = [
    ("training.training_args.num_train_epochs", "x", "It must be a whole number; it is 'x'."),
    ("training.training_args.num_train_epochs", 1.5, "It must be a whole number; it is 1.5."),
    ("training.training_args.num_train_epochs", 0, "It must be at least 1; it is 0."),
    ("training.training_args.num_train_epochs", 10**6, "It must be at most 10,000; it is 1000000."),
    ("training.training_args.learning_rate", "abc", "It must be a number; it is 'abc'."),
    ("training.training_args.learning_rate", 0, "It must be more than 0; it is 0."),
    ("training.training_args.learning_rate", float("nan"), "It must be a finite number; it is nan."),
    ("training.training_args.bf16", "maybe", "It must be true or false; it is 'maybe'."),
    ("data.file_type", "xml", "It must be 'json', 'csv' or 'huggingface'; it is 'xml'."),
    ("data.prompt", None, "It must be text; it is empty."),
    ("data.path", "", "It must be a path or a name; it is ''."),
    ("data.path", None, "It must be a path or a name; it is empty."),
    ("data.train_size", "abc", "It must be a number; it is 'abc'."),
    ("data.train_size", 1.0, "It must be less than 1; it is 1.0."),
    ("lora.target_modules", "q_proj", "It must be a list; it is 'q_proj'."),
    ("lora.target_modules", [""], "It must not be empty; it is ''."),
    ("lora", None, "It must be a block of settings; it is empty."),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_error_messages_are_in_plain_words(path: str, value: object, message: str) -> None:
    draft = Config().model_dump(mode="json")
    *parents, leaf = path.split(".")
    here = draft
    for name in parents:
        here = here[name]
    here[leaf] = value
    config, problems = validate_draft(draft)
    assert config is None
    assert [(problem.path, problem.message) for problem in problems] == [(path, message)]


@pytest.mark.parametrize("layers", [True, [True], [0, False]])
def test_true_is_not_a_layer_index(layers: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_draft({"lora": {"layers_to_transform": layers, "target_modules": ["q_proj"]}})
    assert any("ust not be true or false" in problem.message for problem in caught.value.problems)
