"""The GPU part of `train_throughput.py`: a Llama-3-8B shape from random weights, LoRA in bf16 and on nf4, packed 4096.

Published best for this shape: 12,473 tokens/s at 41 % of an H100's 989 TFLOP/s (NeMo AutoModel, sequences of 4096
without padding). Every figure is gated: losses fall and gradient norms are finite and not zero, or it is refused.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

PEAK_FLOPS = 989e12
LLAMA_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    "tie_word_embeddings": False, "rope_theta": 500000.0,
}  # fmt: skip
LENGTH, STEPS, WARM = 4096, 14, 4


def measure() -> list[dict[str, Any]] | str:
    """The figures, or the sentence that says why there are none."""
    import torch

    if not torch.cuda.is_available():
        return (
            "This machine has no CUDA GPU: LoRA bf16, QLoRA nf4 and plain TRL on a Llama-3-8B shape were not measured."
        )
    found = []
    for quantized in (False, True):
        for plain in (False, True):
            found.append(one(quantized, plain))
            print(found[-1], flush=True)
            torch.cuda.empty_cache()
    return found


def one(quantized: bool, plain: bool) -> dict[str, Any]:
    """One contender: this project's trainer or plain TRL, on full rows of 4096 random tokens."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from toolkit.choices import Place
    from toolkit.config import Config
    from toolkit.worker import build
    from toolkit.worker.trainer import PreparedTrainer

    args = {"bf16": True, "per_device_train_batch_size": 2, "learning_rate": 1e-4, "max_grad_norm": 1.0, "tf32": True}
    config = Config.model_validate({
        "lora": {"r": 16, "lora_alpha": 32}, "model": {"quantize": quantized},
        "training": {"training_args": args, "sft_args": {"max_seq_length": LENGTH}},
    })  # fmt: skip
    where = Place(True, torch.cuda.get_device_capability(), True)
    generator = torch.Generator().manual_seed(1)
    pool = torch.randint(0, LLAMA_8B["vocab_size"], (64, LENGTH), generator=generator).tolist()
    data = Dataset.from_dict({"input_ids": pool, "labels": pool})
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            seconds.append(time.monotonic())

    arguments = {
        **build.sft_args(config, where, tempfile.mkdtemp()), "max_steps": STEPS, "eval_strategy": "no",
        **({"activation_checkpointing": True} if plain else {}),
    }  # fmt: skip
    trainer = (SFTTrainer if plain else PreparedTrainer)(
        model=random_model(config, quantized), args=SFTConfig(**arguments), train_dataset=data,
        processing_class=tokenizer(), peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        callbacks=[Clock()],
    )  # fmt: skip
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    log = [row for row in trainer.state.log_history if "loss" in row]
    sound = log[-1]["loss"] < log[0]["loss"] and all(0 < row["grad_norm"] < math.inf for row in log)
    rate = 2 * LENGTH * (STEPS - WARM) / (seconds[-1] - seconds[WARM - 1])
    return {
        "what": ("QLoRA nf4" if quantized else "LoRA bf16") + (", plain TRL" if plain else ", this project"),
        "device": torch.cuda.get_device_name(), "tokens_per_second": rate if sound else None, "sound": sound,
        "mfu": rate * 33.5e9 / PEAK_FLOPS if sound else None, "peak_bytes": torch.cuda.max_memory_reserved(),
        "losses": [log[0]["loss"], log[-1]["loss"]], "grad_norm": log[-1]["grad_norm"],
    }  # fmt: skip


def random_model(config: Any, quantized: bool) -> Any:
    """The 8 B shape with random weights, made on the GPU; quantized by reading it back from a folder."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, LlamaConfig

    from toolkit.worker import build

    shape = LlamaConfig(**LLAMA_8B)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    if not quantized:
        return model
    folder = Path(tempfile.mkdtemp())
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    settings = transformers.BitsAndBytesConfig(**(build.quantization_args(config) or {}))
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=torch.bfloat16, device_map="cuda:0"
    )


def tokenizer() -> Any:
    """Any tokenizer: the rows are token ids already."""
    from toolkit.config import Config
    from toolkit.worker import model

    return model.load_tokenizer(Config())
