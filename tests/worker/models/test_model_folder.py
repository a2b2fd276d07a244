"""What a foreign model folder may make a library open: its own safetensors files, and nothing that is code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ToolkitError

HOSTILE_TARGETS = (
    "evil.bin", "../../canary-secret.txt", "../weights.safetensors", "/etc/passwd", "sub/weights.safetensors", "", ".",
    "..", "a\\b.safetensors", ".hidden.safetensors", "weights.safetensors.bin", "weights.SAFETENSORS", "evil.pkl",
    "weights.safetensors\n", "weights.safetensors\x00", "http://evil.example/weights.safetensors", 7, None, ["x"],
)  # fmt: skip
KERNELS: tuple[Any, ...] = (
    "owner/kernel", "owner/kernel@v1:function", "kernels", "paged|sdpa", {"": "owner/kernel"},
    {"text_config": "owner/kernel"}, {"a": {"b": "owner/kernel"}}, {"": "eager", "vision_config": "x"}, ["sdpa"], 1,
    True, "SDPA", "flash_attention_2", "flash_attention_3",
)  # fmt: skip


def folder_with(place: Path, config: dict[str, Any], index: Any = None) -> Path:
    (place / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (place / "weights.safetensors").write_bytes(b"")
    if index is not None:
        (place / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    return place


def refusal(folder: Path) -> str:
    from toolkit.worker.models.folder import check_model_folder

    with pytest.raises(ToolkitError) as refused:
        check_model_folder(folder)
    assert refused.value.hint
    return str(refused.value)


@pytest.mark.parametrize("target", HOSTILE_TARGETS)
def test_an_index_names_safetensors_files_of_its_folder_only(tmp_path: Path, target: object) -> None:
    said = refusal(folder_with(tmp_path, {}, {"weight_map": {"a": "weights.safetensors", "b": target}}))
    assert "model.safetensors.index.json of the model names" in said


@pytest.mark.parametrize("index", ["[" * 100_000, "{", "[]", "{}", {"weight_map": []}, {"weight_map": {}}])
def test_a_broken_index_is_explained(tmp_path: Path, index: object) -> None:
    assert "index.json of the model" in refusal(folder_with(tmp_path, {}, index))


def test_an_index_with_a_missing_file_and_a_good_one(tmp_path: Path) -> None:
    from toolkit.worker.models.folder import check_model_folder

    check_model_folder(folder_with(tmp_path, {}, {"weight_map": {"a": "weights.safetensors"}}))
    check_model_folder(folder_with(tmp_path, {}, {"weight_map": {"a": "model-2.safetensors"}}), weights=False)
    assert "model-2.safetensors is missing" in refusal(
        folder_with(tmp_path, {}, {"weight_map": {"a": "model-2.safetensors"}})
    )


@pytest.mark.parametrize("value", KERNELS)
@pytest.mark.parametrize("key", ["attn_implementation", "experts_implementation", "mm_attn_implementation"])
def test_an_implementation_that_is_not_built_in_is_refused(tmp_path: Path, key: str, value: object) -> None:
    assert key in refusal(folder_with(tmp_path, {key: value}))
    assert key in refusal(folder_with(tmp_path, {"text_config": {"deep": [{key: value}]}}))


@pytest.mark.parametrize(
    "config",
    [
        {"use_kernels": True}, {"kernel_config": {"x": "owner/kernel"}}, {"use_pretrained_backbone": True},
        {"transformers_weights": "../x.safetensors"}, {"transformers_weights": "adapter_model.bin"},
        {"vocab_file": "/etc/passwd"}, {"merges_file": "../merges.txt"}, {"tokenizer_file": "a/../../merges.txt"},
    ],
)  # fmt: skip
def test_a_key_that_opens_something_else_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "merges.txt").touch()
    (tmp_path / "model" / "a").mkdir(parents=True)
    assert next(iter(config)) in refusal(folder_with(tmp_path / "model", config))


def test_usual_keys_are_allowed(tmp_path: Path) -> None:
    from toolkit.worker.models.folder import check_model_folder

    for value in ("sdpa", "eager", None, {"": "sdpa", "text_config": "eager"}):
        more = {"vocab_file": "vocab.txt", "tokenizer_file": "/home/author/t.json", "use_kernels": False}
        check_model_folder(folder_with(tmp_path, {"attn_implementation": value, **more}))


def test_a_named_pipe_is_refused_without_opening_it(tmp_path: Path) -> None:
    folder_with(tmp_path, {})
    os.mkfifo(tmp_path / "generation_config.json")
    assert "not a regular file" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "sub"])
def test_a_link_to_itself_is_refused(tmp_path: Path, name: str) -> None:
    (folder_with(tmp_path, {}) / name).symlink_to(name)
    assert "not a regular file" in refusal(tmp_path)


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_layers", "n_layers"])
@pytest.mark.parametrize("value", [20_000, 2**62, 1e300])
def test_a_number_of_layers_that_no_machine_could_build_is_refused(tmp_path: Path, key: str, value: float) -> None:
    assert key in refusal(folder_with(tmp_path, {key: value}))
    assert key in refusal(folder_with(tmp_path, {"text_config": {key: value}}))


def test_a_class_that_is_no_tokenizer_of_one_model_is_refused(tmp_path: Path) -> None:
    from toolkit.config import Config, ModelConfig
    from toolkit.system.paths import ASSETS
    from toolkit.worker.models.load import load_tokenizer

    for file in (ASSETS / "demo-model").glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RagTokenizer"}))
    with pytest.raises(ToolkitError) as refused:
        load_tokenizer(Config(model=ModelConfig(hf_model_ckpt=str(tmp_path))), tmp_path)
    assert "RagTokenizer" in refused.value.message and refused.value.hint


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"added_tokens": [{"id": 1099511627776}]}', "{", "7"], ids=lambda t: t[:9]
)
def test_a_tokenizer_that_no_library_can_read_is_explained(tmp_path: Path, text: str) -> None:
    from toolkit.config import Config, ModelConfig
    from toolkit.system.paths import ASSETS
    from toolkit.worker.models.load import load_tokenizer

    for file in (ASSETS / "demo-model").glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ToolkitError) as refused:
        load_tokenizer(Config(model=ModelConfig(hf_model_ckpt=str(tmp_path))), tmp_path)
    assert "can't be loaded" in refused.value.message and refused.value.hint


@pytest.mark.parametrize("value", [7, True, {"a": 1}, "x", [7, None], [[]]], ids=str)
def test_odd_architectures_are_no_reason_to_fail(tmp_path: Path, value: object) -> None:
    from toolkit.worker.models.folder import check_model_folder

    check_model_folder(folder_with(tmp_path, {"architectures": value}))
