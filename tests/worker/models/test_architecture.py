"""Models that can't be trained are refused before anything is loaded, with the reason and a way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import make_table, rows
from toolkit.config import Config
from toolkit.errors import ConfigError, ToolkitError

pytestmark = pytest.mark.worker


def with_config(model: Path, target: Path, settings: dict[str, Any]) -> Path:
    shutil.copytree(model, target)
    (target / "config.json").write_text(json.dumps(settings))
    return target


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "is an encoder model (bert)"),
        ({"model_type": "xlm-roberta", "is_decoder": False}, "is an encoder model (xlm-roberta)"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "encoder-decoder model (t5)"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "encoder-decoder model (bart)"),
        ({"model_type": "qwen2_vl"}, "is a vision-language model (qwen2_vl)"),
        ({"model_type": "clip"}, "no head for text generation: transformers has none for 'clip' models"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "config.json names Llama"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForProcessRewardModel"]}, "config.json names Qwen2"),
    ],
)  # fmt: skip
def test_other_architectures_are_refused_before_start(
    tiny_model: Path, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    from toolkit.worker.models.folder import check_model_folder, resolve_model_folder
    from toolkit.worker.questions.dataset_subject import open_tokenized_dataset

    folder = with_config(tiny_model, tmp_path / "model", settings)
    body = {"config": {"model": {"hf_model_ckpt": str(folder)}, "data": {"prompt": "{question}"}}}
    table = make_table(tmp_path / "t.parquet", rows(4))
    for check in (
        lambda: resolve_model_folder(Config.model_validate(body["config"])),
        lambda: check_model_folder(folder, weights=False),
        lambda: open_tokenized_dataset({**body, "table": str(table.path)}, lambda phase: None),
    ):
        with pytest.raises(ToolkitError) as caught:
            check()
        assert says in caught.value.message and "causal language model" in caught.value.hint


def refuse_folder(folder: Path) -> str:
    """Return what is said before Start about a model, and "" if nothing is."""
    from toolkit.worker.questions.dataset_subject import tokenizer_folder

    try:
        tokenizer_folder(Config.model_validate({"model": {"hf_model_ckpt": str(folder)}}), lambda phase, **_: None)
    except ToolkitError as error:
        return f"{error.message} {error.hint}"
    return ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantized with gptq"),
        ({"quant_method": "awq", "bits": 4}, "quantized with awq"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "quantized with compressed-tensors"),
        ({"quant_method": "hqq"}, "in 16 or 32 bits, and turn on quantization (QLoRA)"),
        ([4], "quantized with unknown"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ""), ({"load_in_8bit": True}, ""),
        ({"quant_method": "mxfp4"}, ""), (None, ""), ({}, ""),
    ],
)  # fmt: skip
def test_weights_that_are_quantized_in_another_way_are_refused(
    tiny_model: Path, tmp_path: Path, changes: Any, says: str
) -> None:
    settings = json.loads((tiny_model / "config.json").read_text())
    said = refuse_folder(with_config(tiny_model, tmp_path / "one", {**settings, "quantization_config": changes}))
    assert says in said and bool(says) is bool(said)
    inner = {"model_type": "gemma3", "text_config": {"quantization_config": changes}}
    said = refuse_folder(with_config(tiny_model, tmp_path / "two", inner))
    assert says in said and bool(says) is bool(said)


def test_a_model_that_was_saved_without_its_head_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from tests.worker.models.test_merge import changed, tied

    def without_head(weights: dict[str, Any]) -> None:
        weights.pop("lm_head.weight")

    headless = changed(tiny_model, tmp_path / "headless", without_head, architectures=["LlamaModel"])
    assert "no head for text generation: it was saved as LlamaModel" in refuse_folder(headless)
    assert (
        refuse_folder(changed(tiny_model, tmp_path / "whole", lambda weights: None, architectures=["LlamaModel"])) == ""
    )
    shared = tied(tiny_model, tmp_path / "tied")
    settings = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps({**settings, "architectures": ["LlamaModel"]}))
    assert refuse_folder(shared) == ""
    (headless / "model.safetensors").write_bytes(b"\0" * 40)
    assert "model.safetensors of the model can't be read" in refuse_folder(headless)


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, {"model_type": "gpt2"},
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        {"model_type": "bert", "is_decoder": True, "architectures": ["BertLMHeadModel"]}, {"model_type": "mamba"},
        {"model_type": "of-another-planet"}, {},
    ],
)  # fmt: skip
def test_decoders_are_accepted(settings: dict[str, Any]) -> None:
    from toolkit.worker.models.architecture import refuse_other_architectures

    assert refuse_other_architectures("it", settings) is None  # and raises nothing


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba", "mamba2", "falcon_h1", "nemotron_h"])
@pytest.mark.parametrize("targets", [["all-linear"], None, ["in_proj", "out_proj"], ["backbone.conv1d"]])
def test_modules_of_mamba_layers_are_refused_and_others_suggested(kind: str, targets: list[str] | None) -> None:
    from toolkit.worker.models.architecture import check_lora_targets

    config = Config.model_validate({"lora": {"target_modules": targets}})
    with pytest.raises(ConfigError) as caught:
        check_lora_targets(config, {"model_type": kind})
    (problem,) = caught.value.problems
    assert problem.path == "lora.target_modules" and "Set target_modules to in_proj" in problem.hint
    check_lora_targets(Config.model_validate({"lora": {"target_modules": ["in_proj"]}}), {"model_type": kind})
    check_lora_targets(config, {"model_type": "llama"})


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_the_suggested_modules_can_be_adapted(kind: str) -> None:
    """What PEFT refuses and accepts, on a model of that kind."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from toolkit.worker.models.architecture import MAMBA_TARGETS

    sizes = {"vocab_size": 64, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
    more = {"head_dim": 8, "num_heads": 8, "n_groups": 1} if kind == "mamba2" else {}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more))
    with pytest.raises(ValueError, match="incompatible with Mamba"):
        get_peft_model(model, LoraConfig(target_modules=["out_proj"]))
    adapted = get_peft_model(model, LoraConfig(target_modules=list(MAMBA_TARGETS[kind])))
    assert adapted.get_nb_trainable_parameters()[0] > 0


def test_the_question_before_start_has_modules_and_tokens(tiny_model: Path, tmp_path: Path) -> None:
    from toolkit.services.token_question import token_question_body
    from toolkit.worker.questions.dataset_subject import open_tokenized_dataset

    settings = json.loads((tiny_model / "config.json").read_text())
    mamba = with_config(tiny_model, tmp_path / "mamba", {**settings, "model_type": "mamba"})
    table = make_table(tmp_path / "t.parquet", rows(4))
    for model, lora, says in (
        (mamba, {}, "whose out_proj and conv1d can't have an adapter"),
        (mamba, {"target_modules": ["in_proj"]}, ""),
        (tiny_model, {"trainable_token_indices": [10**6]}, "there is no token 1000000"),
    ):
        data = {"prompt": "{question}", "prompt_stub": "{answer}"}
        body = token_question_body({"model": {"hf_model_ckpt": str(model)}, "data": data, "lora": lora}, table)
        if says:
            with pytest.raises(ConfigError, match=says):
                open_tokenized_dataset(body, lambda phase: None)
        else:
            assert open_tokenized_dataset(body, lambda phase: None).table.rows == 4
