"""rsLoRA, DoRA and excluded modules from training to the merged export, within the certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, make_run, train_here
from tests.worker.models.test_merge import adapted_logits, merged_logits
from tests.worker.test_export import MERGED, build, verdict
from toolkit.errors import ConfigError
from toolkit.runs.run_dir import RunDir

pytestmark = pytest.mark.worker
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "excluded": {"exclude_modules": ["down_proj", "model.layers.0.self_attn.q_proj"]},
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
