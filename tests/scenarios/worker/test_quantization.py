"""QLoRA on a CPU: every quantization setting loads, trains and answers, and an evaluation keeps gradients correct."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.config import Config

pytestmark = pytest.mark.worker

FOUR, EIGHT = {"load_in_4bit": True}, {"load_in_4bit": False, "load_in_8bit": True}
WAYS: dict[str, dict[str, Any]] = {
    "nf4 doubled": {**FOUR},
    "nf4": {**FOUR, "bnb_4bit_use_double_quant": False},
    "fp4": {**FOUR, "bnb_4bit_quant_type": "fp4"},
    "computed in fp32": {**FOUR, "bnb_4bit_compute_dtype": "float32"},
    "computed in fp16": {**FOUR, "bnb_4bit_compute_dtype": "float16"},
    "8 bits": {**EIGHT},
    "8 bits, another threshold": {**EIGHT, "llm_int8_threshold": 1.0},
    "8 bits, some modules in full": {**EIGHT, "llm_int8_skip_modules": ["q_proj"]},
    "4 bits, some modules in full": {**FOUR, "llm_int8_skip_modules": ["q_proj"]},
    "8 bits with 16-bit weights": {**EIGHT, "llm_int8_has_fp16_weight": True},
    "8 bits with offload": {**EIGHT, "llm_int8_enable_fp32_cpu_offload": True},
}


def config_for(model: Path, way: dict[str, Any]) -> Config:
    return Config.model_validate({"model": {"hf_model_ckpt": str(model), "quantize": True, "bitsandbytes": way}})


def adapted(model: Path, way: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    from toolkit.worker.models.load import load_base_model

    base = load_base_model(config_for(model, way))
    return get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))


def batch() -> Any:
    import torch

    torch.manual_seed(0)
    ids = torch.randint(5, 200, (2, 12))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def gradients(model: Any) -> Any:
    import torch

    model.train()
    model.zero_grad()
    model(**batch()).loss.backward()
    return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


def test_every_setting_of_bitsandbytes_is_tried() -> None:
    from toolkit.config import BitsAndBytesConfig

    assert {name for way in WAYS.values() for name in way} == set(BitsAndBytesConfig.model_fields)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_quantized_model_loads_trains_and_answers(tiny_model: Path, way: dict[str, Any]) -> None:
    import torch

    model = adapted(tiny_model, way)
    assert torch.isfinite(gradients(model)).all()
    assert gradients(model).abs().sum() > 0
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    made = model.generate(input_ids=batch()["input_ids"], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert made.shape[1] >= 13


@pytest.mark.parametrize("way", ["nf4 doubled", "fp4", "8 bits"])
def test_an_evaluation_keeps_the_gradients_correct(tiny_model: Path, way: str) -> None:
    """On CPUs with AVX512-BF16 the first forward pass in eval mode repacked 4-bit weights (cosine 0.2 afterwards)."""
    import torch

    model = adapted(tiny_model, WAYS[way])
    before = gradients(model)
    model.eval()
    with torch.no_grad():
        first = model(**batch()).logits
    after = gradients(model)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        again = model.eval()(**batch()).logits
    torch.testing.assert_close(again, first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("way", "kind"), [("nf4 doubled", "Linear4bit"), ("fp4", "Linear4bit"), ("8 bits", "Linear8bitLt")]
)
def test_the_weights_are_actually_quantized(tiny_model: Path, way: str, kind: str) -> None:
    from toolkit.worker.models.load import load_base_model

    model = load_base_model(config_for(tiny_model, WAYS[way]))
    kinds = [type(part).__name__ for part in model.modules()]
    assert kinds.count(kind) == 14
    assert type(model.lm_head).__name__ == "Linear"
    guarded = [part for part in model.modules() if hasattr(part, "support_avx512bf16_for_cpu")]
    assert not any(part.support_avx512bf16_for_cpu for part in guarded)
    assert len(guarded) == (14 if kind == "Linear4bit" else 0)


def test_modules_named_by_the_user_stay_unquantized(tiny_model: Path) -> None:
    from toolkit.worker.models.load import load_base_model

    model = load_base_model(config_for(tiny_model, WAYS["4 bits, some modules in full"]))
    layer = model.model.layers[0]
    assert type(layer.self_attn.q_proj).__name__ == type(model.lm_head).__name__ == "Linear"
    assert type(layer.self_attn.k_proj).__name__ == "Linear4bit"
