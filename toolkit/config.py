"""The schema: every setting with its name, type, bounds, default and description.

Public API: classes, fields, types and descriptions are those of the original toolkit's reference; fields below an
"# added" line are this project's own. Forms, YAML, command line, studies and help derive from here. None means the
library's default. The defaults train the bundled demo model on a bundled dataset on any CPU.
"""

from __future__ import annotations

from typing import Annotated, List, Literal, Optional, Union

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from toolkit.errors import Problem
from toolkit.field_types import (
    ACCEPTABLE_HARD_STOPS,
    BIASES,
    OPTIMIZERS,
    QUANT_TYPES,
    SCHEDULERS,
    TASK_TYPES,
    Character,
    CodecName,
    DataPath,
    HfModelPath,
    HostName,
    Index,
    ModuleName,
    RowShareOrCount,
    RulesText,
    SettingsSection,
    ShortText,
    StudyMethod,
    StudyObjective,
    TemplateText,
    check_device_map,
    each_of,
    normalize_dtype,
    one_of,
    parse_number_text,
    refuse_contradictions,
    wrap_all_linear,
)

SCHEMA_VERSION = 1
"""Version in the first line of every config file; a file with a newer version is rejected."""

BUNDLED = "bundled:"
"""Prefix of a dataset or model that ships with the toolkit, e.g. "bundled:demo-model". No Hub ID has a colon."""


class AblationConfig(SettingsSection):
    """Represents the configuration for ablation studies."""

    use_ablate: Optional[bool] = Field(False, description="Flag to enable ablation")
    study_name: Optional[Annotated[str, StringConstraints(max_length=200)]] = Field(
        "ablation", description="Name of the study"
    )
    # added
    seeds: Optional[int] = Field(None, ge=1, le=20, description="Runs of each combination, each with another seed")
    objective: Optional[StudyObjective] = Field(None, description="What the study compares: a measure or the test loss")
    pass_rules: Optional[RulesText] = Field(None, description="Pass rules as JSON, if they are the objective")
    method: Optional[StudyMethod] = Field(None, description="How the study chooses combinations of values to train")
    prune_losers: bool = Field(False, description="Train only the better half of the combinations with the next seed")
    stop_when_decided: bool = Field(False, description="End the study once every setting matters or is within noise")
    trials: Optional[int] = Field(None, ge=1, le=500, description="Combinations that random search or TPE trains")


