"""What a foreign adapter or generation config may change: the adapter's own weights, and special tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import EngineError, ToolkitError

pytestmark = pytest.mark.worker

PREFIX = "base_model.model.model.layers.0"
FOREIGN_KEYS = (
    "base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight",
    "base_model.model.model.norm.weight", f"{PREFIX}.input_layernorm.weight",
    f"{PREFIX}.self_attn.q_proj.base_layer.weight",
    f"{PREFIX}.self_attn.q_proj.weight",
    f"{PREFIX}.self_attn.k_proj.lora_A.weight", f"{PREFIX}.self_attn.q_proj.bias",
    f"{PREFIX}.self_attn.q_proj.lora_C.weight",
    f"{PREFIX}.self_attn.q_proj.lora_B.bias", f"{PREFIX}.self_attn.q_proj.lora_magnitude_vector", "lm_head.weight",
    f"{PREFIX}.self_attn.xq_proj.lora_A.weight", f"{PREFIX}.self_attn.q_proj.lora_A.other.weight",
    "model.layers.0.self_attn.q_proj.lora_A.weight", f"{PREFIX}.self_attn.q_proj.base_layer.bias",
)  # fmt: skip


@pytest.mark.parametrize("key", FOREIGN_KEYS)
def test_a_key_that_is_not_the_adapters_own_is_refused(key: str) -> None:
    from toolkit.worker.models.adapter_settings import AdapterFile, check_adapter_keys

    chosen = AdapterFile(peft_type="LORA", r=4, lora_alpha=8, target_modules=["q_proj"])
    own = [f"{PREFIX}.self_attn.q_proj.lora_{side}.weight" for side in "AB"]
    check_adapter_keys(chosen, own)
    with pytest.raises(EngineError, match=re.escape(key)):
        check_adapter_keys(chosen, [*own, key])


SLOW = "([a-z._]|[a-z._0-9])*!"
"""A pattern that takes for ever to find that it does not match the name of a module."""


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": [SLOW]},
        {"modules_to_save": ["("]},
        {"layers_pattern": SLOW},
        {"layers_pattern": ["(.*)*x"]},
        {"rank_pattern": {SLOW: 4}},
        {"rank_pattern": {"x\\": 4}},
        {"alpha_pattern": {"(a+)+": 4}},
        {"target_modules": ["a{1,9}{1,9}"]},
        {"exclude_modules": ["[a-z]+"]},
        {"target_parameters": ["a|b"]},
        {"trainable_token_indices": {"(": [1]}},
    ],
)
def test_a_name_that_is_a_pattern_is_refused(settings: dict[str, Any]) -> None:
    from pydantic import ValidationError

    from toolkit.worker.models.adapter_settings import AdapterFile

    plain: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    with pytest.raises(ValidationError, match="pattern"):
        AdapterFile(**{**plain, **settings})
    names = {r"^model\.layers\.0\.mlp.up_proj$": 2, "model.layers.0-1.q_proj": 4, ".q_proj": 1, r".*\.gate_up_proj": 8}
    assert AdapterFile(**plain, rank_pattern=names, modules_to_save=["model.norm"]).rank_pattern == names


SAVED_BY_PEFT: tuple[dict[str, Any], ...] = (
    {}, {"target_modules": "all-linear"}, {"layers_to_transform": [1]}, {"bias": "all"}, {"bias": "lora_only"},
    {"target_modules": ["q_proj", "embed_tokens"]}, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]},
    {"modules_to_save": ["mlp"], "bias": "all"},
    {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, {"modules_to_save": ["model.norm"]},
    {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    {"use_dora": True}, {"use_rslora": True}, {"exclude_modules": ["model.layers.0.self_attn.q_proj"]},
    {"modules_to_save": ["mlp"], "target_modules": ["q_proj", "up_proj"]},
    {"trainable_token_indices": [1, 7]}, {"trainable_token_indices": {"embed_tokens": [3, 2], "lm_head": [3, 2]}},
)  # fmt: skip


def small_base(*, tied: bool) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "attention_bias": True}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied)).eval()


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([[1, 2, 3]])).logits.clone()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("settings", SAVED_BY_PEFT, ids=str)
def test_what_peft_saves_is_the_adapters_own_and_answers_as_in_peft(
    tmp_path: Path, settings: dict[str, Any], tied: bool
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from toolkit.runs.model_names import BASE
    from toolkit.worker.models.adapter_files import read_adapter
    from toolkit.worker.models.adapter_switch import AdapterSwitch, load_trained_adapter

    trained = get_peft_model(small_base(tied=tied), LoraConfig(r=2, **{"target_modules": ["q_proj"], **settings}))
    for parameter in trained.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    trained.eval().save_pretrained(tmp_path)
    adapters = AdapterSwitch(small_base(tied=tied))
    plain = logits(adapters.model)
    adapters.attach("one", *read_adapter(tmp_path))
    adapters.select("one")
    assert torch.allclose(logits(adapters.model), logits(trained), atol=1e-4)
    adapters.select(BASE)
    assert torch.equal(logits(adapters.model), plain)
    assert torch.allclose(logits(load_trained_adapter(small_base(tied=tied), tmp_path)), logits(trained), atol=1e-4)


def test_changed_embeddings_of_one_adapter_stay_its_own(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from toolkit.runs.model_names import BASE
    from toolkit.worker.models.adapter_files import read_adapter
    from toolkit.worker.models.adapter_switch import AdapterSwitch

    trained = get_peft_model(small_base(tied=False), LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"])).eval()
    with torch.no_grad():
        trained.get_input_embeddings().base_layer.weight.mul_(-2)
    trained.save_pretrained(tmp_path)
    adapters = AdapterSwitch(small_base(tied=False))
    plain = logits(adapters.model)
    adapters.attach("one", *read_adapter(tmp_path))
    assert torch.equal(logits(adapters.model), plain)
    adapters.select("one")
    assert torch.allclose(logits(adapters.model), logits(trained), atol=1e-4)
    adapters.select(BASE)
    assert torch.equal(logits(adapters.model), plain)


def test_keys_that_the_config_does_not_name_are_foreign_with_every_setting() -> None:
    from toolkit.worker.models.adapter_settings import ROWS_MARK, AdapterFile, check_adapter_keys

    def named(**more: Any) -> AdapterFile:
        return AdapterFile(peft_type="LORA", r=4, lora_alpha=8, **{"target_modules": ["q_proj"], **more})

    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"bias": "lora_only"}, f"{PREFIX}.mlp.up_proj.bias"),
        ({"bias": "all"}, f"{PREFIX}.mlp.up_proj.weight"),
        ({"bias": "all"}, "base_model.model.model.norm.original_module.bias"),
        ({"modules_to_save": ["norm"]}, "base_model.model.model.norm.original_module.weight"),
        ({"modules_to_save": ["norm"]}, "base_model.model.model.norm.modules_to_save.other.weight"),
        ({"modules_to_save": ["norm"]}, "base_model.model.lm_head.weight"),
        ({"target_modules": ["embed_tokens"]}, "base_model.model.lm_head.base_layer.weight"),
        ({"target_modules": ["embed_tokens"]}, "base_model.model.model.embed_tokens.weight"),
        ({"ensure_weight_tying": True}, "base_model.model.lm_head.weight"),
        ({}, f"base_model.model.model.embed_tokens{ROWS_MARK}"),
        ({"trainable_token_indices": {"lm_head": [1]}}, f"base_model.model.model.embed_tokens{ROWS_MARK}"),
    )
    for settings, key in cases:
        with pytest.raises(EngineError, match=re.escape(key)):
            check_adapter_keys(named(**settings), [key])


def test_a_generation_config_sets_special_tokens_only(tmp_path: Path) -> None:
    from tests.fakes.engine_runs import make_config
    from toolkit.worker.models.load import load_base_model

    folder = tmp_path / "model"
    small_base(tied=True).save_pretrained(folder)
    steering = {"repetition_penalty": 9.0, "suppress_tokens": [3], "num_beams": 4, "max_time": 0.01, "do_sample": True,
                "forced_eos_token_id": 7, "prompt_lookup_num_tokens": 3}  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6], **steering}))
    kept = load_base_model(make_config(tmp_path, folder)).generation_config.to_diff_dict()
    assert kept.pop("eos_token_id") == [5, 6]
    assert not kept.keys() & steering.keys()


@pytest.mark.parametrize("value", ["5", -1, 2**40, [5, "x"], {"a": 1}, 1.5, True])
def test_a_special_token_that_is_no_token_id_is_explained(tmp_path: Path, value: object) -> None:
    from tests.fakes.engine_runs import make_config
    from toolkit.worker.models.load import load_base_model

    folder = tmp_path / "model"
    small_base(tied=True).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ToolkitError) as refused:
        load_base_model(make_config(tmp_path, folder))
    assert refused.value.hint


@pytest.mark.parametrize("key", ["base_model.model.lm_head.weight", "base_model.model.model.norm.weight"])
def test_an_adapter_with_a_weight_of_the_base_is_neither_attached_nor_merged(tmp_path: Path, key: str) -> None:
    import torch
    from safetensors.torch import save_file

    from toolkit.worker.models.adapter_files import read_adapter
    from toolkit.worker.models.adapter_switch import load_trained_adapter

    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    own = {f"{PREFIX}.self_attn.q_proj.lora_{side}.weight": torch.zeros(2, 2) for side in "AB"}
    save_file({**own, key: torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    for read in (read_adapter, lambda folder: load_trained_adapter(None, folder)):  # type: ignore[arg-type]
        with pytest.raises(EngineError, match=re.escape(key)):
            read(tmp_path)


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
@pytest.mark.parametrize("shape", [None, (3, 16), (16, 3), (1,)])
def test_a_missing_or_misshapen_weight_is_neither_attached_nor_merged(tmp_path: Path, part: str, shape: Any) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    from toolkit.worker.models.adapter_files import read_adapter
    from toolkit.worker.models.adapter_switch import AdapterSwitch, load_trained_adapter

    trained = get_peft_model(small_base(tied=False), LoraConfig(r=2, target_modules=["q_proj"]))
    trained.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    key = f"{PREFIX}.self_attn.q_proj.{part}.weight"
    del weights[key]
    save_file(
        {**weights, **({} if shape is None else {key: torch.zeros(shape)})}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(EngineError, match="does not fit this base model"):
        AdapterSwitch(small_base(tied=False)).attach("one", *read_adapter(tmp_path))
    with pytest.raises(EngineError, match="does not fit this base model"):
        load_trained_adapter(small_base(tied=False), tmp_path)
