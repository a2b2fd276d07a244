"""Shapes and adapter sizes against the libraries' own counts, and what autograd holds against the formula."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from toolkit.config import Config, LoraConfig
from toolkit.errors import ToolkitError
from toolkit.forecast.costs.adapter_size import compute_adapter_size
from toolkit.forecast.costs.memory import BatchWorkload, _layer_activation_bytes, forecast_memory
from toolkit.forecast.costs.model_shape import read_model_shape

SMALL = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "tie_word_embeddings": False},
    "mistral": {**SMALL, "tie_word_embeddings": False},
    "qwen2": {**SMALL, "tie_word_embeddings": True},
    "qwen3": {**SMALL, "head_dim": 32, "tie_word_embeddings": False},
    "gemma": {**SMALL, "head_dim": 24},
    "gemma2": {**SMALL, "head_dim": 16},
    "smollm3": {**SMALL, "tie_word_embeddings": True, "pad_token_id": 0},
    "granite": {**SMALL, "tie_word_embeddings": False},
    "phi3": {**SMALL, "tie_word_embeddings": False, "pad_token_id": 0},
    "gpt2": {"vocab_size": 320, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "gpt_neox": {**SMALL, "tie_word_embeddings": False},
    "opt": {"vocab_size": 320, "hidden_size": 64, "ffn_dim": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
            "word_embed_proj_dim": 64, "max_position_embeddings": 128},
}  # fmt: skip
ADAPTERS: tuple[dict[str, Any], ...] = (
    {"target_modules": ["all-linear"]},
    {"target_modules": ["all-linear"], "bias": "lora_only"},
    {"target_modules": None, "r": 4},
    {"target_modules": ["all-linear"], "trainable_token_indices": [3, 319, 3]},
    {"target_modules": ["all-linear"], "use_dora": True, "exclude_modules": ["down_proj", "fc_out"]},
)


@pytest.mark.worker
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_parameters_are_the_library_s(kind: str) -> None:
    import torch
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    from transformers import AutoConfig, AutoModelForCausalLM

    from toolkit.worker.models.library_arguments import lora_args

    config = AutoConfig.for_model(kind, **CONFIGS[kind])
    shape = read_model_shape({"model_type": kind, **CONFIGS[kind]})
    for settings in ADAPTERS:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        assert shape.parameters == model.num_parameters()
        chosen = LoraConfig.model_validate(settings)
        if chosen.target_modules is None and kind not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
            continue
        adapted = get_peft_model(model, PeftConfig(**lora_args(Config(lora=chosen))))
        assert compute_adapter_size(chosen, shape).parameters == adapted.get_nb_trainable_parameters()[0], settings


@pytest.mark.worker
@pytest.mark.parametrize("bf16", [False, True])
def test_what_a_layer_keeps_is_what_autograd_holds(bf16: bool) -> None:
    import torch
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from toolkit.worker.compute.attention import use_padding_free_attention
    from toolkit.worker.compute.fused_layers import fuse_layers
    from toolkit.worker.compute.fused_lora import fuse_lora_layers
    from toolkit.worker.compute.padding_free import remove_padding

    rows, tokens = 2, 48
    ids = torch.randint(0, 320, (rows, tokens), generator=torch.Generator().manual_seed(0))
    row = remove_padding({"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)})
    del row["labels"]

    def held(layers: int) -> int:
        config = LlamaConfig(**{**SMALL, "num_hidden_layers": layers}, tie_word_embeddings=True)
        base = LlamaForCausalLM(config).to(torch.bfloat16 if bf16 else torch.float32)
        model = get_peft_model(base, PeftConfig(r=4, target_modules="all-linear")).train()
        fuse_lora_layers(model)
        fuse_layers(model)
        use_padding_free_attention(model.get_base_model())
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: dict[int, Any] = {}

        def keep(tensor: Any) -> Any:
            if tensor.untyped_storage().data_ptr() not in weights:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        context = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), context:
            model.base_model.model.model(**row, use_cache=False)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    shape = read_model_shape({"model_type": "llama", **SMALL})
    load = BatchWorkload(rows, tokens, rows * tokens, 10, "bf16" if bf16 else "fp32")
    predicted = _layer_activation_bytes(shape, compute_adapter_size(LoraConfig(r=4), shape), load)
    assert predicted == pytest.approx((held(4) - held(2)) / 2 / (rows * tokens), rel=0.01)


def test_a_kind_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(ToolkitError, match="mamba"):
        read_model_shape({"model_type": "mamba", "hidden_size": 64})
    with pytest.raises(ToolkitError, match="num_attention_heads"):
        read_model_shape(
            {
                "model_type": "llama",
                "hidden_size": 64,
                "intermediate_size": 4,
                "num_key_value_heads": 1,
                "num_hidden_layers": 1,
            }
        )


def test_llama_8b_is_the_size_that_its_name_says() -> None:
    shape = read_model_shape(
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "tie_word_embeddings": False,
        }
    )
    assert shape.parameters == 8_030_261_248
    assert compute_adapter_size(LoraConfig(r=16, target_modules=["all-linear"]), shape).parameters == 41_943_040


def test_trained_tokens_take_a_copy_of_the_embeddings_in_each_step() -> None:
    plain, tokens = LoraConfig(), LoraConfig(trainable_token_indices=[3])
    for kind, copies in (("mistral", 1), ("qwen2", 2)):
        shape = read_model_shape({"model_type": kind, **CONFIGS[kind]})
        load = BatchWorkload(rows=1, longest=8, tokens=8, scored=8)
        one, more = (forecast_memory(shape, compute_adapter_size(lora, shape), load) for lora in (plain, tokens))
        assert more.activations - one.activations == 4 * copies * shape.embedding
