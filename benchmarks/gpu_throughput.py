"""The GPU part of `train_throughput.py`: a Llama-3-8B shape from random weights, LoRA in bf16 and on nf4, beside TRL.

    PYTHONPATH=. python -m benchmarks.gpu_throughput [--json FILE] [--rehearse]

Full rows of 2048 and 4096 tokens, and a log-normal instruction set with its held-out loss; every contender in a process
of its own. A figure counts only when the loss fell and every gradient norm is finite and not zero. Published best for
full rows of 4096: 12,473 tokens/s at 41 % of an H100's 989 TFLOP/s (NeMo AutoModel). Without a GPU it says what was not
measured; --rehearse carries all of it out on a CPU with a tiny shape, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

LLAMA_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    "tie_word_embeddings": False, "rope_theta": 500000.0,
}  # fmt: skip
TINY = {**LLAMA_8B, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
STEPS, WARM, RATE, WORDS = 14, 4, 1e-3, 256
SECONDS = 1800
"""Of one contender."""
ROWS, HELD_OUT, LONGEST = 512, 64, 2048
"""Of the instruction set. TRL takes 8 examples a step; packed rows of 2048 tokens hold about as many."""
CASES = [(kind, length, who) for kind in ("lora", "qlora") for length in (2048, 4096) for who in ("ours", "trl")]
INSTRUCTIONS = [("lora", 0, who) for who in ("ours", "trl")]
MISSING = (
    "This machine has no CUDA GPU: LoRA bf16 and QLoRA nf4 of a Llama-3-8B shape at 2048 and 4096 tokens, the "
    "log-normal instruction set, model-FLOPs utilisation and GPU memory were not measured, nor was plain TRL there."
)


def measure(rehearse: bool = False) -> list[dict[str, Any]] | str:
    """The figures, or the sentence that says why there are none."""
    import torch

    if not (rehearse or torch.cuda.is_available()):
        return MISSING
    found = []
    for kind, length, who in CASES[:: 3 if rehearse else 1] + INSTRUCTIONS:
        argv = [sys.executable, "-m", "benchmarks.gpu_throughput", "--one", kind, str(length), who]
        argv += ["--rehearse"] if rehearse else []
        found.append({"what": f"{kind} {length or 'instructions'} {who}", **_told(argv)})
        print(found[-1], flush=True)
    return found


def _told(argv: list[str]) -> dict[str, Any]:
    """What one contender says of itself, or why it says nothing: the others go on."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"it took more than {SECONDS} seconds"}
    last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:]
    return json.loads(last[0]) if done.returncode == 0 else {"failed": (last or ["no output"])[0][:300]}


def flops_per_token(length: int) -> float:
    """Frozen weights cost 4 a token, adapters 6; causal attention grows with the length."""
    return 4 * 7.504e9 + 6 * 41.9e6 + 3.22e9 * length / 4096