class DataConfig(SettingsSection):
    """Represents the configuration for data ingestion."""

    file_type: Literal["json", "csv", "huggingface"] = Field("csv", description="File type")
    path: DataPath = Field(BUNDLED + "orders.csv", description="Path to the file or HuggingFace model")
    prompt: TemplateText = Field("{message}", description="Prompt for the model. Use {} brackets for column name")
    prompt_stub: TemplateText = Field(
        "{answer}",
        description="Stub for the prompt; this is injected during training. Use {} brackets for column name",
    )
    train_size: Annotated[Optional[RowShareOrCount], BeforeValidator(parse_number_text)] = Field(
        0.8, description="Size of the training set; float for proportion and int for # of examples"
    )
    test_size: Annotated[Optional[RowShareOrCount], BeforeValidator(parse_number_text)] = Field(
        0.2, description="Size of the test set; float for proportion and int for # of examples"
    )
    train_test_split_seed: int = Field(
        42,
        ge=0,
        lt=2**32,
        description="Seed used in the train test split. This is used to ensure that the train and test sets are "
        "the same across runs",
    )
    # added
    accepted: Optional[List[ShortText]] = Field(
        None, description="Blocking problems to accept, by name. Accepted problems do not block training"
    )
    use_chat_template: Optional[bool] = Field(
        None, description="Wrap prompt and completion in the tokenizer's chat template"
    )
    messages: Optional[ShortText] = Field(
        None,
        description="Column that holds whole conversations (lists of role and content). Every assistant message is "
        "trained, and the two templates are not used",
    )
    test_path: Optional[HfModelPath] = Field(
        None,
        description="Path to a separate file with the test set. All rows of the dataset are then used for training",
    )
    stratify: Optional[bool] = Field(
        False,
        description="Keep the share of each answer the same in the training set and the test set",
    )
    encoding: Optional[CodecName] = Field(None, description="Text encoding of the file, e.g. cp1252")
    delimiter: Optional[Character] = Field(None, description="Character between the cells of a CSV file")
    rows_from: Optional[ShortText] = Field(None, description="Key of the list with the rows, if the file has several")
    flatten: Optional[bool] = Field(
        False, description="Turn each value inside a nested JSON object into a column named outer.inner"
    )
    bad_rows: Optional[Literal["skip", "fill"]] = Field(
        None, description="Rows with too many or too few cells: skip them, or treat missing cells as empty"
    )
    repair_text: Optional[bool] = Field(
        False, description="Replace invalid bytes with U+FFFD and remove NUL characters, instead of rejecting the file"
    )
    quotes: Optional[Literal["lines", "cells", "text", "backslash"]] = Field(
        None,
        description='Quotes in a CSV file: lines of a quoted cell as rows, or kept; quotes (or only \\") read as text',
    )
    header_row: Optional[Annotated[int, Field(ge=0, le=1000)]] = Field(
        None,
        description="Number of the row with the column names in a CSV or Excel file; the rows above are ignored, "
        "and 0 is for a file without column names",
    )
    join_messages: Optional[bool] = Field(False, description="Join rows that are single messages into conversations")
    number_names: Optional[bool] = Field(False, description="Number column names that the file repeats")
    answered_by: Optional[ShortText] = Field(None, description="Speaker whose messages are the answers, by name")
    hub_config: Optional[ShortText] = Field(None, description="Configuration (subset) of a Hugging Face dataset")
    hub_split: Optional[ShortText] = Field(None, description="Split of a Hugging Face dataset")
    hub_revision: Optional[ShortText] = Field(
        None, description="Branch, tag or commit of a Hugging Face dataset, so that a later version changes nothing"
    )
    optional_columns: Optional[List[ShortText]] = Field(
        None,
        description="Columns of the prompt whose missing cells count as empty text. A row with a missing cell in "
        "another column of the templates is skipped",
    )

    _accepted = field_validator("accepted")(each_of(ACCEPTABLE_HARD_STOPS))


class BitsAndBytesConfig(SettingsSection):
    """Represents the configuration for BitsAndBytes quantization."""

    load_in_8bit: Optional[bool] = Field(False, description="Enable 8-bit quantization with LLM.int8()")
    llm_int8_threshold: Optional[float] = Field(
        6.0, ge=0, description="Outlier threshold for outlier detection in 8-bit quantization"
    )
    llm_int8_skip_modules: Optional[List[ModuleName]] = Field(
        None, description="List of modules that we do not want to convert in 8-bit"
    )
    llm_int8_enable_fp32_cpu_offload: Optional[bool] = Field(
        False, description="Enable splitting model parts between int8 on GPU and fp32 on CPU"
    )
    llm_int8_has_fp16_weight: Optional[bool] = Field(False, description="Run LLM.int8() with 16-bit main weights")
    load_in_4bit: Optional[bool] = Field(
        True,
        description="Enable 4-bit quantization by replacing the Linear layers with FP4/NF4 layers from bitsandbytes",
    )
    bnb_4bit_compute_dtype: Optional[str] = Field("bfloat16", description="Computational type for 4-bit quantization")
    bnb_4bit_quant_type: Optional[str] = Field(
        "nf4", description="Quantization data type in the bnb.nn.Linear4Bit layers"
    )
    bnb_4bit_use_double_quant: Optional[bool] = Field(
        True,
        description="Enable nested quantization where the quantization constants from the first quantization are "
        "quantized again",
    )

    _dtype = field_validator("bnb_4bit_compute_dtype", mode="before")(normalize_dtype)
    _quant_type = field_validator("bnb_4bit_quant_type")(one_of(QUANT_TYPES))


