"""rsLoRA, DoRA, excluded modules and trained tokens from training to the merged export, within the certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, make_run, train_here
from tests.worker.models.test_merge import adapted_logits, merged_logits, tied
from tests.worker.test_export import MERGED, build, verdict
from toolkit.errors import ConfigError
from toolkit.runs.run_dir import RunDir, request_run_stop

pytestmark = pytest.mark.worker
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "excluded": {"exclude_modules": ["down_proj", "model.layers.0.self_attn.q_proj"]},
    "tokens": {"trainable_token_indices": [40, 5, 77]},
    "all, without a layer's module": {"use_dora": True, "use_rslora": True, "exclude_modules": ["o_proj"]},
}


def trained_run(save_dir: Path, model: Path, lora: dict[str, Any], **model_settings: Any) -> RunDir:
    settings = draft(save_dir, model, max_steps=3, num_train_epochs=9, weight_decay=0.01)
    settings["lora"] |= lora
    settings["model"] |= {"device_map": "cpu", **model_settings}
    run = make_run(settings)
    code, events = train_here(run)
    assert code == 0, events[-1]
    (plan,) = [event for event in events if event["kind"] == "plan"]
    assert (plan["total_steps"], plan["steps_per_epoch"], plan["epochs"]) == (3, 4, 0.75)
    return run


@pytest.mark.parametrize("lora", VARIANTS.values(), ids=VARIANTS.keys())
def test_each_variant_is_trained_exported_and_served(save_dir: Path, tiny_model: Path, lora: dict[str, Any]) -> None:
    import torch

    from tests.worker.models.test_merge import IDS
    from toolkit.runs.run_dir import read_run_config
    from toolkit.worker.models.adapter_files import read_adapter
    from toolkit.worker.models.adapter_switch import AdapterSwitch
    from toolkit.worker.models.load import load_base_model

    run = trained_run(save_dir, tiny_model, lora)
    for form in ("adapter", MERGED):
        build(run, form)
        certificate = verdict(run, form)
        assert certificate.verdict == ("same" if form == "adapter" else "close"), certificate.failures
    plain = adapted_logits(run)
    torch.testing.assert_close(merged_logits(run, tiny_model), plain, atol=1e-4, rtol=1e-4)
    chosen, weights = read_adapter(run.adapter_dir)
    assert any("lora_magnitude_vector" in name for name in weights) is lora.get("use_dora", False)
    assert not any(
        name.split(".lora_")[0].endswith(tuple(lora.get("exclude_modules", ())))
        for name in weights
        if lora.get("exclude_modules")
    )
    switch = AdapterSwitch(load_base_model(read_run_config(run)).eval())
    with torch.inference_mode():
        before = switch.model(torch.tensor(IDS)).logits
        switch.attach("it", chosen, weights)
        switch.select("it")
        torch.testing.assert_close(switch.model(torch.tensor(IDS)).logits.float(), plain, atol=1e-4, rtol=1e-4)
        switch.select("base")
        torch.testing.assert_close(switch.model(torch.tensor(IDS)).logits, before, atol=0, rtol=0)


def test_dora_on_a_quantized_base_is_merged_into_its_dequantized_weights(save_dir: Path, tiny_model: Path) -> None:
    run = trained_run(save_dir, tiny_model, {"use_dora": True}, quantize=True, bitsandbytes={"load_in_4bit": True})
    for form in ("adapter", MERGED):
        build(run, form)
        certificate = verdict(run, form)
        assert certificate.passed, (form, certificate.failures)


def test_an_excluded_module_that_the_model_lacks_is_named(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from toolkit.config import Config
    from toolkit.worker.models.lora_setup import build_lora_config

    config = Config.model_validate({"lora": {"exclude_modules": ["down_porj"]}})
    with pytest.raises(ConfigError, match="no module 'down_porj'") as caught:
        build_lora_config(config, AutoModelForCausalLM.from_pretrained(tiny_model))
    assert caught.value.problems[0].hint == "Did you mean down_proj?"


def test_dora_in_8_bits_is_refused_in_words() -> None:
    """bitsandbytes fails at the first step, with the message of a bug."""
    from toolkit.config import Config

    eight = {"load_in_4bit": False, "load_in_8bit": True}
    with pytest.raises(ValueError, match="DoRA does not work on a base model in 8 bits"):
        Config.model_validate({"lora": {"use_dora": True}, "model": {"quantize": True, "bitsandbytes": eight}})


TOKENS = [77, 5, 40]


def pause_and_resume(run: RunDir, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.training.reporter import TrainingReporter

    on_step_end = TrainingReporter.on_step_end

    def request_pause(reporter: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == step:
            request_run_stop(run, pause=True)
        on_step_end(reporter, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingReporter, "on_step_end", request_pause)
        assert train_here(run)[1][-1]["paused"]
    (run.path / "stop").unlink()
    with monkeypatch.context() as patch:
        patch.setenv("FTK_ATTEMPT", "2")
        assert train_here(run)[0] == 0


def test_tokens_of_tied_embeddings_answer_the_same_everywhere(
    save_dir: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from tests.worker.models.test_merge import IDS
    from toolkit.runs.run_dir import read_run_config
    from toolkit.worker.models.merge import load_merged_model, load_unmerged_model, round_matrices
    from toolkit.worker.models.untouched_base import untouched_base

    model = tied(tiny_model, tmp_path / "tied")
    run = trained_run(save_dir, model, {"trainable_token_indices": TOKENS})
    again = make_run(read_run_config(run).model_dump())
    pause_and_resume(again, 1, monkeypatch)
    one, other = ((each.adapter_dir / "adapter_model.safetensors").read_bytes() for each in (run, again))
    assert one == other
    for form in ("adapter", MERGED):
        build(run, form)
        certificate = verdict(run, form)
        assert certificate.verdict == ("same" if form == "adapter" else "close"), certificate.failures
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    begun = base.get_input_embeddings().weight.detach().clone()
    with torch.inference_mode():
        untrained = base(torch.tensor(IDS)).logits
        peft = PeftModel.from_pretrained(base, str(run.adapter_dir)).eval()
        torch.testing.assert_close(peft(torch.tensor(IDS)).logits, adapted_logits(run), atol=1e-4, rtol=1e-4)
        with untouched_base(peft):
            torch.testing.assert_close(peft(torch.tensor(IDS)).logits, untrained, atol=0, rtol=0)
    (rows,) = [
        value for name, value in load_file(run.adapter_dir / "adapter_model.safetensors").items() if "token" in name
    ]
    merged = load_merged_model(run, read_run_config(run), model, "float32")
    table = merged.get_input_embeddings().weight
    assert table is merged.get_output_embeddings().weight
    begun[sorted(TOKENS)] = rows
    torch.testing.assert_close(table.detach(), begun, atol=0, rtol=0)
    # as for a GGUF file: rounding base and adapter next to each other is rounding their sum
    seen = set()

    def round_weight(name: str, weight: torch.Tensor) -> torch.Tensor:
        seen.add(name)
        return (weight * 8).round() / 8

    unmerged = load_unmerged_model(run, read_run_config(run), model)
    round_matrices(unmerged, round_weight)
    names = {name for name, weight in merged.named_parameters() if weight.dim() == 2}
    assert seen == names
    with torch.inference_mode():
        for _, weight in merged.named_parameters():
            if weight.dim() == 2:
                weight.data = (weight * 8).round() / 8
        found, expected = (one(torch.tensor(IDS)).logits for one in (unmerged, merged))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_tokens_on_a_quantized_base_are_merged(save_dir: Path, tiny_model: Path, tmp_path: Path) -> None:
    lora = {"trainable_token_indices": TOKENS}
    model = tied(tiny_model, tmp_path / "tied")
    run = trained_run(save_dir, model, lora, quantize=True, bitsandbytes={"load_in_4bit": True})
    for form in ("adapter", MERGED):
        build(run, form)
        certificate = verdict(run, form)
        assert certificate.passed, (form, certificate.failures)


def test_tokens_that_can_not_be_trained_are_told(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from toolkit.config import Config
    from toolkit.worker.models.architecture import check_lora_targets
    from toolkit.worker.models.lora_setup import build_lora_config, describe_absent_tokens

    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    shared = AutoModelForCausalLM.from_pretrained(tied(tiny_model, tmp_path / "tied"))
    cases: tuple[tuple[Any, dict[str, Any], str], ...] = (
        (plain, {"trainable_token_indices": [5, 10**6]}, "there is no token 1000000"),
        (plain, {"modules_to_save": ["embed_tokens"]}, "where embed_tokens is trained as a whole"),
        (plain, {"target_modules": ["q_proj", "embed_tokens"]}, "where embed_tokens is trained as a whole"),
        (shared, {"modules_to_save": ["lm_head"]}, "where lm_head is trained as a whole"),
    )
    for model, lora, words in cases:
        config = Config.model_validate({"lora": {"trainable_token_indices": [5], **lora}})
        with pytest.raises(ConfigError, match=words):
            build_lora_config(config, model)
    far = Config.model_validate({"lora": {"trainable_token_indices": [70]}})
    for settings in ({"vocab_size": 70}, {"model_type": "gemma3", "text_config": {"vocab_size": 70}}):
        with pytest.raises(ConfigError, match="there is no token 70"):  # before Start
            check_lora_targets(far, settings)
    check_lora_targets(far, {"vocab_size": 71})
    fine = Config.model_validate({"lora": {"trainable_token_indices": [5, 7], "modules_to_save": ["lm_head"]}})
    assert build_lora_config(fine, plain).trainable_token_indices == [5, 7]
    assert describe_absent_tokens(fine, [[1, 5], [7, 2]]) == ""
    assert "has the tokens 7 of" in describe_absent_tokens(fine, [[1, 5], [2]])
