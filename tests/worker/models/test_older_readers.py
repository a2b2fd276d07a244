"""Files of an export can be read by transformers 4 as well as by the installed version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.worker
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def written_config(config: Any, folder: Path) -> dict[str, Any]:
    from toolkit.worker.models.older_readers import write_both_config_forms

    config.save_pretrained(folder)
    write_both_config_forms(folder)
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def read_as_version_4(content: dict[str, Any], theta: str = "rope_theta") -> tuple[Any, Any]:
    """Return base frequency and scaling as transformers 4 takes them, with its defaults."""
    return content.get(theta, 10_000.0), content.get("rope_scaling")


def test_rotary_settings_have_their_new_and_their_old_names(tmp_path: Path) -> None:
    from transformers import AutoConfig, LlamaConfig

    plain = LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, dtype="bfloat16")
    content = written_config(plain, tmp_path)
    assert read_as_version_4(content) == (100_000.0, None) and content["torch_dtype"] == "bfloat16"
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == plain.rope_parameters
    scaled = LlamaConfig(rope_parameters={**YARN, "rope_theta": 500_000.0}, max_position_embeddings=256)
    assert read_as_version_4(written_config(scaled, tmp_path)) == (500_000.0, YARN)
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == scaled.rope_parameters


def test_families_with_other_names_or_several_frequencies(tmp_path: Path) -> None:
    from transformers import AutoConfig, Gemma3TextConfig, GPT2Config, GPTNeoXConfig

    gemma = Gemma3TextConfig(num_hidden_layers=6)
    content = written_config(gemma, tmp_path)
    assert (content["rope_theta"], content["rope_local_base_freq"]) == (1_000_000.0, 10_000.0)
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == gemma.rope_parameters
    parameters = {"rope_type": "default", "rope_theta": 25_000.0, "partial_rotary_factor": 0.5}
    content = written_config(GPTNeoXConfig(rope_parameters=parameters), tmp_path)
    assert (content["rotary_emb_base"], content["rotary_pct"]) == (25_000.0, 0.5)
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == parameters
    assert "rope_theta" not in written_config(GPT2Config(), tmp_path)


def test_a_part_of_a_larger_model_is_written_too() -> None:
    from toolkit.worker.models.older_readers import add_old_config_names

    content = {"text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}}
    add_old_config_names(content)
    assert content["text_config"]["rope_theta"] == 7.0


def test_a_tokenizer_has_its_special_tokens_in_the_old_form(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from toolkit.worker.models.older_readers import write_old_tokenizer_form

    tokenizer = AutoTokenizer.from_pretrained(tiny_model, extra_special_tokens=["<|im_start|>"])
    tokenizer.save_pretrained(tmp_path)
    assert isinstance(json.loads((tmp_path / "tokenizer_config.json").read_text())["extra_special_tokens"], list)
    write_old_tokenizer_form(tmp_path)
    content = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in content and content["additional_special_tokens"] == ["<|im_start|>"]
    assert content["tokenizer_class"] == "PreTrainedTokenizerFast"
    again, text = AutoTokenizer.from_pretrained(tmp_path), "<|im_start|>user\nthe lamp<|im_end|>"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.all_special_ids == tokenizer.all_special_ids