class ModelConfig(SettingsSection):
    """Represents the configuration for the model."""

    hf_model_ckpt: Optional[HfModelPath] = Field(
        BUNDLED + "demo-model", description="Path to the model (huggingface repo or local path)"
    )
    device_map: Optional[str] = Field("auto", description="device onto which to load the model")
    quantize: Optional[bool] = Field(False, description="Flag to enable quantization")
    bitsandbytes: BitsAndBytesConfig = Field(
        default_factory=lambda: BitsAndBytesConfig(), description="Bits and Bytes configuration"
    )

    _device_map = field_validator("device_map", mode="before")(check_device_map)


class LoraConfig(SettingsSection):
    """Represents the configuration for LoRA (Low-Rank Adaptation)."""

    r: Optional[int] = Field(16, ge=1, le=4096, description="Lora rank")
    task_type: Optional[str] = Field("CAUSAL_LM", description="Base Model task type during training")
    lora_alpha: Optional[int] = Field(32, ge=1, le=65536, description="The alpha parameter for Lora scaling")
    bias: Optional[str] = Field("none", description="Bias type for Lora. Can be 'none', 'all' or 'lora_only'")
    lora_dropout: Optional[float] = Field(0.0, ge=0, lt=1, description="The dropout probability for Lora layers")
    target_modules: Optional[List[ModuleName]] = Field(
        ["all-linear"], description="The names of the modules to apply Lora to"
    )
    fan_in_fan_out: Optional[bool] = Field(
        False, description="Flag to indicate if the layer to replace stores weight like (fan_in, fan_out)"
    )
    modules_to_save: Optional[List[ModuleName]] = Field(
        None,
        description="List of modules apart from LoRA layers to be set as trainable and saved in the final checkpoint",
    )
    layers_to_transform: Optional[Union[List[Index], Index]] = Field(None, description="The layer indexes to transform")
    layers_pattern: Optional[ModuleName] = Field(None, description="The layer pattern name")
    # added
    use_rslora: Optional[bool] = Field(False, description="Scale the adapter by alpha / sqrt(r) instead of alpha / r")
    use_dora: Optional[bool] = Field(False, description="Train a weight's direction and size separately (DoRA)")
    exclude_modules: Optional[List[ModuleName]] = Field(None, description="The names of modules that get no LoRA")
    target_parameters: Optional[List[ModuleName]] = Field(None, description="The names of parameters that get LoRA")
    trainable_token_indices: Optional[List[Index]] = Field(None, description="Ids of single tokens to train")

    _all_linear = field_validator("target_modules", mode="before")(wrap_all_linear)
    _task_type = field_validator("task_type")(one_of(TASK_TYPES))
    _bias = field_validator("bias")(one_of(BIASES))


class TrainingArgs(SettingsSection):
    """Represents the training arguments."""

    num_train_epochs: Optional[int] = Field(2, ge=1, le=10_000, description="Number of training epochs")
    per_device_train_batch_size: Optional[int] = Field(8, ge=1, le=4096, description="Batch size per training device")
    gradient_accumulation_steps: Optional[int] = Field(
        1, ge=1, le=65536, description="Number of steps for gradient accumulation"
    )
    gradient_checkpointing: Optional[bool] = Field(None, description="Flag to enable gradient checkpointing")
    optim: Optional[str] = Field(None, description="Optimizer")
    logging_steps: Optional[int] = Field(1, ge=1, description="Number of logging steps")
    learning_rate: Optional[float] = Field(3e-3, gt=0, le=10, description="Learning rate")
    bf16: Optional[bool] = Field(None, description="Flag to enable bf16")
    tf32: Optional[bool] = Field(None, description="Flag to enable tf32")
    fp16: Optional[bool] = Field(False, description="Flag to enable fp16")
    max_grad_norm: Optional[float] = Field(1.0, ge=0, description="Maximum gradient norm")
    warmup_ratio: Optional[float] = Field(0.05, ge=0, lt=1, description="Warmup ratio")
    lr_scheduler_type: Optional[str] = Field("cosine", description="Learning rate scheduler type")
    # added
    seed: int = Field(
        42, ge=0, lt=2**32, description="Seed of the adapter's initial weights, the data order and dropout"
    )
    eval_steps: Optional[int] = Field(None, ge=1, description="Steps between two evaluations on the test set")
    save_steps: Optional[int] = Field(None, ge=1, description="Steps between two checkpoints")
    weight_decay: Optional[float] = Field(None, ge=0, lt=1, description="Weight decay of the optimizer")
    max_steps: Optional[int] = Field(None, ge=1, description="Number of training steps, in place of epochs")
    early_stopping_patience: Optional[int] = Field(
        None, ge=1, description="Stop after this many evaluations without a lower test loss"
    )
    load_best_at_end: bool = Field(
        False, description="Keep the weights with the lowest test loss instead of the last ones"
    )

    _optim = field_validator("optim")(one_of(OPTIMIZERS))
    _scheduler = field_validator("lr_scheduler_type")(one_of(SCHEDULERS))


