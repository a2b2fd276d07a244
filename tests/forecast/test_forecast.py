"""Forecasts of steps, memory and time change with the settings, and advice promises nothing impossible."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.forecast.advice import BATCH_SIZE_PATH, find_memory_advice
from toolkit.forecast.base_model_files import find_base_model
from toolkit.forecast.costs.memory import RUNTIME_BYTES
from toolkit.forecast.costs.model_shape import read_model_shape
from toolkit.forecast.costs.sampled_lengths import SampledLengths, sample_lengths
from toolkit.forecast.forecast import Correction, Forecast, Scene, forecast_run, with_measurement
from toolkit.forecast.history import find_correction, observe_run
from toolkit.forecast.scene import NoForecast, scene_for
from toolkit.settings.device_defaults import CHECKPOINTING_PATH, ComputeDevice
from toolkit.settings.validation import parse_draft

LLAMA = {"model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
         "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8192}  # fmt: skip


def config(**changes: Any) -> Config:
    args = {"num_train_epochs": 2, "per_device_train_batch_size": 8, **changes.pop("args", {})}
    return parse_draft({"training": {"training_args": args, "sft_args": {"max_seq_length": 1024}}, **changes})


def scene(memory: float = 16e9, **more: Any) -> Scene:
    tokens = np.arange(20, 220)
    lengths = SampledLengths(1000, 100, tokens, tokens // 2, np.array([900, 500, 400]), "sampled")
    return Scene(read_model_shape(LLAMA), lengths, ComputeDevice(), memory, **more)


def test_steps_are_counted_as_the_trainer_does() -> None:
    assert forecast_run(config(), scene()).steps == 2 * 125
    assert forecast_run(config(args={"gradient_accumulation_steps": 2}), scene()).steps == 2 * 63
    assert forecast_run(config(args={"per_device_train_batch_size": 3}), scene()).steps == 2 * 334


def test_the_longest_rows_decide_the_memory() -> None:
    found = forecast_run(config(), scene())
    assert (found.load.rows, found.load.longest) == (8, 900)
    assert found.real_share == 1
    assert 0.9 < forecast_run(config(), replace(scene(), place=ComputeDevice(cuda=True))).real_share < 1
    cut = forecast_run(parse_draft({"training": {"sft_args": {"max_seq_length": 128}}}), scene())
    assert cut.load.longest == 128
    assert cut.memory.activations < found.memory.activations / 2


def test_a_test_file_has_its_own_rows(tmp_path: Path) -> None:
    from tests.fakes.training import make_table

    table = make_table(tmp_path / "t.parquet", [{"q": f"ask {i}", "a": "answer"} for i in range(30)])
    data = parse_draft({"data": {"prompt": "{q}", "prompt_stub": "{a}"}}).data
    alone, joined = (sample_lengths(one, data, None, False) for one in (table, replace(table, held_out=4)))
    assert (alone.train, alone.test) == (24, 6)
    assert (joined.train, joined.test) == (26, 4)


def test_the_same_bytes_read_with_other_options_are_sampled_again(tmp_path: Path) -> None:
    from tests.fakes.training import make_table

    data = parse_draft({"data": {"prompt": "{q}", "prompt_stub": "{a}"}}).data
    made = (make_table(tmp_path / f"{n}.parquet", [{"q": "long " * n, "a": "x"}] * 8) for n in (1, 50))
    tables = [replace(table, sha256="of the same file") for table in made]
    short, long = (int(sample_lengths(table, data, None, False).longest[0]) for table in tables)
    assert long > 10 * short


def test_bundled_names_stay_inside_the_assets() -> None:
    for name, known in (("bundled:demo-model", True), ("bundled:../assets/demo-model", False)):
        assert (find_base_model(parse_draft({"model": {"hf_model_ckpt": name}})) != "unknown") is known


def test_measuring_needs_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes.training import make_table
    from toolkit.forecast import measured_run

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refused)
    monkeypatch.setattr(measured_run, "start_job", lambda *_: subprocess.Popen([sys.executable, "-c", ""]))
    table = make_table(tmp_path / "t.parquet", [{"q": "ask", "a": "answer"}] * 8)
    probe = measured_run.start_measuring("key", parse_draft({"save_dir": str(tmp_path)}), table)
    assert probe.folder.source_path.read_bytes() == table.path.read_bytes()
    probe.end()


@pytest.mark.parametrize(
    ("change", "less"),
    [
        ({"args": {"gradient_checkpointing": True}}, "activations"),
        ({"args": {"bf16": True}}, "weights"),
        ({"args": {"per_device_train_batch_size": 1}}, "activations"),
        ({"lora": {"r": 2}}, "optimizer"),
        ({"args": {"optim": "adamw_8bit"}}, "optimizer"),
        ({"model": {"quantize": True}}, "weights"),
    ],
)
def test_settings_that_save_memory_lower_the_forecast(change: dict[str, Any], less: str) -> None:
    # two rows of some 200 tokens: with many, what bf16 attention and quantized layers keep outweighs what they save
    few = replace(scene(), lengths=replace(scene().lengths, longest=np.array([200, 190, 180])))
    before = forecast_run(config(args={"per_device_train_batch_size": 2}), few)
    after = forecast_run(
        config(**{**change, "args": {"per_device_train_batch_size": 2, **change.get("args", {})}}), few
    )
    assert getattr(after.memory, less) < getattr(before.memory, less)
    # quantized layers keep more for the backward, bf16 on a CPU keeps kernels: a small model's weights do not outweigh
    # that
    small = "model" in change or after.memory.kernels > before.memory.kernels
    assert after.memory.peak < before.memory.peak or small


def test_nothing_is_advised_for_a_run_that_fits() -> None:
    assert forecast_run(config(), scene()).fit == "fits"
    assert find_memory_advice(forecast_run(config(), scene())) is None
    assert forecast_run(config(), scene(free_bytes=1e8)).fit == "tight"


def test_advice_needs_the_fewest_changes() -> None:
    found = forecast_run(config(), scene(1.2e9))
    assert found.fit == "too large"
    offered = find_memory_advice(found)
    assert offered is not None
    assert offered.enough
    assert offered.after.memory.peak <= 0.95 * 1.2e9
    batch = offered.changes.get(BATCH_SIZE_PATH)
    if batch is not None:  # the same examples a step
        assert batch * offered.changes["training.training_args.gradient_accumulation_steps"] == 8
    assert len(offered.changes) <= 2


def test_a_far_too_small_machine_gets_every_saving_and_no_promise() -> None:
    offered = find_memory_advice(forecast_run(config(), scene(3e8)))
    assert offered is not None
    assert not offered.enough
    assert offered.changes[CHECKPOINTING_PATH] is True
    assert offered.changes[BATCH_SIZE_PATH] == 1


def test_runs_and_measurements_correct_the_forecast() -> None:
    found = forecast_run(config(), scene())
    slower = forecast_run(config(), scene(), Correction(time=2.0, memory=1.2, process_bytes=9e8, runs=3))
    assert slower.step_seconds == pytest.approx(2 * found.step_seconds)
    assert slower.memory.activations == pytest.approx(1.2 * found.memory.activations)
    own = found.memory.process - RUNTIME_BYTES
    probed = with_measurement(found, 3_000_000_000, own, 2 * found.first_step_seconds)
    assert probed.memory.peak == pytest.approx(3e9)
    fatter = with_measurement(found, 3_000_000_000 + 2e8, own + 2e8, 2 * found.first_step_seconds)
    assert fatter.memory.peak == pytest.approx(3e9), "a probe that imported more is no larger run"
    assert probed.step_seconds == pytest.approx(2 * found.step_seconds)


def test_several_processes_share_the_steps() -> None:
    shared = replace(scene(), place=ComputeDevice(processes=2))
    assert forecast_run(config(), shared).steps == 2 * 63


def demo(folder: Path, **changes: Any) -> Forecast | NoForecast:
    chosen = parse_draft({"save_dir": str(folder), **changes})
    found = scene_for(chosen, open_table(chosen.data, folder), None)
    return found if isinstance(found, NoForecast) else forecast_run(chosen, found)


def test_the_demo_run_is_forecast_from_its_files(tmp_path: Path) -> None:
    found = demo(tmp_path)
    assert isinstance(found, Forecast)
    assert found.steps == 128
    assert found.scene.lengths.source == "sampled"
    assert found.scene.shape.parameters > 2_000_000
    assert 90 < found.load.longest < 130
    assert found.disk.download == 0


def test_a_missing_forecast_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    absent = demo(tmp_path, model={"hf_model_ckpt": "nobody/no-such-model"})
    assert isinstance(absent, NoForecast)
    assert "config.json" in absent.why
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    odd = demo(tmp_path, model={"hf_model_ckpt": str(tmp_path / "odd")})
    assert isinstance(odd, NoForecast)
    assert "mamba" in odd.why


def test_without_a_tokenizer_lengths_follow_from_characters(tmp_path: Path) -> None:
    data = Config().data
    table = open_table(data, tmp_path)
    guessed = sample_lengths(table, data, None, False)
    assert guessed.source == "characters"
    assert guessed.longest[0] >= guessed.longest[-1] > 0
    assert len(guessed.row_tokens(256)) == guessed.train
    assert guessed.row_tokens(20).max() == 20


def test_the_search_for_long_rows_finds_the_longest(tmp_path: Path) -> None:
    from tests.fakes.training import make_table

    rows = [{"message": "short", "answer": "yes"} for _ in range(5000)]
    rows[3777] = {"message": "long " * 300, "answer": "no"}
    table = make_table(tmp_path / "t.parquet", rows)
    found = sample_lengths(table, Config().data, None, False)
    assert found.longest[0] > 300
    assert found.row_tokens(4096).max() == found.longest[0]


def test_conversations_have_lengths_too(tmp_path: Path) -> None:
    from tests.fakes.training import make_table

    turns = [{"role": "user", "content": "hello " * 40}, {"role": "assistant", "content": "hi"}]
    table = make_table(tmp_path / "t.parquet", [{"talk": json.dumps(turns)}] * 10)
    data = Config().data.model_copy(update={"messages": "talk"})
    found = sample_lengths(table, data, None, True)
    assert found.train == 8
    assert (found.tokens > found.trained).all()


def test_history_is_neutral_without_runs(tmp_path: Path) -> None:
    found = demo(tmp_path)
    assert isinstance(found, Forecast)
    assert find_correction(tmp_path, found, None) == Correction()


@pytest.mark.worker
def test_a_measurement_and_a_finished_run_correct_the_forecast(tmp_path: Path, tiny_model: Path) -> None:
    """Two steps in a process of their own; then a whole run, from which the next forecast is corrected."""
    from toolkit.forecast.measured_run import start_measuring
    from toolkit.lifecycle.supervisor import Supervisor
    from toolkit.runs.run_dir import create_run

    chosen = parse_draft(
        {
            "save_dir": str(tmp_path),
            "model": {"hf_model_ckpt": str(tiny_model)},
            "data": {"train_size": 64, "test_size": 2},
            "inference": {"max_new_tokens": 2},
        }
    )
    table = open_table(chosen.data, tmp_path)
    probe = start_measuring("key", chosen, table)
    probe.process.wait(300)
    measured = probe.result()
    assert measured is not None
    assert measured.peak_bytes > 100_000_000
    assert measured.step_seconds > 0
    assert not probe.folder.path.exists()
    run = create_run(chosen, table)
    assert Supervisor(tmp_path).run_to_end(run, lambda status: None).state == "finished"
    seen = observe_run(run, None)
    assert seen is not None
    assert seen.time > 0
    assert seen.process_bytes is not None
    found = scene_for(chosen, table, None)
    assert not isinstance(found, NoForecast)
    assert find_correction(tmp_path, forecast_run(chosen, found), None).runs == 1


@pytest.mark.worker
def test_a_failed_measurement_has_a_reason(tmp_path: Path, tiny_model: Path) -> None:
    from toolkit.errors import ToolkitError
    from toolkit.forecast.measured_run import start_measuring

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"no weights")
    chosen = parse_draft({"save_dir": str(tmp_path), "model": {"hf_model_ckpt": str(broken)}})
    probe = start_measuring("key", chosen, open_table(chosen.data, tmp_path))
    probe.process.wait(300)
    with pytest.raises(ToolkitError, match="can't be loaded"):
        probe.result()
    assert not probe.folder.path.exists()


def test_lengths_counted_by_the_background_worker_are_used_unchanged(tmp_path: Path) -> None:
    from tests.fakes.training import make_table

    table = make_table(tmp_path / "t.parquet", [{"q": f"ask {i}", "a": "answer"} for i in range(30)])
    chosen = parse_draft({"data": {"prompt": "{q}", "prompt_stub": "{a}", "train_size": 20, "test_size": 10}})
    counts = np.array([[100 + i, 50] for i in range(30)], dtype=np.int32)
    found = scene_for(chosen, table, None, counts)
    assert not isinstance(found, NoForecast)
    assert found.lengths.source == "counted"
    assert (found.lengths.train, found.lengths.test) == (20, 10)
    assert set(found.lengths.trained) == {50}
    assert found.lengths.longest.max() == found.lengths.tokens.max() >= 150
    assert sorted(found.lengths.row_tokens(1024)) == sorted(found.lengths.tokens)


def test_fewer_rows_than_lengths_are_spread_over_all_lengths() -> None:
    tokens = np.arange(1, 10_001)
    lengths = SampledLengths(10_000, 0, tokens, tokens, np.array([10_000]), "counted")
    few = replace(lengths, train=100).row_tokens(20_000)
    assert abs(few.mean() - tokens.mean()) < 0.01 * tokens.mean()


def test_weights_that_a_folder_holds_twice_are_forecast_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in ("model.safetensors", "consolidated.safetensors"):
        (tmp_path / name).write_bytes(b"0" * 80)
    found = find_base_model(Config.model_validate({"model": {"hf_model_ckpt": str(tmp_path)}}))
    assert not isinstance(found, str) and found.weights == 80
