"""One base with many adapters: switching is exact, and only plain LoRA adapters are accepted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import golden
from toolkit.system.paths import PROJECT_ROOT

pytestmark = pytest.mark.worker

SITUATIONS = PROJECT_ROOT / "tests" / "scenarios" / "worker" / "golden_situations.json"
IDS = [[5, 9, 40, 77, 3, 120]]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "save"


def load(model: Path) -> Any:
    from tests.fakes.engine_runs import make_config
    from toolkit.worker.models.adapter_switch import AdapterSwitch
    from toolkit.worker.models.load import load_base_model

    return AdapterSwitch(load_base_model(make_config(model.parent, model)).eval())


def attach(adapters: Any, name: str, folder: Path) -> None:
    from toolkit.worker.models.adapter_files import read_adapter

    adapters.attach(name, *read_adapter(folder))


def logits(adapters: Any) -> Any:
    import torch

    with torch.inference_mode():
        return adapters.model(torch.tensor(IDS)).logits.clone()


def alone(model: Path, folder: Path) -> Any:
    """Return the logits that PEFT itself computes with base and unmerged adapter."""
    import torch
    from peft import PeftModel

    from tests.fakes.engine_runs import make_config
    from toolkit.worker.models.load import load_base_model

    peft = PeftModel.from_pretrained(load_base_model(make_config(model.parent, model)), str(folder)).eval()
    with torch.inference_mode():
        return peft(torch.tensor(IDS)).logits.clone()


def biased_copy(model: Path, target: Path) -> Path:
    """Return a copy of the model with biases in its attention, so that `bias` has an effect."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "attention_bias": True}))
    biased = AutoModelForCausalLM.from_pretrained(target)
    torch.manual_seed(5)
    for name, parameter in biased.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter)
    biased.save_pretrained(target)
    return target