class SftArgs(SettingsSection):
    """Represents the arguments for Supervised Fine-Tuning (SFT)."""

    max_seq_length: Optional[int] = Field(256, ge=8, le=1_048_576, description="Maximum sequence length")
    neftune_noise_alpha: Optional[float] = Field(
        None,
        ge=0,
        description="If not None, this will activate NEFTune noise embeddings. This can drastically improve model "
        "performance for instruction fine-tuning.",
    )
    # added
    completion_only_loss: bool = Field(
        True, description="Compute the loss on the completion only; if off, also on the prompt"
    )
    packing: Optional[Literal["grouped", "packed"]] = Field(
        None,
        description="How examples share a batch: grouped puts examples of similar length together; packed joins "
        "several examples into one full row, and the batch size then counts rows",
    )


class TrainingConfig(SettingsSection):
    """Represents the configuration for training."""

    training_args: TrainingArgs = Field(default_factory=lambda: TrainingArgs(), description="Training arguments")
    sft_args: SftArgs = Field(default_factory=lambda: SftArgs(), description="SFT arguments")
    # added
    pinned_prompts: Optional[List[TemplateText]] = Field(
        None, max_length=10, description="Prompts that are answered at each evaluation, to show how the answers change"
    )
    pinned_rows: int = Field(
        4,
        ge=0,
        le=10,
        description="Number of test rows that are answered at each evaluation; at most 10 together with the prompts",
    )


class InferenceConfig(SettingsSection):
    """Represents the configuration for inference."""

    max_new_tokens: Optional[int] = Field(128, ge=1, le=1_048_576, description="Maximum new tokens")
    use_cache: Optional[bool] = Field(True, description="Flag to enable cache usage")
    do_sample: Optional[bool] = Field(False, description="Flag to enable sampling")
    top_p: Optional[float] = Field(1.0, gt=0, le=1, description="Top p value")
    temperature: Optional[float] = Field(1.0, ge=0, le=100, description="Temperature value")
    epsilon_cutoff: Optional[float] = Field(0.0, ge=0, lt=1, description="epsilon cutoff value")
    eta_cutoff: Optional[float] = Field(0.0, ge=0, lt=1, description="eta cutoff value")
    top_k: Optional[int] = Field(50, ge=0, description="top-k sampling")


class Config(SettingsSection):
    """Represents the overall configuration for the toolkit."""

    save_dir: Optional[HfModelPath] = Field("./experiments", description="Folder to save to")
    ablation: AblationConfig = Field(default_factory=lambda: AblationConfig(), description="Ablation configuration")
    accelerate: Optional[bool] = Field(
        False,
        description="set to True if you want to use multi-gpu training; then launch with `accelerate launch "
        "--config_file ./accelerate_config toolkit.py`",
    )
    data: DataConfig = Field(default_factory=lambda: DataConfig(), description="Data configuration")
    model: ModelConfig = Field(default_factory=lambda: ModelConfig(), description="Model configuration")
    lora: LoraConfig = Field(default_factory=lambda: LoraConfig(), description="LoRA configuration")
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig(), description="Training configuration")
    inference: InferenceConfig = Field(default_factory=lambda: InferenceConfig(), description="Inference configuration")
    # added
    autopilot: bool = Field(
        True,
        description="After a crash, resume from the last checkpoint; after running out of memory, with a smaller batch",
    )
    num_processes: Optional[int] = Field(None, ge=1, le=1024, description="Number of processes that Accelerate starts")
    shard_model: Optional[bool] = Field(None, description="Split the base model's weights over the processes (FSDP2)")
    num_machines: Optional[int] = Field(1, ge=1, le=1024, description="Number of machines that train this run together")
    machine_rank: Optional[int] = Field(0, ge=0, le=1023, description="Number of this machine; the main machine has 0")
    main_process_ip: Optional[HostName] = Field(None, description="Address at which the others reach the main machine")
    main_process_port: Optional[int] = Field(None, ge=1, le=65535, description="Free port of the main machine")

    @model_validator(mode="after")
    def _no_contradictions(self) -> Config:
        refuse_contradictions(find_contradictions(self))
        return self