def full_rows(length: int, vocabulary: int) -> list[list[int]]:
    """Rows whose tokens follow a skewed distribution over a few words, so that a few steps show whether it learns."""
    import torch

    draw = torch.Generator().manual_seed(1)
    weights = 1.0 / torch.arange(1, WORDS + 1)
    picked = torch.multinomial(weights, 2 * STEPS * length, replacement=True, generator=draw)
    return (picked * (vocabulary // WORDS)).view(2 * STEPS, length).tolist()


def instructions(vocabulary: int, longest: int) -> list[list[int]]:
    """Rows of log-normal length around 160 tokens, up to `longest`."""
    import torch

    draw = torch.Generator().manual_seed(2)
    lengths = torch.empty(ROWS + HELD_OUT).log_normal_(5.1, 1.0, generator=draw).clamp(16, longest).int().tolist()
    pool = torch.tensor(full_rows(sum(lengths) // (2 * STEPS) + 1, vocabulary)).flatten()
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [pool[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


def one(kind: str, length: int, who: str, rehearse: bool) -> dict[str, Any]:
    """One contender's figures. length 0: the instruction set."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.utils import get_peak_flops

    shape = TINY if rehearse else LLAMA_8B
    vocabulary = int(shape["vocab_size"])
    cap = (length or LONGEST) // (32 if rehearse else 1)
    rows = full_rows(cap, vocabulary) if length else instructions(vocabulary, cap)
    train = rows if length else rows[:-HELD_OUT]
    moments: list[tuple[float, int]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            moments.append((time.monotonic(), state.num_input_tokens_seen))

    trainer = (_ours if who == "ours" else _trl)(
        random_model(shape, kind == "qlora"), Dataset.from_dict({"input_ids": train, "labels": train}), kind, cap,
        {"per_device_train_batch_size": (2 if length else 1 if who == "ours" else 8), "max_length": cap,
         "include_num_input_tokens_seen": "non_padding", **({"max_steps": STEPS} if length else {})},
    )  # fmt: skip
    trainer.add_callback(Clock())
    trainer.train()
    (began, before), (ended, after) = moments[WARM - 1], moments[-1]
    rate = (after - before) / (ended - began)
    log = [row for row in trainer.state.log_history if "loss" in row]
    sound = log[-1]["loss"] < log[0]["loss"] and all(0 < row["grad_norm"] < math.inf for row in log)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu, a rehearsal"
    peak = get_peak_flops(device, "bfloat16")  # dense; None for a device that nobody has listed
    return {
        "device": device, "sound": sound, "tokens_per_second": rate if sound else None,
        "mfu": rate * flops_per_token(length) / peak if sound and length and peak and not rehearse else None,
        "peak_bytes": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None,
        "losses": [log[0]["loss"], log[-1]["loss"]], "grad_norms": [log[0]["grad_norm"], log[-1]["grad_norm"]],
        "steps": len(moments), "held_out": None if length else held_out_loss(trainer.model, rows[-HELD_OUT:]),
        "attention": trainer.model.config._attn_implementation,
    }  # fmt: skip


def _ours(model: Any, data: Any, kind: str, cap: int, more: dict[str, Any]) -> Any:
    """This project's trainer with the settings that it chooses by itself on this device; examples are packed."""
    from trl import SFTConfig

    from toolkit.config import Config
    from toolkit.settings import device_defaults
    from toolkit.worker.compute.packing import keeps_examples_apart
    from toolkit.worker.models import library_arguments
    from toolkit.worker.models import load as models
    from toolkit.worker.models.lora_setup import build_lora_config
    from toolkit.worker.training.trainer import PreparedTrainer

    config = Config.model_validate({
        "lora": {"r": 16, "lora_alpha": 32}, "model": {"quantize": kind == "qlora"},
        "training": {"training_args": {"learning_rate": RATE, "warmup_ratio": 0.0, "num_train_epochs": 1},
                     "sft_args": {"packing": "packed"}},
    })  # fmt: skip
    where = models.detect_compute_device(config)
    if device_defaults.resolve_attention(config, where) == device_defaults.FLASH_ATTENTION:
        model.set_attn_implementation(device_defaults.FLASH_ATTENTION)
    if not keeps_examples_apart(model):
        raise SystemExit("packed examples are not kept apart: no figure")
    arguments = {**library_arguments.sft_args(config, where, tempfile.mkdtemp()), "eval_strategy": "no", **more}
    return PreparedTrainer(
        model=model, args=SFTConfig(**arguments), train_dataset=data, processing_class=tokenizer(),
        peft_config=build_lora_config(config, model), packed_rows=cap,
    )  # fmt: skip


def _trl(model: Any, data: Any, kind: str, cap: int, more: dict[str, Any]) -> Any:
    """The script that everyone writes: the library's defaults."""
    import torch
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    del kind, cap
    on_cpu = not torch.cuda.is_available()
    args = SFTConfig(
        output_dir=tempfile.mkdtemp(), learning_rate=RATE, num_train_epochs=1, report_to="none", save_strategy="no",
        logging_steps=1, disable_tqdm=True, dataset_kwargs={"skip_prepare_dataset": True},
        **({"use_cpu": True, "bf16": False} if on_cpu else {}), **more,
    )  # fmt: skip
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(
        model=model, args=args, train_dataset=data, processing_class=tokenizer(), peft_config=adapter
    )  # fmt: skip


def random_model(shape: dict[str, Any], quantized: bool) -> Any:
    """The shape with random weights, made where it trains; quantized by reading it back from a folder."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

    from toolkit.config import Config
    from toolkit.worker.models import library_arguments
    from toolkit.worker.models.load import disable_weight_repacking

    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(0)
    with torch.device("cuda" if cuda else "cpu"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=dtype)
    if not quantized:
        return model
    settings = library_arguments.quantization_args(Config.model_validate({"model": {"quantize": True}})) or {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        if cuda:
            torch.cuda.empty_cache()
        read = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=BitsAndBytesConfig(**settings), dtype=dtype,
            device_map={"": "cuda:0" if cuda else "cpu"},
        )  # fmt: skip
    if cuda:
        torch.cuda.empty_cache()  # what is reserved for a moment while reading is not the training's
        torch.cuda.reset_peak_memory_stats()
    return disable_weight_repacking(read)


def held_out_loss(model: Any, rows: list[list[int]]) -> float:
    """Mean over all tokens but each row's first, one row at a time."""
    import torch

    total = count = 0.0
    model.eval()
    for row in rows:
        ids = torch.tensor([row], device=model.device)
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            logits = model(input_ids=ids).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += len(row) - 1
    return total / count


def tokenizer() -> Any:
    """Any tokenizer: the rows are token ids already."""
    from toolkit.config import Config
    from toolkit.worker.models import load

    return load.load_tokenizer(Config())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "LENGTH", "WHO"))
    given = parser.parse_args()
    if given.one:
        kind, length, who = given.one
        print(json.dumps(one(kind, int(length), who, given.rehearse)))
        return
    found = measure(given.rehearse)
    if isinstance(found, str):
        print(found)
    if given.json:
        given.json.write_text(json.dumps({"date": date.today().isoformat(), "gpu": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