@pytest.mark.parametrize(
    "first",
    [{}, {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]}, {"modules_to_save": ["lm_head"]},
     {"bias": "all"}, {"bias": "lora_only", "target_modules": ["v_proj"]}],
    ids=["all-linear", "one layer", "modules_to_save", "bias all", "bias lora_only"],
)  # fmt: skip
def test_switching_is_exact(tiny_model: Path, tmp_path: Path, runs: Path, first: dict[str, Any]) -> None:
    import torch

    from tests.fakes.engine_runs import finished_run

    model = biased_copy(tiny_model, tmp_path / "biased") if "bias" in first else tiny_model
    a, b = finished_run(runs, model, 1, **first), finished_run(runs, model, 2)
    adapters = load(model)
    base = logits(adapters)
    attach(adapters, "a", a.adapter_dir)
    adapters.select("a")
    only_a = logits(adapters)
    assert adapters.merged
    torch.testing.assert_close(only_a, alone(model, a.adapter_dir), atol=1e-5, rtol=1e-5)
    assert (only_a - base).abs().max() > 0.01
    attach(adapters, "b", b.adapter_dir)
    for name, expected in [("base", base), ("b", alone(model, b.adapter_dir)), ("base", base), ("a", only_a)] * 2:
        adapters.select(name)
        if name == "b":
            torch.testing.assert_close(logits(adapters), expected, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(logits(adapters), expected), f"{name} is not what it was, bit for bit"


def test_half_precision_stays_unmerged(tiny_model: Path, runs: Path) -> None:
    import torch

    from tests.fakes.engine_runs import finished_run

    run = finished_run(runs, tiny_model)
    adapters = load(tiny_model)
    adapters.model.to(torch.bfloat16)
    base = logits(adapters)
    attach(adapters, "a", run.adapter_dir)
    adapters.select("a")
    assert not adapters.merged
    assert not torch.equal(logits(adapters), base)
    adapters.select("base")
    assert torch.equal(logits(adapters), base)


def test_nothing_is_merged_without_memory_for_copies(
    tiny_model: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from tests.fakes.engine_runs import finished_run
    from toolkit.worker.models import adapter_switch as module

    run = finished_run(runs, tiny_model)
    monkeypatch.setattr(module, "_free_memory", lambda device: 1000)
    adapters = load(tiny_model)
    base = logits(adapters)
    attach(adapters, "a", run.adapter_dir)
    adapters.select("a")
    assert not adapters.merged
    torch.testing.assert_close(logits(adapters), alone(tiny_model, run.adapter_dir), atol=0, rtol=0)
    adapters.select("base")
    assert torch.equal(logits(adapters), base)


def edited(**change: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return edit


def only_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


HOSTILE: dict[str, Callable[[Path], None]] = {
    "another method": edited(peft_type="IA3"),
    "a regular expression": edited(target_modules="(a+)+$"),
    "unknown key": edited(tokenizer_kwargs={"trust_remote_code": True}),
    "dora": edited(use_dora=True),
    "arrow": edited(arrow_config={"x": 1}),
    "huge rank": edited(r=10**9),
    "rank of another adapter": edited(r=8),
    "too few modules": edited(target_modules=["q_proj"]),
    "too many modules": edited(modules_to_save=["lm_head"]),
    "no json": lambda folder: (folder / "adapter_config.json").write_text("{") and None,
    "a list": lambda folder: (folder / "adapter_config.json").write_text("[]") and None,
    "too large": lambda folder: (folder / "adapter_config.json").write_text(" " * 1_000_001) and None,
    "no weights": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "pickle": only_pickle,
    "cut off": lambda folder: (folder / "adapter_model.safetensors").write_bytes(
        (folder / "adapter_model.safetensors").read_bytes()[:5000]
    ) and None,
    "lying header": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64) and None,
}  # fmt: skip


def test_only_plain_lora_adapters_are_attached(tiny_model: Path, tmp_path: Path, runs: Path) -> None:
    import torch

    from tests.fakes.engine_runs import finished_run
    from toolkit.errors import EngineError

    good = finished_run(runs, tiny_model)
    adapters = load(tiny_model)
    base = logits(adapters)
    attach(adapters, "good", good.adapter_dir)
    adapters.select("good")
    expected = logits(adapters)
    assert len(HOSTILE) == 16
    for number, (name, spoil) in enumerate(HOSTILE.items()):
        folder = tmp_path / f"bad{number}"
        shutil.copytree(good.adapter_dir, folder)
        spoil(folder)
        with pytest.raises(EngineError) as caught:
            attach(adapters, f"bad{number}", folder)
        assert caught.value.hint, name
        told = golden.without(str(caught.value), tmp_path)
        golden.hold(SITUATIONS, f"adapter: {name}", {"row": 61, "outcome": "refused", "told": [told]})
        adapters.select("good")
        assert torch.equal(logits(adapters), expected), name
    assert adapters.names == ["good"]
    adapters.select("base")
    assert torch.equal(logits(adapters), base)


def test_the_base_model_named_in_an_adapter_is_ignored(tiny_model: Path, runs: Path) -> None:
    from tests.fakes.engine_runs import finished_run
    from toolkit.worker.models.adapter_files import read_adapter_config

    run = finished_run(runs, tiny_model)
    edited(base_model_name_or_path="evil/model", auto_mapping={"parent_library": "os"}, revision="x")(run.adapter_dir)
    assert read_adapter_config(run.adapter_dir).r == 4


def test_adapters_for_merging_are_checked_the_same_way(tiny_model: Path, tmp_path: Path, runs: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from tests.fakes.engine_runs import finished_run, make_config
    from toolkit.errors import EngineError
    from toolkit.worker.models.adapter_switch import load_trained_adapter
    from toolkit.worker.models.load import load_base_model

    made = finished_run(runs, tiny_model)
    config = make_config(runs, tiny_model)
    expected = alone(tiny_model, made.adapter_dir)
    with torch.inference_mode():
        assert torch.equal(
            load_trained_adapter(load_base_model(config), made.adapter_dir)(torch.tensor(IDS)).logits, expected
        )
    pickled = tmp_path / "pickled"
    shutil.copytree(made.adapter_dir, pickled)
    torch.save(load_file(pickled / "adapter_model.safetensors"), pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    with pytest.raises(EngineError, match="has no adapter_model"):
        load_trained_adapter(load_base_model(config), pickled)
    other = tmp_path / "other"
    shutil.copytree(made.adapter_dir, other)
    given = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**given, "alora_invocation_tokens": [1]}))
    with pytest.raises(EngineError, match="alora_invocation_tokens"):
        load_trained_adapter(load_base_model(config), other)
