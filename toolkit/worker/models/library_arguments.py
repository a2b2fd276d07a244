"""Config -> the libraries' own arguments: the only file that knows what a library calls a setting.

Pure: values in, dicts of keyword arguments out. `None` in a setting means that the key is left out, so the library's
default holds. Knows no file, no event and no model; what the machine offers arrives as a `Place`.
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
UNQUANTIZED_MODULE = "lm_head"  # quantizing the head makes both 4-bit and 8-bit forwards fail

_SFT, _LORA, _BNB, _LOAD, _GEN = "SFTConfig.", "LoraConfig.", "BitsAndBytesConfig.", "from_pretrained.", "generate."
_ARGS, _QUANT, _ADAPTER, _INFER = "training.training_args.", "model.bitsandbytes.", "lora.", "inference."

CONSUMED: dict[str, str] = {
    "data.prompt": "toolkit.data.examples.templates, the context of every example",
    "data.prompt_stub": "toolkit.data.examples.templates, what is learned",
    "data.train_size": "toolkit.data.examples.split",
    "data.test_size": "toolkit.data.examples.split",
    "data.train_test_split_seed": "toolkit.data.examples.split",
    "data.accepted": "worker.splits, which hard stops do not keep the run from starting",
    "data.use_chat_template": "worker.dataset.chat_enabled",
    "data.messages": "toolkit.data.examples.renderers, the column of conversations",
    "data.stratify": "toolkit.data.examples.split",
    "model.hf_model_ckpt": "worker.model.resolve",
    "model.device_map": _LOAD + "device_map",
    "model.quantize": _LOAD + "quantization_config",
    "training.sft_args.max_seq_length": _SFT + "max_length",
    "training.sft_args.completion_only_loss": "worker.dataset.prepare, the loss mask",
    "training.sft_args.neftune_noise_alpha": _SFT + "neftune_noise_alpha",
    "training.sft_args.packing": "worker.assemble, which rows share a batch",
    "accelerate": _LOAD + "device_map",
    "training.pinned_prompts": "worker.film.choose",
    "training.pinned_rows": "worker.film.choose",
    _ARGS + "gradient_checkpointing": _SFT + "activation_checkpointing",
    _ARGS + "warmup_ratio": _SFT + "warmup_steps",
    **{
        _ARGS + name: _SFT + name
        for name in (
            "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "optim",
            "logging_steps", "learning_rate", "bf16", "tf32", "fp16", "max_grad_norm", "lr_scheduler_type", "seed",
            "eval_steps",
        )
    },
    **{
        _QUANT + name: _BNB + name
        for name in (
            "load_in_8bit", "llm_int8_threshold", "llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload",
            "llm_int8_has_fp16_weight", "load_in_4bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type",
            "bnb_4bit_use_double_quant",
        )
    },
    **{
        _ADAPTER + name: _LORA + name
        for name in (
            "r", "task_type", "lora_alpha", "bias", "lora_dropout", "target_modules", "fan_in_fan_out",
            "modules_to_save", "layers_to_transform", "layers_pattern",
        )
    },
    **{
        _INFER + name: _GEN + name
        for name in (
            "max_new_tokens", "use_cache", "do_sample", "top_p", "temperature", "epsilon_cutoff", "eta_cutoff", "top_k",
        )
    },
}  # fmt: skip
"""Leaf of the schema -> where the worker puts it. With UNUSED it covers every leaf; a test holds that."""

UNUSED: dict[str, str] = {
    "save_dir": "the supervisor tells the worker where its run is; the config's own copy may have been moved",
    "ablation.use_ablate": "a study is expanded into ordinary runs before any worker starts",
    "ablation.study_name": "a label of the run, kept in run.json",
    "data.file_type": "the table is read before the run is queued; the worker trains on the run's own copy",
    **{
        f"data.{leaf}": "the table is read before the run is queued; the worker trains on the run's own copy"
        for leaf in ("test_path", "encoding", "delimiter", "rows_from", "flatten", "bad_rows", "repair_text")
    },
    "data.path": "the table is read before the run is queued; the worker trains on the run's own copy",
    _ARGS + "early_stopping_patience": "worker.best, a callback of our own",
    _ARGS + "load_best_at_end": "worker.training puts the best checkpoint's weights back",
    _ARGS + "save_steps": "checkpoints are written by worker.checkpoint_trainer, at worker.checkpoint_pace's moments",
    "autopilot": "who closes a run that died asks for it (lifecycle/resume_policy.py)",
    "num_processes": "accelerate starts the processes before a worker exists (runs/worker_process.py)",
}


def sft_args(config: Config, place: ComputeDevice, output_dir: str) -> dict[str, Any]:
    """Keyword arguments of trl.SFTConfig. Data is prepared by dataset.py; adapters are saved by checkpoint.py."""
    args, sft = config.training.training_args, config.training.sft_args
    kind = resolve_precision(config, place)
    chosen = {
        "num_train_epochs": args.num_train_epochs,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "per_device_eval_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "optim": resolve_optimizer(config),
        "logging_steps": args.logging_steps,
        "learning_rate": args.learning_rate,
        "max_grad_norm": args.max_grad_norm,
        "warmup_steps": args.warmup_ratio,  # a float below 1 is a share of all steps
        "lr_scheduler_type": args.lr_scheduler_type,
        "neftune_noise_alpha": sft.neftune_noise_alpha,
        "tf32": resolve_tf32(config, place),
    }
    return {
        **{name: value for name, value in chosen.items() if value is not None},
        "seed": args.seed,
        "data_seed": args.seed,
        "bf16": kind == "bf16",
        "fp16": kind == "fp16",
        "use_cpu": not place.cuda,
        "activation_checkpointing": uses_gradient_checkpointing(config),
        "max_length": resolve_max_length(config),
        "eval_strategy": "steps",
        "eval_steps": args.eval_steps if args.eval_steps is not None else 1 / EVALUATIONS_PER_RUN,
        "dataloader_pin_memory": place.cuda,
        **({"use_liger_kernel": True} if uses_liger_kernels(config, place) else {}),
        **_fixed_args(output_dir),
    }


def _fixed_args(output_dir: str) -> dict[str, Any]:
    return {
        "output_dir": output_dir,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # a loss that is no number must be seen, not averaged away
        "include_num_input_tokens_seen": "non_padding",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "packing": False,
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,  # every adapter weight takes part in every step
    }


def lora_args(config: Config) -> dict[str, Any]:
    """Keyword arguments of peft.LoraConfig."""
    chosen = config.lora.model_dump(exclude_none=True)
    if chosen.get("target_modules") == ["all-linear"]:
        chosen["target_modules"] = "all-linear"  # as a list it would be a module's name
    return chosen


def quantization_args(config: Config) -> dict[str, Any] | None:
    """Keyword arguments of transformers.BitsAndBytesConfig, or None: an empty one would still quantize to 4 bits."""
    if not config.model.quantize:
        return None
    chosen = config.model.bitsandbytes.model_dump(exclude_none=True)
    if "llm_int8_threshold" in chosen:
        chosen["llm_int8_threshold"] = float(chosen["llm_int8_threshold"])
    skipped = chosen.get("llm_int8_skip_modules")
    if skipped is not None and UNQUANTIZED_MODULE not in skipped:  # a list replaces the library's own
        chosen["llm_int8_skip_modules"] = [*skipped, UNQUANTIZED_MODULE]
    return chosen


def model_load_args(config: Config, place: ComputeDevice) -> dict[str, Any]:
    """Keyword arguments of AutoModelForCausalLM.from_pretrained, without the quantization config."""
    dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[resolve_precision(config, place)]
    chosen: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    device_map = config.model.device_map
    if device_map is not None and not config.accelerate and place.processes == 1:
        alone = device_map.startswith("cuda") and place.gpus == 1  # of those that are seen it has number 0
        chosen["device_map"] = "cpu" if not place.cuda else "cuda:0" if alone else device_map
    return chosen


def generation_args(inference: InferenceConfig) -> dict[str, Any]:
    """Keyword arguments of model.generate. Without sampling the sampling settings mean nothing and are left out."""
    chosen = inference.model_dump(exclude_none=True)
    if not inference.do_sample or inference.temperature == 0:
        for name in ("top_p", "temperature", "epsilon_cutoff", "eta_cutoff", "top_k"):
            chosen.pop(name, None)
        return {**chosen, "do_sample": False}
    for name in ("epsilon_cutoff", "eta_cutoff"):
        if chosen.get(name) == 0:  # off; the library warns about the zero
            chosen.pop(name)
    return chosen
