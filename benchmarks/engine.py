"""Time to first token and tokens per second of the engine over HTTP, against a bare `model.generate` loop.

    python -m benchmarks.engine [--model demo|wide] [--rounds 9] [--tokens 128] [--json engine.json]

The engine runs as its own process, as in the product, and is asked through the product's client with streaming. The
bare loop runs here on the same base with the same adapter merged and unloaded: no server, no streaming, no adapter
layers. Both are asked the same prompt greedily, in turns, so that whatever else the machine does falls on both.
`demo` has the shape of the bundled model (the server's share is largest there), `wide` has ten million parameters.
Weights are random: an answer never ends early.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from tests.fakes.engine_runs import finished_run
from toolkit.config import InferenceConfig
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.services import engine_client
from toolkit.services.engine_http import Done
from toolkit.services.engine_process import EngineInfo
from toolkit.services.engine_requests import stream_completion
from toolkit.system.paths import ASSETS
from toolkit.worker.models.load import load_base_model, load_tokenizer, quiet_libraries

DEMO = ASSETS / "demo-model"
SHAPES = {
    "demo": json.loads((DEMO / "config.json").read_text()),
    "wide": {
        "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 2, "tie_word_embeddings": False,
    },
}  # fmt: skip
WORDS = "please send twelve blue lamps to the old house near the river before friday "


def build_model(shape: str, folder: Path) -> Path:
    torch.manual_seed(7)
    keep = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "vocab_size", "tie_word_embeddings", "eos_token_id", "bos_token_id", "pad_token_id")  # fmt: skip
    known = {**SHAPES["demo"], **SHAPES[shape]}
    config = LlamaConfig(**{name: known[name] for name in keep if name in known}, max_position_embeddings=4096)
    LlamaForCausalLM(config).save_pretrained(folder)
    for path in DEMO.glob("*token*"):
        shutil.copy(path, folder)
    for path in DEMO.glob("*.jinja"):
        shutil.copy(path, folder)
    return folder


class Bare:
    """What the engine is measured against."""

    def __init__(self, run: RunDir) -> None:
        quiet_libraries()
        config = read_run_config(run)
        self.tokenizer = load_tokenizer(config)
        adapted = PeftModel.from_pretrained(load_base_model(config), str(run.adapter_dir))
        self.model = adapted.merge_and_unload().eval()

    def ask(self, prompt: str, tokens: int) -> tuple[str, int, float]:
        """(text, tokens, seconds)"""
        began = time.perf_counter()
        ids = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        made = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )[0, ids.shape[1] :]  # fmt: skip
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        return text, len(made), time.perf_counter() - began


def ask_engine(info: EngineInfo, run_id: str, prompt: str, tokens: int) -> tuple[Done, float, float]:
    """(end, seconds to the first piece, seconds of all), as the page would see them."""
    began, first = time.perf_counter(), 0.0
    for event in stream_completion(info, run_id, prompt, InferenceConfig(max_new_tokens=tokens)):
        first = first or time.perf_counter() - began
        if isinstance(event, Done):
            return event, first, time.perf_counter() - began
    raise SystemExit("the engine gave no answer")


def measure(shape: str, rounds: int, tokens: int, place: Path) -> dict[str, object]:
    run = finished_run(place / "save", build_model(shape, place / "model"))
    bare = Bare(run)
    info = engine_client.start_engine(place / "save", run.id)
    try:
        engine_client.wait_for_engine(info)
        prompt = engine_client.render_engine_prompt(info, run.id, [{"role": "user", "content": WORDS * 6}]).prompt
        totals: dict[str, list[float]] = {"engine": [], "bare": [], "engine_first": [], "bare_first": [], "decode": [],
                                          "first_token": []}  # fmt: skip
        for turn in range(rounds + 2):
            text, count, bare_seconds = bare.ask(prompt, tokens)
            bare_first = bare.ask(prompt, 1)[2]
            done, first, seconds = ask_engine(info, run.id, prompt, tokens)
            if (done.text, done.completion_tokens) != (text, count) or count != tokens:
                raise SystemExit(f"the answers differ: {count} and {done.completion_tokens} tokens")
            if turn >= 2:  # the first two warm up
                for name, value in zip(totals, (tokens / seconds, tokens / bare_seconds, first, bare_first,
                                                done.tokens_per_second, done.ttft_s), strict=True):  # fmt: skip
                    totals[name].append(value)
        return _summary(shape, rounds, tokens, done.prompt_tokens, totals)
    finally:
        engine_client.stop_engine(info)


def _summary(
    shape: str, rounds: int, tokens: int, prompt_tokens: int, totals: dict[str, list[float]]
) -> dict[str, object]:
    ratios = [e / b for e, b in zip(totals["engine"], totals["bare"], strict=True)]
    return {
        "model": shape,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "rounds": rounds,
        "prompt_tokens": prompt_tokens,
        "new_tokens": tokens,
        "engine_tokens_per_second": statistics.median(totals["engine"]),
        "bare_tokens_per_second": statistics.median(totals["bare"]),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "engine_decode_tokens_per_second": statistics.median(totals["decode"]),
        "engine_ttft_ms": 1000 * statistics.median(totals["first_token"]),
        "engine_first_text_at_client_ms": 1000 * statistics.median(totals["engine_first"]),
        "bare_ttft_ms": 1000 * statistics.median(totals["bare_first"]),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", choices=sorted(SHAPES), default="demo")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--tokens", type=int, default=128)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = measure(chosen.model, chosen.rounds, chosen.tokens, Path(place))
    for name, value in found.items():
        print(f"{name:34} {value:10.3f}" if isinstance(value, float) else f"{name:34} {value}")
    print(json.dumps(found))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
