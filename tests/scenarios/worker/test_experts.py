"""Mixtures of experts from training to scores, samples, exports and the served adapter, experts trained or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, events_of, make_run, train_here
from tests.worker.models.test_lora_variants import pause_and_resume
from tests.worker.models.test_merge import IDS, adapted_logits, merged_logits
from tests.worker.test_export import MERGED, build, verdict
from toolkit.runs.events import Event
from toolkit.runs.run_dir import RunDir, read_run_config

pytestmark = pytest.mark.worker
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {**EXPERTS, "head_dim": 16},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "mixtral": LOCAL,
    "gpt_oss": {**LOCAL, "head_dim": 16, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": LOCAL,
}
STACKED = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}


def make_family(family: str, tokenizer: Path, folder: Path) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    known = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, **SHAPE, **FAMILIES[family], vocab_size=len(known), bos_token_id=None, eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id, output_router_logits=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    known.save_pretrained(folder)
    return folder


def train(save_dir: Path, model: Path, **lora: Any) -> tuple[RunDir, list[Event]]:
    settings = draft(save_dir, model, max_steps=3, save_steps=1)
    settings["model"]["device_map"] = "cpu"
    settings["lora"] |= lora
    run = make_run(settings)
    code, events = train_here(run)
    assert code == 0, events[-1]
    return run, events


def check_checkpoints(run: RunDir) -> None:
    """Check that the last checkpoint answers as the adapter does, and the one before it does not."""
    import torch

    from toolkit.runs.model_names import list_checkpoint_references
    from toolkit.worker.serving.engine import Engine

    engine = Engine.load(run.save_dir, run.id, lambda phase: None)
    last, before = (reference.name for reference in list_checkpoint_references(run))
    answers = {}
    with torch.inference_mode():
        for name in (run.id, last, before):
            engine.attach(name)
            engine.adapters.select(name)
            answers[name] = engine.adapters.model(torch.tensor(IDS)).logits.clone()
    torch.testing.assert_close(answers[last], answers[run.id], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(answers[before], answers[run.id], atol=1e-4)


def check_use(run: RunDir, model: Path) -> None:
    """Check that samples and scores were made, that both exports pass, and that a served adapter answers the same."""
    import torch

    from toolkit.worker.models.adapter_files import read_adapter
    from toolkit.worker.models.adapter_switch import AdapterSwitch
    from toolkit.worker.models.load import load_base_model

    assert [event["rows"] for event in events_of(run, "scores")] == [5]
    film = [json.loads(line) for line in run.film_path.read_text().splitlines()]
    assert any(entry["kind"] == "answers" for entry in film)
    for form in ("adapter", MERGED):
        build(run, form)
        certificate = verdict(run, form)
        assert certificate.passed, (form, certificate.failures)
    plain = adapted_logits(run)
    torch.testing.assert_close(merged_logits(run, model), plain, atol=1e-4, rtol=1e-4)
    switch = AdapterSwitch(load_base_model(read_run_config(run)).eval())
    with torch.inference_mode():
        before = switch.model(torch.tensor(IDS)).logits
        switch.attach("it", *read_adapter(run.adapter_dir))
        switch.select("it")
        torch.testing.assert_close(switch.model(torch.tensor(IDS)).logits.float(), plain, atol=1e-4, rtol=1e-4)
        switch.select("base")
        torch.testing.assert_close(switch.model(torch.tensor(IDS)).logits, before, atol=0, rtol=0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_goes_from_training_to_its_exports(save_dir: Path, tiny_model: Path, family: str) -> None:
    model = make_family(family, tiny_model, save_dir.parent / "model")
    run, events = train(save_dir, model)
    weights = _trained_names(run)
    warned = [event["message"] for event in events if event["kind"] == "warning" and "experts" in event["message"]]
    assert bool(warned) is not any(".experts." in name for name in weights), "said, if no expert is trained"
    check_use(run, model)


@pytest.mark.parametrize("family", ["gpt_oss", "qwen3_moe"])
def test_experts_are_trained_by_choice(
    save_dir: Path, tiny_model: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_family(family, tiny_model, save_dir.parent / "model")
    run, events = train(save_dir, model, **STACKED)
    assert any(".experts." in name for name in _trained_names(run))
    assert not [event for event in events if event["kind"] == "warning" and "experts" in event["message"]]
    check_use(run, model)
    check_checkpoints(run)
    if family != "qwen3_moe":
        return  # one family is enough for what does not depend on it
    again = make_run(read_run_config(run).model_dump())
    pause_and_resume(again, 2, monkeypatch)
    one, other = ((each.adapter_dir / "adapter_model.safetensors").read_bytes() for each in (run, again))
    assert one == other


def test_what_does_not_work_on_experts_is_said_in_words(save_dir: Path, tiny_model: Path) -> None:
    model = make_family("mixtral", tiny_model, save_dir.parent / "model")
    settings = draft(save_dir, model)
    settings["lora"]["lora_dropout"] = 0.1
    code, events = train_here(make_run(settings))
    assert code == 1 and events[-1]["reason"] != "bug"
    assert "do not work with lora_dropout" in events[-1]["message"]


def _trained_names(run: RunDir) -> set[str]:
    from toolkit.worker.models.adapter_files import ADAPTER_WEIGHTS_FILE, read_adapter_dtypes

    return set(read_adapter_dtypes(run.adapter_dir / ADAPTER_WEIGHTS_FILE))