def find_contradictions(config: Config) -> list[Problem]:
    """Return the settings that contradict each other; each problem is reported under every setting involved."""
    args, bnb = config.training.training_args, config.model.bitsandbytes
    found: list[Problem] = []

    def report_pair(section: str, first: str, second: str, message: str, hint: str) -> None:
        found.extend(Problem(section + name, message, hint) for name in (first, second))

    if args.bf16 and args.fp16:
        message = "bf16 and fp16 are both on."
        report_pair("training.training_args.", "bf16", "fp16", message, "Turn one of them off.")
    if config.model.quantize and bnb.load_in_8bit and bnb.load_in_4bit:
        message = "8-bit and 4-bit quantization are both on."
        report_pair("model.bitsandbytes.", "load_in_8bit", "load_in_4bit", message, "Turn one of them off.")
    if config.model.quantize and not (bnb.load_in_8bit or bnb.load_in_4bit):
        message = "Quantization is on, but neither 8-bit nor 4-bit is selected."
        found.append(Problem("model.quantize", message, "Select one of them."))
    if config.model.quantize and bnb.load_in_8bit and config.lora.use_dora:
        message, hint = "DoRA does not work on a base model in 8 bits.", "Use 4-bit quantization, or turn DoRA off."
        report_pair("", "lora.use_dora", "model.bitsandbytes.load_in_8bit", message, hint)
    found.extend(_find_lora_contradictions(config))
    if config.inference.do_sample and config.inference.temperature == 0:
        hint = "Raise the temperature, or turn sampling off."
        found.append(Problem("inference.temperature", "Sampling needs a temperature above 0.", hint))
    if isinstance(config.data.train_size, float) and isinstance(config.data.test_size, float):
        total = config.data.train_size + config.data.test_size
        if total > 1 + 1e-9:
            message = f"The training and test splits add up to {total:.4g}, more than the whole dataset."
            report_pair("data.", "train_size", "test_size", message, "Lower one of them: their sum must be at most 1.")
    if config.ablation.use_ablate and not (config.ablation.study_name or "").strip():
        found.append(Problem("ablation.study_name", "The study has no name.", "Enter a name."))
    return found


def _find_lora_contradictions(config: Config) -> list[Problem]:
    lora = config.lora
    found: list[Problem] = []
    if lora.layers_pattern is not None and lora.layers_to_transform is None:
        message = f"The layer pattern '{lora.layers_pattern}' has no effect without layer indexes."
        found.append(Problem("lora.layers_pattern", message, "Fill in layers_to_transform, or clear this setting."))
    targets = lora.target_modules
    if targets is not None and not targets:
        hint = "Add modules, or reset the setting."
        found.append(Problem("lora.target_modules", "The list of target modules is empty.", hint))
    if targets and "all-linear" in targets and len(targets) > 1:
        found.append(Problem("lora.target_modules", "all-linear is combined with other names.", "Remove the others."))
    if targets == ["all-linear"] and lora.layers_to_transform is not None:
        message = "Layer indexes cannot be combined with all-linear."
        found.append(Problem("lora.layers_to_transform", message, "Name the target modules, e.g. q_proj and v_proj."))
    return found
