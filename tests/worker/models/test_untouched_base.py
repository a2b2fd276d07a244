"""The base model of a run answers as it was loaded, whatever the run trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, make_run, train_here

pytestmark = pytest.mark.worker


def make_biased_model(tokenizer: Path, folder: Path) -> Path:
    """Save a random GPT-2, whose layers all have biases."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    known = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": len(known)}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=2, eos_token_id=known.eos_token_id)).save_pretrained(folder)
    known.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_base_answers_come_from_the_untouched_base(save_dir: Path, tiny_model: Path, tmp_path: Path, bias: str) -> None:
    """PEFT's disable_adapter leaves trained biases in the base."""
    from toolkit.config import Config
    from toolkit.worker.answering.greedy import generate_greedy_texts
    from toolkit.worker.models import load
    from toolkit.worker.process.stop import StopSignal
    from toolkit.worker.tokens.examples import encode_prompt

    model = make_biased_model(tiny_model, tmp_path / "gpt2")
    settings: dict[str, Any] = draft(save_dir, model, learning_rate=0.1)
    settings["lora"]["bias"] = bias
    run = make_run(settings)
    code, events = train_here(run)
    assert code == 0, events[-1]
    lines = [json.loads(line) for line in (run.evaluation_dir / "predictions.jsonl").read_text().splitlines()]
    config = Config.model_validate(settings)
    plain, tokenizer = load.load_base_model(config).eval(), load.load_tokenizer(config)
    for line in lines:
        ids = encode_prompt(config, tokenizer, line["prompt"])[1]
        (alone,) = generate_greedy_texts(plain, tokenizer, [ids], 64, StopSignal(tmp_path / "stop"))
        assert line["base"] and alone.startswith(line["base"]), line


def test_the_trained_biases_are_back_afterwards(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from toolkit.worker.models.untouched_base import keep_biases, untouched_base

    base = AutoModelForCausalLM.from_pretrained(make_biased_model(tiny_model, tmp_path / "gpt2")).eval()
    ids = torch.tensor([[5, 9, 40]])
    with torch.no_grad():
        before = base(ids).logits
        keep_biases(base)
        peft = get_peft_model(base, LoraConfig(r=2, target_modules=["c_attn"], bias="all", task_type="CAUSAL_LM"))
        for name, parameter in peft.named_parameters():
            if name.endswith("bias"):
                parameter.add_(1.0)
        trained = peft(ids).logits
        assert not torch.allclose(trained, before)
        with pytest.raises(ValueError), untouched_base(peft):
            torch.testing.assert_close(peft(ids).logits, before, rtol=0, atol=0)
            raise ValueError
        torch.testing.assert_close(peft(ids).logits, trained, rtol=0, atol=0)
