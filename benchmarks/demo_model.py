"""What fine-tuning does to the demo model: exact match of greedy answers before and after, on three kinds of held-out
rows.

``python -m benchmarks.demo_model --seeds 0 1 2`` prints a table and one line of JSON. Plain TRL and PEFT, nothing
of the app: a figure from here is the model's and the data's own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from random import Random

from toolkit.system.paths import ASSETS

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

from toolkit.demo_data import samples


def rows_of(sample: str, held: int) -> tuple[list[dict[str, str]], dict[str, list[dict[str, str]]]]:
    """The sample's rows as question and answer, and the further held-out sets that never go into training."""
    if sample == "orders":
        columns, rows = ("message", "answer"), samples.orders()
        extra = {
            "unseen forms": samples.orders_in_unseen_forms(held),
            "further forms": samples.orders_in_unseen_forms(held, further=True),
            "invented names": samples.orders_with_invented_names(held),
        }
    else:
        columns, rows = ("ticket", "category"), samples.tickets()
        extra = {"unseen forms": samples.tickets_in_unseen_forms(held)}
    named = lambda many: [{"q": row[columns[0]], "a": row[columns[1]]} for row in many]  # noqa: E731
    return named(rows), {name: named(many) for name, many in extra.items()}


def answers(model, tokenizer, questions: list[str]) -> list[str]:
    """Greedy answers in the chat template, in batches of similar length."""
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True)
        for q in questions
    ]
    order, found = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), {}
    model.eval()
    for begin in range(0, len(order), 50):
        part = order[begin : begin + 50]
        batch = tokenizer(
            [prompts[i] for i in part],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            out = model.generate(**batch, max_new_tokens=64, do_sample=False)[:, batch.input_ids.shape[1] :]
        found |= dict(zip(part, tokenizer.batch_decode(out, skip_special_tokens=True), strict=True))
    return [found[i] for i in range(len(prompts))]


def measure(model, tokenizer, sets: dict[str, list[dict[str, str]]], show: int) -> dict[str, float]:
    """Exact match in per cent for each set."""
    scores = {}
    for name, rows in sets.items():
        said = answers(model, tokenizer, [row["q"] for row in rows])
        wrong = [(row["q"], row["a"], text) for row, text in zip(rows, said, strict=True) if text != row["a"]]
        scores[name] = round(100 * (1 - len(wrong) / len(rows)), 1)
        for q, a, text in wrong[:show]:
            print(f"  {name}: {q!r}\n    want {a}\n    got  {text!r}", flush=True)
    return scores


def train(model, tokenizer, rows: list[dict[str, str]], seed: int, options: argparse.Namespace):
    """The fine-tuned model and the CPU seconds that training took."""
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["q"]}],
                "completion": [{"role": "assistant", "content": row["a"]}],
            }
            for row in rows
        ]
    )
    arguments = SFTConfig(
        output_dir="/tmp/demo-model-benchmark",
        report_to="none",
        use_cpu=True,
        bf16=False,
        seed=seed,
        max_length=256,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch,
        learning_rate=options.rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.0,
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        activation_checkpointing=False,
    )
    lora = LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=lora)
    trainer.remove_callback(PrinterCallback)
    began = time.process_time()
    trainer.train()
    return trainer.model, time.process_time() - began


def one_seed(seed: int, options: argparse.Namespace) -> dict[str, object]:
    """Split, measure, train, measure."""
    rows, sets = rows_of(options.sample, options.held)
    Random(seed).shuffle(rows)
    cut = int(0.8 * len(rows))
    sets = {"random split": rows[cut:]} | sets
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    before = measure(model, tokenizer, sets, options.show)
    model, seconds = train(model, tokenizer, rows[: min(cut, options.rows)], seed, options)
    return {
        "seed": seed,
        "rows": min(cut, options.rows),
        "train_cpu_s": round(seconds, 1),
        "before": before,
        "after": measure(model, tokenizer, sets, options.show),
    }


def main() -> None:
    """Read the command line and print the table and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(ASSETS / "demo-model"))
    parser.add_argument("--sample", choices=("orders", "tickets"), default="orders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=10_000, help="at most so many training rows")
    parser.add_argument("--held", type=int, default=200, help="rows in each further held-out set")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print for each set")
    options = parser.parse_args()
    disable_progress_bars()
    torch.set_num_threads(1)
    results = [one_seed(seed, options) for seed in options.seeds]
    print(f"{'seed':>4} {'train s':>8}  " + "  ".join(f"{name:>22}" for name in results[0]["before"]))
    for result in results:
        pairs = (f"{result['before'][name]} -> {after} %" for name, after in result["after"].items())
        print(f"{result['seed']:>4} {result['train_cpu_s']:>8}  " + "  ".join(f"{pair:>22}" for pair in pairs))
    print(json.dumps({"settings": vars(options), "results": results}))


if __name__ == "__main__":
    main()
