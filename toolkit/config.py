"""The schema: every setting with its name, type, bounds, default and description.

Public API: classes, fields, types and descriptions are those of the original toolkit's reference; fields below
a "# added" line are this project's own. Forms, YAML, command line, sweeps and help all derive from here. What a
setting *looks like* is `forms/layout.py`'s; what a library calls it is `worker/build.py`'s. Imports pydantic and
the plain rules of `rules.py`, nothing else: no torch, no file is read but the existence check of `FilePath`.

`None` means: leave it to the library. Defaults train the bundled demo model on a bundled dataset on any CPU.
"""

from __future__ import annotations

from typing import Annotated, List, Literal, Optional, Union

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from toolkit import rules, schema_added
from toolkit.schema_types import DataPath, HfModelPath, Index, ModuleName, Section, Size, Template, number_from_text

SCHEMA_VERSION = 1
"""Written into the first line of every config file; a newer one is refused, never guessed at."""

BUNDLED = "bundled:"
"""Prefix of a dataset or a model that ships with the toolkit, e.g. "bundled:demo-model". No hub id has a colon."""


class AblationConfig(Section):
    """Represents the configuration for ablation studies."""

    use_ablate: Optional[bool] = Field(False, description="Flag to enable ablation")
    study_name: Optional[Annotated[str, StringConstraints(max_length=200)]] = Field(
        "ablation", description="Name of the study"
    )


class DataConfig(Section):
    """Represents the configuration for data ingestion."""

    file_type: Literal["json", "csv", "huggingface"] = Field("csv", description="File type")
    path: DataPath = Field(BUNDLED + "orders.csv", description="Path to the file or HuggingFace model")
    prompt: Template = Field("{message}", description="Prompt for the model. Use {} brackets for column name")
    prompt_stub: Template = Field(
        "{answer}",
        description="Stub for the prompt; this is injected during training. Use {} brackets for column name",
    )
    train_size: Annotated[Optional[Size], BeforeValidator(number_from_text)] = Field(
        0.8, description="Size of the training set; float for proportion and int for # of examples"
    )
    test_size: Annotated[Optional[Size], BeforeValidator(number_from_text)] = Field(
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
    accepted: schema_added.Accepted = None
    use_chat_template: schema_added.UseChatTemplate = None
    messages: schema_added.Messages = None
    test_path: schema_added.TestPath = None
    stratify: schema_added.Stratify = False
    encoding: schema_added.Encoding = None
    delimiter: schema_added.Delimiter = None
    rows_from: schema_added.RowsFrom = None
    flatten: schema_added.Flatten = False
    bad_rows: schema_added.BadRows = None
    repair_text: schema_added.RepairText = False

    _accepted = field_validator("accepted")(rules.each_of(rules.FAULTS))


class BitsAndBytesConfig(Section):
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

    _dtype = field_validator("bnb_4bit_compute_dtype", mode="before")(rules.dtype_name)
    _quant_type = field_validator("bnb_4bit_quant_type")(rules.one_of(rules.QUANT_TYPES))


class ModelConfig(Section):
    """Represents the configuration for the model."""

    hf_model_ckpt: Optional[HfModelPath] = Field(
        BUNDLED + "demo-model", description="Path to the model (huggingface repo or local path)"
    )
    device_map: Optional[str] = Field("auto", description="device onto which to load the model")
    quantize: Optional[bool] = Field(False, description="Flag to enable quantization")
    bitsandbytes: BitsAndBytesConfig = Field(
        default_factory=lambda: BitsAndBytesConfig(), description="Bits and Bytes configuration"
    )

    _device_map = field_validator("device_map", mode="before")(rules.device_map)


class LoraConfig(Section):
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

    _all_linear = field_validator("target_modules", mode="before")(rules.all_linear)
    _task_type = field_validator("task_type")(rules.one_of(rules.TASK_TYPES))
    _bias = field_validator("bias")(rules.one_of(rules.BIASES))


class TrainingArgs(Section):
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
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of the adapter's first weights, data order and dropout")
    eval_steps: schema_added.EvalSteps = None
    save_steps: schema_added.SaveSteps = None
    early_stopping_patience: schema_added.EarlyStoppingPatience = None
    load_best_at_end: schema_added.LoadBestAtEnd = False

    _optim = field_validator("optim")(rules.one_of(rules.OPTIMIZERS))
    _scheduler = field_validator("lr_scheduler_type")(rules.one_of(rules.SCHEDULERS))


class SftArgs(Section):
    """Represents the arguments for Supervised Fine-Tuning (SFT)."""

    max_seq_length: Optional[int] = Field(256, ge=8, le=1_048_576, description="Maximum sequence length")
    neftune_noise_alpha: Optional[float] = Field(
        None,
        ge=0,
        description="If not None, this will activate NEFTune noise embeddings. This can drastically improve model "
        "performance for instruction fine-tuning.",
    )
    # added
    completion_only_loss: schema_added.CompletionOnlyLoss = True
    packing: schema_added.Packing = None


class TrainingConfig(Section):
    """Represents the configuration for training."""

    training_args: TrainingArgs = Field(default_factory=lambda: TrainingArgs(), description="Training arguments")
    sft_args: SftArgs = Field(default_factory=lambda: SftArgs(), description="SFT arguments")
    # added
    pinned_prompts: schema_added.PinnedPrompts = None
    pinned_rows: schema_added.PinnedRows = 4


class InferenceConfig(Section):
    """Represents the configuration for inference."""

    max_new_tokens: Optional[int] = Field(128, ge=1, le=1_048_576, description="Maximum new tokens")
    use_cache: Optional[bool] = Field(True, description="Flag to enable cache usage")
    do_sample: Optional[bool] = Field(False, description="Flag to enable sampling")
    top_p: Optional[float] = Field(1.0, gt=0, le=1, description="Top p value")
    temperature: Optional[float] = Field(1.0, ge=0, le=100, description="Temperature value")
    epsilon_cutoff: Optional[float] = Field(0.0, ge=0, lt=1, description="epsilon cutoff value")
    eta_cutoff: Optional[float] = Field(0.0, ge=0, lt=1, description="eta cutoff value")
    top_k: Optional[int] = Field(50, ge=0, description="top-k sampling")


class Config(Section):
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
    autopilot: schema_added.Autopilot = True
    num_processes: schema_added.NumProcesses = None

    @model_validator(mode="after")
    def _no_contradictions(self) -> Config:
        found = rules.contradictions(self)
        if found:
            # the problems travel in ctx, so that validation.py can put each under its own field
            raise PydanticCustomError(
                "contradiction",
                "{summary}",
                {"summary": "; ".join(str(problem) for problem in found), "problems": found},
            )
        return self
