"""Merged models compute the same as base and adapter, and impossible merges are refused with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_runs import finished_run
from toolkit.errors import ToolkitError
from toolkit.runs.run_dir import RunDir, read_run_config

pytestmark = pytest.mark.worker
IDS = [[5, 9, 40, 77, 3, 120]]


def changed(model: Path, target: Path, edit: Callable[[dict[str, Any]], None], **config: Any) -> Path:
    """Return a copy of a model with other weights and settings."""
    import safetensors.torch

    shutil.copytree(model, target)
    weights = safetensors.torch.load_file(target / "model.safetensors")
    edit(weights)
    safetensors.torch.save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**settings, **config}))
    return target


def merged_logits(run: RunDir, model: Path, dtype: str = "float32") -> Any:
    import torch

    from toolkit.worker.models.merge import load_merged_model

    whole = load_merged_model(run, read_run_config(run), model, dtype)
    with torch.inference_mode():
        return whole(torch.tensor(IDS)).logits.float()


def adapted_logits(run: RunDir) -> Any:
    """Return the logits of base and unmerged adapter."""
    import torch

    from toolkit.worker.models.adapter_switch import load_trained_adapter
    from toolkit.worker.models.load import load_base_model

    peft = load_trained_adapter(load_base_model(read_run_config(run)).eval(), run.adapter_dir)
    with torch.inference_mode():
        return peft(torch.tensor(IDS)).logits.float()


def tied(model: Path, target: Path) -> Path:
    """Return a copy of the model with one weight for embeddings and output."""
    return changed(model, target, lambda weights: weights.pop("lm_head.weight"), tie_word_embeddings=True)


@pytest.mark.parametrize("lora", [{}, {"modules_to_save": ["lm_head"]}], ids=["all-linear", "modules_to_save"])
def test_a_merged_model_computes_the_same_as_base_and_adapter(
    save_dir: Path, tiny_model: Path, lora: dict[str, Any]
) -> None:
    import torch

    run = finished_run(save_dir, tiny_model, **lora)
    torch.testing.assert_close(merged_logits(run, tiny_model), adapted_logits(run), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_base_is_merged_in_full_precision(save_dir: Path, tiny_model: Path, bits: int) -> None:
    """The merge uses the dequantized numbers that training computed with, and does not round them again."""
    import torch

    run = finished_run(save_dir, tiny_model, bits=bits)
    found, expected = merged_logits(run, tiny_model), adapted_logits(run)
    # 8-bit layers also round their inputs, which a plain layer does not
    torch.testing.assert_close(found, expected, atol=0.01 if bits == 4 else 0.1, rtol=0)
    plain = finished_run(save_dir, tiny_model)
    assert not torch.allclose(found, merged_logits(plain, tiny_model), atol=1e-3), "the rounding is in it"


@pytest.mark.parametrize("bits", [4, 8])
def test_gpt2_layers_keep_their_orientation_when_merged_from_quantized_ones(
    save_dir: Path, tiny_model: Path, tmp_path: Path, bits: int
) -> None:
    """GPT-2's Conv1D stores [in, out], bitsandbytes' layers [out, in]: saved as they were, they could not be loaded."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    from toolkit.worker.models.merge import load_merged_model

    folder = Path(shutil.copytree(tiny_model, tmp_path / "gpt2"))
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": 320}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=2, eos_token_id=2)).save_pretrained(folder)
    run = finished_run(save_dir, folder, bits=bits)
    load_merged_model(run, read_run_config(run), folder, "float32").save_pretrained(tmp_path / "merged")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.inference_mode():
        found = whole(torch.tensor(IDS)).logits
    torch.testing.assert_close(found, adapted_logits(run), atol=0.01 if bits == 4 else 0.1, rtol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_that_comes_quantized_is_merged_in_full_precision(
    save_dir: Path, tiny_model: Path, tmp_path: Path, bits: int
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from toolkit.worker.models.merge import load_merged_model

    how = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    folder = Path(shutil.copytree(tiny_model, tmp_path / "quantized"))
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=how, dtype="float32").save_pretrained(folder)
    run = finished_run(save_dir, folder)
    load_merged_model(run, read_run_config(run), folder, "float32").save_pretrained(tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.inference_mode():
        found = whole(torch.tensor(IDS)).logits
    torch.testing.assert_close(found, adapted_logits(run), atol=0.01 if bits == 4 else 0.1, rtol=0)


def test_tied_embeddings_stay_tied(save_dir: Path, tiny_model: Path, tmp_path: Path) -> None:
    import torch

    model = tied(tiny_model, tmp_path / "tied")
    run = finished_run(save_dir, model)
    torch.testing.assert_close(merged_logits(run, model), adapted_logits(run), atol=1e-4, rtol=1e-4)


def test_an_adapter_on_tied_embeddings_only_is_refused(save_dir: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = tied(tiny_model, tmp_path / "tied")
    run = finished_run(save_dir, model, target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(ToolkitError, match="share one weight") as caught:
        merged_logits(run, model)
    assert "Export the adapter instead" in caught.value.hint


def test_values_too_large_for_fp16_are_refused(save_dir: Path, tiny_model: Path, tmp_path: Path) -> None:
    def edit(weights: dict[str, Any]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"][0, 0] = 70_000.0

    model = changed(tiny_model, tmp_path / "loud", edit)
    run = finished_run(save_dir, model)
    with pytest.raises(ToolkitError, match=r"up_proj.weight has values that are too large for float16") as caught:
        merged_logits(run, model, "float16")
    assert caught.value.hint == "Export it as bf16."
    assert merged_logits(run, model, "bfloat16").isfinite().all()


def test_too_little_memory_is_reported_before_loading(
    save_dir: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.models import load, merge

    run = finished_run(save_dir, tiny_model)
    monkeypatch.setattr(merge, "free_memory_bytes", lambda: 100_000)
    monkeypatch.setattr(load, "load_base_model", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ToolkitError, match=r"about .* KiB of memory, but only 97\.7 KiB are free") as caught:
        merged_logits(run, tiny_model, "bfloat16")
    assert "export the adapter alone" in caught.value.hint
