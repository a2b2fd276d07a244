"""Empty gradient checkpointing and, on a CPU, empty bf16 are decided once for form, run and worker."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.forecast.test_forecast import LLAMA, scene
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.forecast import decisions as module
from toolkit.forecast.costs.model_shape import read_model_shape
from toolkit.forecast.decisions import DecidedSettings, decide_open_settings
from toolkit.forecast.forecast import Forecast, Scene, forecast_run
from toolkit.forecast.scene import NoForecast
from toolkit.runs.run_dir import create_run, read_run_config, read_run_meta
from toolkit.settings import device_defaults
from toolkit.settings.device_defaults import BF16_PATH, CHECKPOINTING_PATH, SHARDING_PATH
from toolkit.settings.validation import parse_draft
from toolkit.system.machine import Machine


def asked(value: bool | None = None, **more: Any) -> Config:
    args = {"per_device_train_batch_size": 8, "gradient_checkpointing": value}
    return parse_draft({"training": {"training_args": args, "sft_args": {"max_seq_length": 1024}}, **more})


def on_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: Config, **machine: Any) -> DecidedSettings:
    seen: Scene = scene(**machine)
    monkeypatch.setattr(module, "scene_for", lambda *_: seen)
    return decide_open_settings(config, None, None, tmp_path)


def needs(value: bool) -> float:
    return forecast_run(asked(value), scene()).memory.peak


def test_checkpointing_is_on_only_if_the_run_does_not_fit_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert LLAMA["num_hidden_layers"] == 8
    assert needs(True) < 0.8 * needs(False)
    between = (needs(True) + needs(False)) / 2
    cases = (
        (16e9, False, "fits without it ("),
        (between, True, "recomputed instead of stored"),
        (needs(True) / 2, False, "would not save enough"),
    )
    for memory, wanted, word in cases:
        found = on_machine(monkeypatch, tmp_path, asked(), memory=memory)
        assert found.config.training.training_args.gradient_checkpointing is wanted, memory
        assert isinstance(found.found, Forecast)
        assert found.found.load.checkpointing is wanted
        assert word in found.told[0].why
        assert word in found.reasons[CHECKPOINTING_PATH]


def test_memory_of_other_programs_switches_checkpointing_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = (needs(True) + needs(False)) / 2
    found = on_machine(monkeypatch, tmp_path, asked(), memory=16e9, free_bytes=free)
    assert found.config.training.training_args.gradient_checkpointing is True
    assert "are free" in found.told[0].why


@pytest.mark.parametrize("chosen", [True, False])
def test_the_users_choice_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: bool) -> None:
    for memory in (16e9, (needs(True) + needs(False)) / 2):
        found = on_machine(monkeypatch, tmp_path, asked(chosen), memory=memory)
        assert found.config == asked(chosen)
        assert (found.told, found.reasons) == ((), {})


def test_without_a_forecast_checkpointing_is_off_and_undecided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.settings.device_defaults import uses_gradient_checkpointing

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = asked(model={"hf_model_ckpt": "nobody/no-such-model"})
    found = decide_open_settings(config, None, None, tmp_path)
    assert found.config == config
    assert not uses_gradient_checkpointing(found.config)
    assert "no forecast yet" in found.told[0].why
    assert found.reasons == {}


def test_decisions_and_reasons_are_stored_with_the_run(tmp_path: Path) -> None:
    config = parse_draft({"save_dir": str(tmp_path)})
    table = open_table(config.data, tmp_path)
    found = decide_open_settings(config, table, None, tmp_path)
    run = create_run(found.config, table, chosen=found.reasons)
    assert read_run_config(run).training.training_args.gradient_checkpointing is False
    assert read_run_meta(run)["chosen"] == found.reasons
    assert CHECKPOINTING_PATH in found.reasons


def test_a_run_shows_its_settings_as_the_user_left_them(tmp_path: Path) -> None:
    from toolkit.ui.workspace.run_facts import read_run_summary

    config = parse_draft({"save_dir": str(tmp_path)})
    table = open_table(config.data, tmp_path)
    settled = decide_open_settings(config, table, None, tmp_path)
    seen = read_run_summary(create_run(settled.config, table, chosen=settled.reasons))
    assert seen.config["training"]["training_args"]["gradient_checkpointing"] is None
    assert seen.chosen == settled.reasons


def test_an_emptied_setting_is_valid_and_the_type_is_the_schemas() -> None:
    field = type(Config().training.training_args).model_fields["gradient_checkpointing"]
    assert str(field.annotation) == "typing.Optional[bool]"
    assert field.default is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": "a"},
        {"num_experts": "x"},
        {"hidden_size": -64},
        {"num_hidden_layers": 0},
        {"hidden_size": 10**30},
        {"vocab_size": None},
        {"hidden_size": float("nan")},
        {"hidden_size": float("inf")},
        {"hidden_size": 64.5},
        {"max_position_embeddings": "many"},
        {"num_key_value_heads": [1, 2]},
        {"model_type": ["a"]},
        {"text_config": [1]},
    ],
)
def test_a_broken_model_config_does_not_keep_a_run_from_starting(wrong: dict[str, Any], tmp_path: Path) -> None:
    """The run reports what is wrong; there is no forecast, or one without the broken part."""
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **wrong}))
    config = asked(save_dir=str(tmp_path), model={"hf_model_ckpt": str(tmp_path)})
    found = decide_open_settings(config, open_table(config.data, tmp_path), None, tmp_path)
    assert isinstance(found.found, NoForecast) or "text_config" in wrong
    assert found.config.training.training_args.gradient_checkpointing in (None, False)


ABLE = Machine(8, 2**35, bf16_cpu=True)


@pytest.mark.parametrize(
    ("args", "more", "machine", "hidden", "wanted"),
    [
        ({}, {}, ABLE, 512, True),
        ({}, {}, replace(ABLE, bf16_cpu=False), 512, None),
        ({}, {}, None, 512, None),
        ({}, {}, ABLE, 32, None),
        ({"bf16": False}, {}, ABLE, 512, False),
        ({"fp16": True}, {}, ABLE, 512, None),
        ({}, {"model": {"quantize": True}}, ABLE, 512, None),
    ],
)
def test_empty_bf16_is_on_where_the_cpu_supports_it_and_the_model_gains(
    args: dict[str, Any],
    more: dict[str, Any],
    machine: Machine | None,
    hidden: int,
    wanted: bool | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    seen = replace(scene(), shape=read_model_shape({**LLAMA, "hidden_size": hidden, "intermediate_size": 3 * hidden}))
    monkeypatch.setattr(module, "scene_for", lambda *_: seen)
    config = parse_draft({"training": {"training_args": {"gradient_checkpointing": False, **args}}, **more})
    found = decide_open_settings(config, None, machine, tmp_path)
    assert found.config.training.training_args.bf16 is wanted
    assert isinstance(found.found, Forecast)
    assert (found.found.load.precision == "bf16") == (wanted is True)
    decided = wanted is True and "bf16" not in args
    assert (BF16_PATH in found.reasons) == decided
    lines = device_defaults.explain_defaults(config, seen.place, 1, found.told)
    told = [line.what for line in lines if line.path == BF16_PATH]
    assert told == (["bf16"] if decided else ["fp32"] if args == {} else [])


@pytest.mark.parametrize("hidden", [128, 192, 256])
def test_trials_of_a_study_do_not_differ_in_precision(
    hidden: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A larger batch gains more from bf16, and so does a smaller adapter; trials must get the same decision anyway."""
    seen = replace(scene(), shape=read_model_shape({**LLAMA, "hidden_size": hidden, "intermediate_size": 3 * hidden}))
    monkeypatch.setattr(module, "scene_for", lambda *_: seen)
    found = set()
    for batch, rank in ((1, 64), (2, 8), (8, 8), (32, 4)):
        args = {"gradient_checkpointing": False, "per_device_train_batch_size": batch}
        config = parse_draft({"training": {"training_args": args}, "lora": {"r": rank}})
        found.add(decide_open_settings(config, None, ABLE, tmp_path).config.training.training_args.bf16)
    assert len(found) == 1


