"""The configurations by which the forecast is measured, and the models and rows that they train on.

Everything follows from a seed. Models have random weights: what a run takes does not depend on what they know.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import workload
from toolkit.config import Config
from toolkit.settings.validation import parse_draft


def _llama(vocabulary: int, hidden: int, feed: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {"vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": feed, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads}  # fmt: skip


SHAPES = {
    "1M": _llama(2048, 128, 384, 4, 4, 4),
    "16M": _llama(8192, 384, 1024, 6, 6, 2),
    "20M-32k": _llama(32768, 256, 704, 4, 4, 4),
    "25M-deep": _llama(8192, 384, 1024, 12, 6, 6),
    "60M": _llama(8192, 640, 2048, 9, 10, 5),
}
GPT2 = {"vocab_size": 8192, "n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 1024}
DEMO = "bundled:demo-model"
STEPS, LENGTH, TEST_ROWS = 6, 512, 2
CPU_OPTIMIZERS = ("sgd", "adafactor", "paged_adamw_8bit")


@dataclass(frozen=True)
class Case:
    """One config of the grid."""

    model: str
    data: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        said = (name if value is True else f"{name}={value}" for name, value in self.settings.items())
        return " ".join([self.model, self.data, *said]).replace("'", "").replace(", ", ",")


def cases() -> list[Case]:
    """The grid, in an order in which every part of it has something of everything."""
    found = list(_cases())
    random.Random(workload.SEED).shuffle(found)
    return found


def _cases() -> Iterator[Case]:
    for model, data, bf16 in itertools.product(("1M", "16M"), ("narrow", "wide"), (False, True)):
        yield Case(model, data, _bf16(bf16, batch=8))
    for data, bf16 in itertools.product(("narrow", "wide"), (False, True)):
        yield Case("60M", data, _bf16(bf16, batch=4))
    for model, bf16 in itertools.product(("16M", "60M"), (False, True)):
        yield Case(model, "wide", _bf16(bf16, batch=4, checkpointing=True))
    yield Case(DEMO, "orders", {"batch": 8, "steps": 24})
    yield Case(DEMO, "orders", {"bf16": True, "batch": 16, "steps": 16})
    yield from (Case("16M", "short", {"batch": 16}), Case("1M", "short", {"batch": 4, "steps": 16}))
    yield from (Case("16M", "narrow", {"batch": 2, "steps": 30, "packing": "packed"}),
                Case("16M", "wide", {"bf16": True, "batch": 1, "steps": 60, "length": 1024, "packing": "packed"}),
                Case("1M", "short", {"batch": 4, "steps": 60, "length": 256, "packing": "packed"}))  # fmt: skip
    yield from (Case("16M", "narrow", {"batch": 8, "full": True}), Case("20M-32k", "narrow", {"batch": 8}),
                Case("20M-32k", "narrow", {"batch": 8, "full": True}),
                Case("20M-32k", "narrow", {"bf16": True, "batch": 4}))  # fmt: skip
    yield from (Case("16M", "narrow", {"batch": 4, "r": 4, "targets": ["q_proj", "v_proj"]}),
                Case("16M", "narrow", {"batch": 4, "r": 128}),
                Case("16M", "narrow", {"batch": 4, "dropout": 0.1}),
                Case("16M", "narrow", {"bf16": True, "batch": 8, "dropout": 0.1}),
                Case("16M", "narrow", {"batch": 4, "saved": ["lm_head"]}))  # fmt: skip
    yield from (Case("16M", "wide", {"batch": 1}), Case("16M", "narrow", {"batch": 16, "steps": 4}),
                Case("16M", "narrow", {"batch": 2, "accumulation": 4}),
                Case("16M", "wide", {"batch": 2, "length": 1024}))  # fmt: skip
    yield from (Case("16M", "narrow", {"batch": 4, "r": 64, "optim": name}) for name in CPU_OPTIMIZERS)
    yield from (Case("60M", "narrow", {"batch": 4, "quantize": True}),
                Case("60M", "narrow", {"bf16": True, "batch": 4, "quantize": True}))  # fmt: skip
    yield Case("16M", "narrow", {"batch": 4, "evaluate": 2, "test": 16})
    yield from (Case("gpt2", "narrow", {"batch": 8}), Case("gpt2", "narrow", {"bf16": True, "batch": 8}))
    yield from (Case("25M-deep", "narrow", {"batch": 4}), Case("25M-deep", "wide", {"bf16": True, "batch": 2}))


def _bf16(bf16: bool, **settings: Any) -> dict[str, Any]:
    return {"bf16": True, **settings} if bf16 else settings


def make(folder: Path) -> Path:
    """Write the models and the rows that are not there yet; returns `folder`."""
    workload.make(folder)
    short = folder / "short.jsonl"
    if not short.exists():
        short.write_text("".join(json.dumps(row) + "\n" for row in _short_rows()))
    for name, shape in SHAPES.items():
        if not (folder / name / "config.json").exists():
            workload.write_random_model(folder / name, folder / "model", shape)
    if not (folder / "gpt2" / "config.json").exists():
        _write_gpt2(folder / "gpt2", folder / "model")
    return folder


def _short_rows() -> Iterator[dict[str, str]]:
    """Questions of a few words and answers of one to five, as of a classifier."""
    dice = random.Random(f"{workload.SEED}-short")
    vocabulary = workload.words(random.Random(workload.SEED))
    for _ in range(workload.ROWS + workload.HELD_OUT):
        asked, answered = dice.randint(4, 14), dice.randint(1, 5)
        yield {name: workload.text(dice, vocabulary, count)
               for name, count in (("instruction", asked), ("output", answered))}  # fmt: skip


def _write_gpt2(folder: Path, tokenizer: Path) -> None:
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(workload.SEED)
    eos = loaded.eos_token_id
    GPT2LMHeadModel(GPT2Config(**GPT2, bos_token_id=eos, eos_token_id=eos, pad_token_id=0)).save_pretrained(folder)
    loaded.save_pretrained(folder)


def config_of(case: Case, folder: Path, save_dir: Path) -> Config:
    """The settings of a case, whose models and rows are in `folder`."""
    chosen = case.settings
    bf16, batch, accumulation = bool(chosen.get("bf16")), chosen["batch"], chosen.get("accumulation", 1)
    rows = chosen.get("steps", STEPS) * batch * accumulation
    demo = case.model == DEMO
    data = {} if demo else {"file_type": "json", "path": str(folder / f"{case.data}.jsonl"), "prompt": "{instruction}",
                            "prompt_stub": "{output}"}  # fmt: skip
    return parse_draft({
        "save_dir": str(save_dir),
        "data": {**data, "test_size": chosen.get("test", TEST_ROWS), "train_size": rows},
        "model": {"hf_model_ckpt": case.model if demo else str(folder / case.model),
                  "quantize": bool(chosen.get("quantize")),
                  "bitsandbytes": {"bnb_4bit_compute_dtype": "bfloat16" if bf16 else "float32"}},
        "lora": {"r": chosen.get("r", 16), "lora_dropout": chosen.get("dropout", 0.0),
                 "target_modules": chosen.get("targets", ["all-linear"]), "modules_to_save": chosen.get("saved"),
                 "fan_in_fan_out": case.model == "gpt2"},
        "training": {
            "training_args": {
                "num_train_epochs": 1, "bf16": bf16, "per_device_train_batch_size": batch, "logging_steps": 1,
                "gradient_accumulation_steps": accumulation, "optim": chosen.get("optim"),
                "gradient_checkpointing": bool(chosen.get("checkpointing")),
                "eval_steps": chosen.get("evaluate", 10_000),
            },
            "sft_args": {"max_seq_length": chosen.get("length", LENGTH), "packing": chosen.get("packing"),
                         "completion_only_loss": not chosen.get("full")},
            "pinned_rows": 4 if "evaluate" in chosen else 0,
        },
        "inference": {"max_new_tokens": 32 if "evaluate" in chosen else 2},
    })  # fmt: skip
