"""Models are loaded as data only: code is refused, and what is missing is explained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import Config
from toolkit.errors import ConfigError, ToolkitError

pytestmark = pytest.mark.worker


def config_for(model: Path | str | None, **lora: Any) -> Config:
    return Config.model_validate({"model": {"hf_model_ckpt": str(model) if model else None}, "lora": lora})


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def add_key(path: Path, key: str, value: Any, inside: str | None = None) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    (content.setdefault(inside, {}) if inside else content)[key] = value
    path.write_text(json.dumps(content))


def spoil(folder: Path, how: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    code = folder / "custom_generate" / "generate.py"
    actions: dict[str, Any] = {
        "script": lambda: (folder / "modeling_x.py").write_text("print('owned')"),
        "script in a folder": lambda: (code.parent.mkdir(), code.touch()),
        "auto_map": lambda: add_key(config, "auto_map", {"AutoModelForCausalLM": "modeling_x.X"}),
        "auto_map of the tokenizer": lambda: add_key(
            folder / "tokenizer_config.json", "auto_map", {"A": ["x.X", None]}
        ),
        "hidden switch": lambda: add_key(config, "_attn_implementation_internal", "owner/kernel"),
        "hidden switch inside": lambda: add_key(config, "_attn_implementation_internal", "x", "text_config"),
        "kernel": lambda: add_key(config, "attn_implementation", "owner/kernel"),
        "pickle": lambda: weights.rename(folder / "pytorch_model.bin"),
        "adapter": lambda: (folder / "adapter_config.json").write_text("{}"),
        "no config": config.unlink,
        "broken config": lambda: config.write_text("{"),
        "another kind": lambda: config.write_text('{"model_type": "nonsense-9"}'),
        "cut weights": lambda: weights.write_bytes(weights.read_bytes()[:900]),
        "missing weights": lambda: drop_weight(weights, "lm_head.weight"),
    }
    actions[how]()


def drop_weight(path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    kept = load_file(path)
    del kept[name]
    save_file(kept, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("script", "modeling_x.py"), ("script in a folder", "generate.py"), ("auto_map", "auto_map"),
        ("auto_map of the tokenizer", "tokenizer_config.json"), ("hidden switch", "_attn_implementation_internal"),
        ("hidden switch inside", "_attn_implementation_internal"), ("kernel", "attn_implementation"),
        ("pickle", "safetensors"), ("adapter", "is an adapter"), ("no config", "no config.json"),
        ("broken config", "can't be read"), ("another kind", "can't be loaded"), ("cut weights", "can't be loaded"),
        ("missing weights", "lm_head.weight"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_a_plain_model_is_refused(copy: Path, how: str, says: str) -> None:
    from toolkit.worker.models.load import load_base_model

    spoil(copy, how)
    with pytest.raises(ToolkitError, match=says) as caught:
        load_base_model(config_for(copy))
    assert caught.value.hint
    assert "Traceback" not in str(caught.value)


def test_a_folder_that_is_a_link_is_resolved_and_its_target_is_checked(copy: Path, tmp_path: Path) -> None:
    from toolkit.worker.models.folder import resolve_model_folder

    link = tmp_path / "link"
    link.symlink_to(copy)
    assert resolve_model_folder(config_for(link)) == copy.resolve()
    (copy / "model.py").write_text("print('run')")
    with pytest.raises(ToolkitError, match="contains code"):
        resolve_model_folder(config_for(link))
    link.unlink()
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(ToolkitError, match=f"a symbolic link to '{tmp_path / 'gone'}', which is not a folder"):
        resolve_model_folder(config_for(link))


def test_links_in_a_folder_are_refused_except_in_the_hub_cache(copy: Path, tmp_path: Path) -> None:
    from toolkit.worker.models.folder import resolve_model_folder
    from toolkit.worker.models.load import load_tokenizer

    outside = tmp_path / "outside"
    outside.mkdir()
    (copy / "more").symlink_to(outside)
    with pytest.raises(ToolkitError, match=f"{copy / 'more'}, that leads out of it to {outside}"):
        resolve_model_folder(config_for(copy))
    (copy / "more").unlink()
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / "abc"
    blobs = snapshot.parent.parent / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for file in copy.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert load_tokenizer(config_for(snapshot)).eos_token == "<|im_end|>", "laid out as the hub's client does"
    (snapshot / "LICENSE").symlink_to(tmp_path / "model" / "config.json")
    with pytest.raises(ToolkitError, match="LICENSE, that leads out of it"):
        resolve_model_folder(config_for(snapshot))
    (snapshot / "LICENSE").unlink()
    (tmp_path / "mine").symlink_to(snapshot)
    assert resolve_model_folder(config_for(tmp_path / "mine")) == snapshot.resolve()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (None, "No base model"), ("bundled:nothing", "bundled"), ("bundled:../../etc", "bundled"),
        ("bundled:../assets/demo-model", "bundled"),
        ("/no/such/folder", "does not exist"), ("./nowhere", "does not exist"), ("a/b/c", "does not exist"),
        ("no spaces here/x y", "neither a folder"), (__file__, "is a file"),
    ],
)  # fmt: skip
def test_a_missing_model_is_explained(name: str | None, says: str) -> None:
    from toolkit.worker.models.folder import resolve_model_folder

    with pytest.raises(ToolkitError, match=says) as caught:
        resolve_model_folder(config_for(name))
    assert caught.value.hint


def test_a_hub_id_fails_fast_without_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    from toolkit.worker.models.folder import resolve_model_folder

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ToolkitError, match="Hub can't be reached") as caught:
        resolve_model_folder(config_for("owner/model-that-nobody-has"))
    assert "folder" in caught.value.hint


def test_a_cached_hub_model_is_checked_like_a_folder(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    from toolkit.worker.models.folder import resolve_model_folder
    from toolkit.worker.models.load import load_base_model, load_tokenizer

    cached = tmp_path / "models--owner--tiny"
    snapshot = Path(shutil.copytree(tiny_model, cached / "snapshots" / ("a" * 40)))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    config = config_for("owner/tiny")
    assert resolve_model_folder(config) == snapshot
    assert load_tokenizer(config).chat_template
    assert load_base_model(config).num_parameters() > 0
    add_key(snapshot / "config.json", "auto_map", {"AutoConfig": "x.X"})
    with pytest.raises(ToolkitError, match="auto_map"):
        resolve_model_folder(config)


def test_half_precision_weights_load_as_fp32_on_a_cpu() -> None:
    import torch

    from toolkit.worker.models.folder import resolve_model_folder
    from toolkit.worker.models.load import load_base_model, load_tokenizer, read_context_length

    config = Config()
    assert json.loads((resolve_model_folder(config) / "config.json").read_text())["dtype"] == "float16"
    assert {p.dtype for p in load_base_model(config).parameters()} == {torch.float32}
    assert load_tokenizer(config).chat_template
    assert read_context_length(resolve_model_folder(config)) == 512


def test_bf16_is_also_the_precision_of_the_weights(tiny_model: Path) -> None:
    import torch

    from toolkit.worker.models.load import load_base_model

    config = config_for(tiny_model)
    config.training.training_args.bf16 = True
    assert {p.dtype for p in load_base_model(config).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("lora", "field", "says"),
    [
        ({"target_modules": ["q_proj", "nope"]}, "lora.target_modules", "'nope'"),
        ({"target_modules": ["q_prok"]}, "lora.target_modules", "q_proj"),
        ({"target_modules": ["lm_head"]}, "lora.target_modules", "lm_head"),
        ({"modules_to_save": ["nope"]}, "lora.modules_to_save", "'nope'"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 9]}, "lora.layers_to_transform", "no layer 9"),
        ({"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "blocks"}, "lora.layers_pattern",
         "blocks"),
    ],
)  # fmt: skip
def test_adapter_settings_that_the_model_lacks_are_reported(
    tiny_model: Path, lora: dict[str, Any], field: str, says: str
) -> None:
    from toolkit.worker.models.load import load_base_model
    from toolkit.worker.models.lora_setup import build_lora_config

    config = config_for(tiny_model, **lora)
    with pytest.raises(ConfigError) as caught:
        build_lora_config(config, load_base_model(config))
    assert [problem.path for problem in caught.value.problems] == [field]
    assert says in str(caught.value.problems[0])


@pytest.mark.parametrize(
    ("lora", "trained"),
    [
        ({"target_modules": ["all-linear"]}, 28),
        ({"target_modules": None}, 8),
        ({"target_modules": ["q_proj", "v_proj"], "layers_to_transform": 1, "layers_pattern": "layers"}, 4),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, 5),
        ({"target_modules": ["model.layers.0.self_attn.q_proj"]}, 2),
    ],
)
def test_adapter_settings_choose_what_is_trained(tiny_model: Path, lora: dict[str, Any], trained: int) -> None:
    from peft import get_peft_model

    from toolkit.worker.models.load import load_base_model
    from toolkit.worker.models.lora_setup import build_lora_config

    config = config_for(tiny_model, **lora)
    base = load_base_model(config)
    adapted = get_peft_model(base, build_lora_config(config, base))
    assert sum(parameter.requires_grad for parameter in adapted.parameters()) == trained


def test_a_tied_head_stays_tied() -> None:
    from toolkit.worker.models.load import load_base_model
    from toolkit.worker.models.lora_setup import build_lora_config

    config = config_for("bundled:demo-model", modules_to_save=["lm_head"])
    assert build_lora_config(config, load_base_model(config)).ensure_weight_tying is True
