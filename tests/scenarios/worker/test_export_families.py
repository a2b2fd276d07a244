"""Certificates on other architectures than the demo's: untouched exports pass, each tampering breaks them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_runs import write_adapter
from tests.fakes.training import draft, make_run
from tests.worker.test_export import MERGED, build, failed, verdict
from toolkit.export.export_state import export_folder
from toolkit.export.prompt_contract import CONTRACT_FILE
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.system.durable import commit_dir

pytestmark = pytest.mark.worker
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": True},  # biases on its attention
    "mistral": {"sliding_window": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},  # capped logits, tied embeddings, scaled norms
}


def make_family(family: str, tokenizer: Path, folder: Path) -> Path:
    """A random model of that family around the tiny model's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    known = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, **SHAPE, **FAMILIES[family], vocab_size=len(known), bos_token_id=None, eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    known.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def run(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    place = tmp_path_factory.mktemp("family")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        made = make_run(draft(place / "save", make_family(request.param, tiny_model, place / "model")))
        write_adapter(made, read_run_config(made), 1)
        for form in ("adapter", MERGED, "merged-fp16"):
            build(made, form)
    return made


def tampered(run: RunDir, change: Callable[[Path], None]) -> set[str]:
    """What fails once the merged export was changed, with a commit that covers it up; undone after."""
    folder, kept = export_folder(run, MERGED), run.exports_dir / "kept"
    shutil.copytree(folder, kept)
    staging = run.exports_dir / ".tampered"
    shutil.copytree(folder, staging)
    change(staging)
    (staging / "COMMIT.json").unlink()
    commit_dir(staging, folder, {})
    try:
        return failed(verdict(run, MERGED))
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)


def edit_weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        import safetensors.torch

        weights = safetensors.torch.load_file(folder / "model.safetensors")
        change(weights)
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def test_untouched_exports_of_every_form_pass(run: RunDir) -> None:
    for form in ("adapter", MERGED, "merged-fp16"):
        certificate = verdict(run, form)
        assert certificate.passed, (form, certificate.failures)
        assert certificate.drift < certificate.bound / 2, "the bound is no tight fit to one model"


def test_a_tampered_export_fails(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(run.save_dir.parent / "state"))
    import safetensors.torch
    import torch

    base = safetensors.torch.load_file(Path(str(read_run_config(run).model.hf_model_ckpt)) / "model.safetensors")

    def forget_one_layer(weights: dict[str, Any]) -> None:
        name = "model.layers.1.mlp.down_proj.weight"
        weights[name] = base[name].to(weights[name].dtype)

    def coarser(weights: dict[str, Any]) -> None:
        for name, weight in weights.items():
            weights[name] = weight.to(torch.float8_e5m2).to(weight.dtype)

    def another_type(weights: dict[str, Any]) -> None:
        for name, weight in weights.items():
            weights[name] = weight.to(torch.float16)

    def chat_template(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text().replace("<|im_end|>\n", "<|im_end|>"))

    def prompt_template(folder: Path) -> None:
        body = json.loads((folder / CONTRACT_FILE).read_text())
        body["template"]["prompt"] = "Question: {question}"
        (folder / CONTRACT_FILE).write_text(json.dumps(body))

    def begins_with_a_token(folder: Path) -> None:
        body = json.loads((folder / "tokenizer.json").read_text())
        special = {"id": "<pad>", "ids": [0], "tokens": ["<pad>"]}
        body["post_processor"] = {
            "type": "TemplateProcessing", "pair": [], "special_tokens": {"<pad>": special},
            "single": [{"SpecialToken": {"id": "<pad>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        }  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(body))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "<pad>"}))

    assert "log-probability drift" in tampered(run, edit_weights(forget_one_layer))
    assert "log-probability drift" in tampered(run, edit_weights(coarser))
    assert "weights' precision" in tampered(run, edit_weights(another_type))
    assert {"chat template", "token ids identical"} <= tampered(run, chat_template)
    assert {"prompt template", "token ids identical"} <= tampered(run, prompt_template)
    assert "special tokens" in tampered(run, begins_with_a_token)