def test_a_model_too_large_for_one_gpu_is_sharded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    large = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}

    def decide(gigabytes: float, processes: int = 4, **more: Any) -> DecidedSettings:
        place = device_defaults.ComputeDevice(cuda=True, processes=processes)
        seen = replace(scene(gigabytes * 1e9), place=place, shape=read_model_shape({**LLAMA, **large}))
        monkeypatch.setattr(module, "scene_for", lambda *_: seen)
        return decide_open_settings(asked(**more), None, None, tmp_path)

    needed = decide(1000).memory_bytes / 1e9
    whole, too_small = needed * 1.3, needed * 0.3
    fitting = decide(whole, accelerate=True)
    assert fitting.config.shard_model is None and "fits into each GPU" in fitting.reasons[SHARDING_PATH]
    found = decide(too_small, accelerate=True)
    assert found.config.shard_model is True
    assert "GiB" in found.reasons[SHARDING_PATH] and "with a part" in found.reasons[SHARDING_PATH]
    assert isinstance(found.found, Forecast) and found.found.load.shards == 4
    assert found.memory_bytes < decide(too_small, accelerate=True, shard_model=False).memory_bytes
    assert decide(too_small).config.shard_model is None, "one process has nobody to share with"
    assert decide(too_small, processes=1, accelerate=True).config.shard_model is None
    eight = {"quantize": True, "bitsandbytes": {"load_in_8bit": True, "load_in_4bit": False}}
    assert decide(too_small / 3, accelerate=True, model=eight).config.shard_model is None
