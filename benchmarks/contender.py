"""One contender of `train_throughput.py`, in a process of its own: trains, and prints one JSON line of figures.

    python -m benchmarks.contender NAME FOLDER KIND PRECISION ROWS THREADS [ADAPTER]

Names: ours, trl, hand, llamafactory, llamafactory-best, and evaluate for an ADAPTER that is there already. Timed is
the training alone, after imports, model and data.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

RANK, ALPHA, BATCH, RATE, LENGTH, HELD_OUT = 16, 32, 8, 1e-3, 1024, 64


class Clock:
    """CPU and wall seconds between start and stop."""

    def start(self) -> None:
        self.cpu, self.wall = time.process_time(), time.monotonic()

    def stop(self) -> None:
        self.cpu, self.wall = time.process_time() - self.cpu, time.monotonic() - self.wall


def raw_rows(folder: Path, kind: str, count: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    lines = [json.loads(line) for line in (folder / f"{kind}.jsonl").read_text().splitlines()]
    return lines[:count], lines[-HELD_OUT:]


def prepared(folder: Path, rows: list[dict[str, str]]) -> Any:
    from toolkit.config import Config
    from toolkit.data.examples.templates import Example
    from toolkit.worker.models import load
    from toolkit.worker.tokens.labels import prepare_examples

    config = Config.model_validate({"model": {"hf_model_ckpt": str(folder / "model")}})
    tokenizer = load.load_tokenizer(config)
    return tokenizer, prepare_examples(
        [Example(row["instruction"], row["output"]) for row in rows], tokenizer, LENGTH, chat=True
    )


def ours(folder: Path, train: list[dict[str, str]], bf16: bool, clock: Clock) -> Any:
    from datasets import Dataset
    from trl import SFTConfig

    from toolkit.config import Config
    from toolkit.worker.models import library_arguments, load
    from toolkit.worker.models.lora_setup import build_lora_config
    from toolkit.worker.training.trainer import PreparedTrainer

    args = {"bf16": bf16, "num_train_epochs": 1, "learning_rate": RATE, "per_device_train_batch_size": BATCH,
            "lr_scheduler_type": "linear", "warmup_ratio": 0.0}  # fmt: skip
    config = Config.model_validate({
        "model": {"hf_model_ckpt": str(folder / "model")}, "lora": {"r": RANK, "lora_alpha": ALPHA},
        "training": {"training_args": args, "sft_args": {"max_seq_length": LENGTH}},
    })  # fmt: skip
    tokenizer, rows = prepared(folder, train)
    base = load.load_base_model(config)
    arguments = {
        **library_arguments.sft_args(config, library_arguments.ComputeDevice(), str(folder / "out")),
        "eval_strategy": "no",
    }
    trainer = PreparedTrainer(
        model=base, args=SFTConfig(**arguments), train_dataset=Dataset(rows.table), processing_class=tokenizer,
        peft_config=build_lora_config(config, base),
    )  # fmt: skip
    return timed(trainer, clock)


def trl(folder: Path, train: list[dict[str, str]], bf16: bool, clock: Clock) -> Any:
    """The script that everyone writes."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([
        {"prompt": [{"role": "user", "content": row["instruction"]}],
         "completion": [{"role": "assistant", "content": row["output"]}]} for row in train
    ])  # fmt: skip
    trainer = SFTTrainer(
        model=str(folder / "model"),
        args=SFTConfig(
            output_dir=str(folder / "out"), num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=RATE,
            max_length=LENGTH, bf16=bf16, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
            logging_steps=1,  # the last step's loss is compared
        ),
        train_dataset=data,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    return timed(trainer, clock)


def timed(trainer: Any, clock: Clock) -> tuple[Any, float]:
    """(the trained model, the last step's loss)"""
    clock.start()
    trainer.train()
    clock.stop()
    return trainer.model, next(row["loss"] for row in reversed(trainer.state.log_history) if "loss" in row)


def llamafactory(folder: Path, kind: str, bf16: bool, best: bool, clock: Clock) -> tuple[Path, float]:
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            clock.stop()

    out = folder / f"lf-{kind}-{'bf16' if bf16 else 'fp32'}-{'best' if best else 'plain'}"
    shutil.rmtree(out, ignore_errors=True)  # it would go on from an earlier one, which is over
    run_exp({
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "model_name_or_path": str(folder / "model"),
        "dataset_dir": str(folder), "dataset": f"{kind}-train", "template": "chatml", "cutoff_len": LENGTH,
        "output_dir": str(out), "overwrite_cache": True, "per_device_train_batch_size": 1 if best else BATCH,
        "learning_rate": RATE, "num_train_epochs": 1, "lora_rank": RANK, "lora_alpha": ALPHA, "lora_target": "all",
        "lr_scheduler_type": "linear", "bf16": bf16, "use_cpu": True, "report_to": "none", "save_strategy": "steps",
        "save_steps": 10_000, "logging_steps": 1, "plot_loss": False,
        **({"neat_packing": True, "packing": True, "disable_gradient_checkpointing": True} if best else {}),
    }, callbacks=[Watch()])  # fmt: skip
    log = [json.loads(line) for line in (out / "trainer_log.jsonl").read_text().splitlines()]
    return out, next(row["loss"] for row in reversed(log) if "loss" in row)


def held_out_loss(folder: Path, adapter: Any, rows: list[dict[str, str]]) -> float:
    """Mean over the completion's tokens, by transformers in fp32."""
    import torch.nn.functional as F
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if isinstance(adapter, Path):
        adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "model"), adapter)
    model = adapter.float().eval()
    total = count = 0.0
    for row in prepared(folder, rows)[1].table.to_pylist():
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].float()
        total += float(F.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    return total / count


def peak_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    name, folder, kind, precision = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    count, threads = int(sys.argv[5]), int(sys.argv[6])
    torch.set_num_threads(threads)
    train, held_out = raw_rows(folder, kind, count)
    clock, bf16 = Clock(), precision == "bf16"
    found: dict[str, Any] = {}
    if name == "evaluate":  # an adapter that another environment made
        found["held_out"] = held_out_loss(folder, Path(sys.argv[7]), held_out)
        print(json.dumps(found))
        return
    if name == "hand":
        from benchmarks.hand_loop import HandLlama, pad
        from benchmarks.hand_loop import train as train_by_hand

        rows = prepared(folder, train)[1].table.to_pylist()
        model = HandLlama(folder / "model", torch.bfloat16 if bf16 else torch.float32, RANK, ALPHA)
        clock.start()
        found["loss"] = train_by_hand(model, rows, BATCH, RATE, 1)
        clock.stop()
        found["peak_bytes"] = peak_bytes()
        with torch.no_grad():
            sums = [model.loss(*pad([row])) for row in prepared(folder, held_out)[1].table.to_pylist()]
        found["held_out"] = float(sum(total for total, _ in sums)) / sum(scored for _, scored in sums)
    elif name.startswith("llamafactory"):
        out, found["loss"] = llamafactory(folder, kind, bf16, name.endswith("best"), clock)
        found["peak_bytes"], found["adapter"] = peak_bytes(), str(out)
    else:
        adapter, found["loss"] = (ours if name == "ours" else trl)(folder, train, bf16, clock)
        found["peak_bytes"] = peak_bytes()
        found["held_out"] = held_out_loss(folder, adapter, held_out)
    print(json.dumps({"name": name, "cpu_s": clock.cpu, "wall_s": clock.wall, **found}))


if __name__ == "__main__":
    main()
