"""Convert a config to the keyword arguments of the libraries.

A setting that is None is left out, so that the library's default applies. What the machine supports is passed in as a
`ComputeDevice`.
"""

from __future__ import annotations

from typing import Any

from toolkit.config import Config, InferenceConfig
from toolkit.settings.device_defaults import (
    ComputeDevice,
    resolve_max_length,
    resolve_optimizer,
    resolve_precision,
    resolve_tf32,
    uses_gradient_checkpointing,
    uses_liger_kernels,
)

EVALUATIONS_PER_RUN = 10
"""Evaluations spread evenly over a run whose eval_steps is not set."""
GREEDY_TEMPERATURE = 1e-4
"""Below it the likeliest token is taken: dividing by less overflows, and leaves no probabilities to draw from."""
UNQUANTIZED_MODULE = "lm_head"
"""Module that is never quantized: with a quantized head both 4-bit and 8-bit models fail in the forward pass."""


def sft_args(config: Config, device: ComputeDevice, output_dir: str) -> dict[str, Any]:
    """Return the keyword arguments of trl.SFTConfig."""
    args, sft = config.training.training_args, config.training.sft_args
    precision = resolve_precision(config, device)
    chosen = {
        "num_train_epochs": args.num_train_epochs,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "per_device_eval_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "optim": resolve_optimizer(config),
        "logging_steps": args.logging_steps,
        "learning_rate": args.learning_rate,
        "max_grad_norm": args.max_grad_norm,
        "weight_decay": args.weight_decay,
        "max_steps": args.max_steps,
        "warmup_steps": args.warmup_ratio,  # the library takes a float below 1 as a share of all steps
        "lr_scheduler_type": args.lr_scheduler_type,
        "neftune_noise_alpha": sft.neftune_noise_alpha,
        "tf32": resolve_tf32(config, device),
    }
    return {
        **{name: value for name, value in chosen.items() if value is not None},
        "seed": args.seed,
        "data_seed": args.seed,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": not device.cuda,
        "activation_checkpointing": uses_gradient_checkpointing(config),
        "max_length": resolve_max_length(config),
        "eval_strategy": "steps",
        "eval_steps": args.eval_steps if args.eval_steps is not None else 1 / EVALUATIONS_PER_RUN,
        "dataloader_pin_memory": device.cuda,
        **({"use_liger_kernel": True} if uses_liger_kernels(config, device) else {}),
        **_fixed_args(output_dir),
    }


def _fixed_args(output_dir: str) -> dict[str, Any]:
    """Return the arguments that no setting changes."""
    return {
        "output_dir": output_dir,
        "save_strategy": "no",  # the checkpoint writer saves
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # a NaN loss must show in the log, not be averaged away
        "include_num_input_tokens_seen": "non_padding",
        "dataset_kwargs": {"skip_prepare_dataset": True},  # the rows are tokenized already
        "packing": False,  # the collator packs
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,  # every adapter weight takes part in every step
    }


def lora_args(config: Config) -> dict[str, Any]:
    """Return the keyword arguments of peft.LoraConfig."""
    chosen = config.lora.model_dump(exclude_none=True)
    if chosen.get("target_modules") == ["all-linear"]:
        chosen["target_modules"] = "all-linear"  # in a list it would be the name of a module
    if (tokens := chosen.pop("trainable_token_indices", None)) and tokens:
        chosen["trainable_token_indices"] = sorted(set(tokens))  # peft would give an id that is there twice two rows
    return chosen


def quantization_args(config: Config) -> dict[str, Any] | None:
    """Return the keyword arguments of transformers.BitsAndBytesConfig, or None without quantization.

    Not an empty dict: the library would then still quantize to 4 bits.
    """
    if not config.model.quantize:
        return None
    chosen = config.model.bitsandbytes.model_dump(exclude_none=True)
    if "llm_int8_threshold" in chosen:
        chosen["llm_int8_threshold"] = float(chosen["llm_int8_threshold"])
    skipped = chosen.get("llm_int8_skip_modules")
    # a list replaces the library's own, which contains the head
    if skipped is not None and UNQUANTIZED_MODULE not in skipped:
        chosen["llm_int8_skip_modules"] = [*skipped, UNQUANTIZED_MODULE]
    return chosen


def model_load_args(config: Config, device: ComputeDevice) -> dict[str, Any]:
    """Return the keyword arguments of AutoModelForCausalLM.from_pretrained, without the quantization config."""
    dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[resolve_precision(config, device)]
    chosen: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    device_map = config.model.device_map
    if device_map is not None and not config.accelerate and device.processes == 1:
        # the worker hides all GPUs but the chosen one, which then has the number 0
        single_gpu = device_map.startswith("cuda") and device.gpus == 1
        chosen["device_map"] = "cpu" if not device.cuda else "cuda:0" if single_gpu else device_map
    return chosen


def generation_args(inference: InferenceConfig) -> dict[str, Any]:
    """Return the keyword arguments of model.generate, without the sampling settings if sampling is off."""
    chosen = inference.model_dump(exclude_none=True)
    greedy = inference.temperature is not None and inference.temperature < GREEDY_TEMPERATURE
    if not inference.do_sample or greedy:
        for name in ("top_p", "temperature", "epsilon_cutoff", "eta_cutoff", "top_k"):
            chosen.pop(name, None)
        return {**chosen, "do_sample": False}
    for name in ("epsilon_cutoff", "eta_cutoff"):
        if chosen.get(name) == 0:  # 0 is off, but the library warns about it
            chosen.pop(name)
    return chosen
