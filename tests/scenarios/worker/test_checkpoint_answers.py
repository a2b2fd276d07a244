"""A kept checkpoint answers on the same loaded base model as the adapter, with its own verified weights."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, make_run, train_here
from tests.worker.models.test_adapter_switch import biased_copy
from toolkit.errors import RunError
from toolkit.runs.checkpoints import checkpoint_path
from toolkit.runs.model_names import AdapterReference, list_checkpoint_references, parse_model_name
from toolkit.runs.run_dir import RunDir

pytestmark = pytest.mark.worker
IDS = [[5, 9, 40, 77, 3, 120]]


def trained(save_dir: Path, model: Path, **lora: Any) -> RunDir:
    """Four steps, the last two of them kept as checkpoints."""
    settings = draft(save_dir, model, num_train_epochs=1, save_steps=1)
    settings["lora"].update(lora)
    run = make_run(settings)
    code, events = train_here(run)
    assert code == 0, events[-1]
    return run


def engine_of(run: RunDir) -> Any:
    from toolkit.worker.serving.engine import Engine

    return Engine.load(run.save_dir, run.id, lambda phase: None)


def logits(engine: Any, name: str) -> Any:
    import torch

    engine.adapters.select(name)
    with torch.inference_mode():
        return engine.adapters.model(torch.tensor(IDS)).logits.clone()


@pytest.mark.parametrize(
    "lora",
    [{}, {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]}, {"bias": "all"},
     {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [40, 5]}],
    ids=["all-linear", "one layer", "bias all", "modules_to_save", "tokens"],
)  # fmt: skip
def test_the_last_checkpoint_answers_like_the_adapter_and_an_earlier_one_does_not(
    save_dir: Path, tiny_model: Path, tmp_path: Path, lora: dict[str, Any]
) -> None:
    import torch

    model = biased_copy(tiny_model, tmp_path / "biased") if "bias" in lora else tiny_model
    run = trained(save_dir, model, **lora)
    last, before = list_checkpoint_references(run)
    assert (last, before) == (AdapterReference(run.id, 4), AdapterReference(run.id, 3))
    engine = engine_of(run)
    base = logits(engine, "base")
    for one in (last, before):
        engine.attach(one.name)
    adapter = logits(engine, run.id)
    assert torch.equal(logits(engine, last.name), adapter)
    assert not torch.equal(logits(engine, before.name), adapter)
    assert not torch.equal(logits(engine, before.name), base)
    assert torch.equal(logits(engine, "base"), base)
    assert engine.runs == (run.id, last.name, before.name)
    assert engine.config_for_model(before.name) == engine.config_for_model(run.id)


def test_only_a_complete_checkpoint_of_this_install_answers(
    save_dir: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = trained(save_dir, tiny_model)
    engine = engine_of(run)
    ids = engine.tokenizer("order lamp")["input_ids"]
    for wrong, words in ((f"{run.id}@1", "has no checkpoint of step 1"), (f"{run.id}@x", "not a run or a checkpoint")):
        with pytest.raises(Exception, match=words):
            engine.attach(wrong)
    path = checkpoint_path(run, 4) / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RunError, match="damaged"):
        engine.attach(f"{run.id}@4")
    path.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(tmp_path / "another"))
        with pytest.raises(RunError, match="not written by this install"):
            engine.attach(f"{run.id}@4")
    engine.attach(f"{run.id}@4")
    shutil.rmtree(checkpoint_path(run, 4))  # training goes on and rotates it away: what is loaded stays
    from toolkit.config import InferenceConfig
    from toolkit.worker.serving.stream_answer import GenerationRequest

    ask = GenerationRequest(f"{run.id}@4", "order lamp", ids, InferenceConfig(max_new_tokens=4), 0.0)
    assert engine.answer(ask, lambda piece: None, threading.Event()).completion_tokens > 0


@pytest.mark.parametrize("name", ["20261124-000000-aaaa", "20261124-000000-aaaa@40"])
def test_a_checkpoint_name_survives_a_round_trip(name: str) -> None:
    assert parse_model_name(name).name == name
