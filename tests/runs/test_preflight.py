"""All problems of a config are reported at once, each at its own field."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit.config import Config, DataConfig
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import Problem
from toolkit.runs import preflight as module
from toolkit.runs.preflight import preflight_needs_machine, preflight_problems
from toolkit.runs.worker_process import accelerate_yaml, process_count, team_size
from toolkit.settings.draft import replace_setting
from toolkit.settings.model_source import model_kind
from toolkit.settings.validation import parse_draft
from toolkit.system.machine import Gpu, Machine

CPU = Machine(2, 16 * 10**9, bitsandbytes=True)
OLD_GPU = Machine(8, 64 * 10**9, True, (Gpu("Tesla T4", 16 * 10**9, (7, 5)),), bitsandbytes=True)
TWO_H200 = Machine(
    16, 10**11, True, (Gpu("NVIDIA H200", 141 * 10**9, (9, 0)),) * 2, bf16_gpu=True, tf32=True, bitsandbytes=True
)


def config(**leaves: Any) -> Config:
    """Return the defaults with some settings changed; "__" stands for the dot."""
    draft: dict[str, Any] = {}
    for path, value in leaves.items():
        draft = replace_setting(draft, path.replace("__", "."), value)
    return parse_draft(draft)


def found(problems: list[Problem]) -> set[tuple[str, str]]:
    assert all(problem.message and problem.hint for problem in problems)
    return {(problem.path, problem.severity) for problem in problems}


ARGS = "training__training_args__"
BF16, FP16, TF32 = ({ARGS + name: True} for name in ("bf16", "fp16", "tf32"))
MACHINE_CASES = [
    ({}, CPU, set()),
    (BF16, CPU, set()),
    (BF16, OLD_GPU, {("training.training_args.bf16", "error")}),
    (BF16, TWO_H200, set()),
    (FP16, CPU, {("training.training_args.fp16", "warning")}),
    (FP16, OLD_GPU, set()),
    (FP16 | {"model__device_map": "cpu"}, OLD_GPU, {("training.training_args.fp16", "warning")}),
    (TF32, CPU, {("training.training_args.tf32", "error")}),
    (TF32, OLD_GPU, {("training.training_args.tf32", "error")}),
    (TF32, TWO_H200, set()),
    ({"model__device_map": "cuda"}, CPU, {("model.device_map", "error")}),
    ({"model__device_map": "cuda:1"}, OLD_GPU, {("model.device_map", "error")}),
    ({"model__device_map": "cuda:1"}, TWO_H200, set()),
    ({"model__quantize": True}, CPU, {("model.quantize", "warning")}),
    ({"model__quantize": True}, TWO_H200, set()),
    ({"model__quantize": True}, OLD_GPU, {("model.bitsandbytes.bnb_4bit_compute_dtype", "error")}),
    ({"model__quantize": True}, Machine(2, 10**10), {("model.quantize", "error")}),
    ({"accelerate": True, "num_processes": 3}, TWO_H200, {("num_processes", "error")}),
    ({"accelerate": True, "num_processes": 3}, CPU, {("num_processes", "warning")}),
    ({"accelerate": True}, CPU, set()),
    ({"accelerate": True, "shard_model": True}, CPU, set()),
]


@pytest.mark.parametrize(("leaves", "machine", "expected"), MACHINE_CASES)
def test_settings_that_the_machine_does_not_support(
    leaves: dict[str, Any], machine: Machine, expected: set[tuple[str, str]]
) -> None:
    made = config(**leaves)
    assert found(preflight_problems(made, None, machine)) == expected
    assert preflight_problems(made, None, None) == []
    if expected:
        assert preflight_needs_machine(made)


@pytest.mark.parametrize(
    ("leaves", "word"),
    [
        ({"model__quantize": True, "model__bitsandbytes__load_in_8bit": True}, "8 bits"),
        ({"lora__target_parameters": ["mlp.experts.down_proj"]}, "parameters"),
        ({"lora__trainable_token_indices": [5]}, "tokens"),
        ({"model__quantize": True, "model__bitsandbytes__load_in_4bit": True}, ""),
    ],
)
def test_what_can_not_be_sharded_is_refused(leaves: dict[str, Any], word: str) -> None:
    if word == "8 bits":
        leaves = {**leaves, "model__bitsandbytes__load_in_4bit": False}
    asked = preflight_problems(config(accelerate=True, shard_model=True, **leaves), None, None)
    assert found(asked) == ({("shard_model", "error")} if word else set())
    assert all(word in problem.message for problem in asked)
    assert preflight_problems(config(accelerate=True, **leaves), None, None) == []


def test_the_defaults_do_not_depend_on_the_machine() -> None:
    assert not preflight_needs_machine(Config())


@pytest.mark.parametrize(
    ("name", "kind", "right"),
    [
        ("bundled:demo-model", "bundled", True),
        ("bundled:nothing", "bundled", False),
        ("bundled:../../etc", "bundled", False),
        ("org/name", "hub", True),
        ("name", "hub", True),
        ("org/name/more", "hub", False),
        ("has space", "hub", False),
        ("/nowhere/at/all", "local", False),
        ("./nowhere", "local", False),
        ("~/nowhere", "local", False),
        (None, "none", False),
    ],
)
def test_kinds_of_base_models(name: str | None, kind: str, right: bool) -> None:
    made = config(model__hf_model_ckpt=name)
    assert model_kind(made) == kind
    assert found(preflight_problems(made, None, None)) == (set() if right else {("model.hf_model_ckpt", "error")})


def test_a_local_model_needs_a_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    made = config(model__hf_model_ckpt="my-model")
    assert model_kind(made) == "local"
    assert "no config.json" in preflight_problems(made, None, None)[0].message
    (tmp_path / "my-model" / "config.json").write_text("{}")
    assert preflight_problems(made, None, None) == []


@pytest.fixture
def table(tmp_path: Path) -> Table:
    file = tmp_path / "rows.csv"
    file.write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(9)) + "q9,\n")
    return open_table(DataConfig(path=str(file)), tmp_path / "experiments")


def test_problems_of_data_and_templates(table: Table) -> None:
    fine = config(data__prompt="{question}", data__prompt_stub="{answer}")
    assert {path for path, severity in found(preflight_problems(fine, table, None)) if severity == "error"} == set()
    wrong = config(data__prompt="{questoin}", data__prompt_stub="{answer}", data__train_size=50, data__test_size=50)
    problems = preflight_problems(wrong, table, CPU)
    assert {"data.prompt", "data.train_size", "data.test_size"} <= {problem.path for problem in problems}
    assert any("question" in problem.message + problem.hint for problem in problems if problem.path == "data.prompt")


def test_a_missing_data_file_is_an_error(tmp_path: Path) -> None:
    made = config(data__path=str(tmp_path / "gone.csv"))
    assert found(preflight_problems(made, None, None)) == {("data.path", "error")}
    assert preflight_problems(config(data__path="org/name", data__file_type="huggingface"), None, None) == []


def test_problems_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(save_dir=str(tmp_path / "a" / "b"))
    usage = namedtuple("usage", "free")
    for free, expected in ((10**10, set()), (10**9, {("save_dir", "warning")}), (10**6, {("save_dir", "error")})):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda path, free=free: usage(free))
        assert found(preflight_problems(made, None, None)) == expected
    (tmp_path / "file").write_text("")
    assert found(preflight_problems(config(save_dir=str(tmp_path / "file" / "x")), None, None)) == {
        ("save_dir", "error")
    }


@pytest.mark.parametrize(
    ("leaves", "machine", "count", "kind", "cpu", "precision"),
    [
        ({}, CPU, 2, "MULTI_GPU", True, "no"),
        ({"num_processes": 3}, CPU, 3, "MULTI_GPU", True, "no"),
        (FP16, CPU, 2, "MULTI_GPU", True, "no"),
        ({}, OLD_GPU, 1, "NO", False, "no"),
        (FP16, OLD_GPU, 1, "NO", False, "fp16"),
        (BF16, TWO_H200, 2, "MULTI_GPU", False, "bf16"),
    ],
)
def test_the_file_for_the_accelerate_launcher(
    leaves: dict[str, Any], machine: Machine, count: int, kind: str, cpu: bool, precision: str
) -> None:
    from accelerate.commands.config.config_args import ClusterConfig  # which imports torch: seconds

    made = config(accelerate=True, **leaves)
    text = accelerate_yaml(made, machine)
    settings = yaml.safe_load(text)
    own = ClusterConfig(**settings)
    assert yaml.safe_dump(own.to_dict()) == text, "what is shown is what accelerate's own class writes"
    assert process_count(made, machine) == count
    assert settings["num_processes"] == count
    assert settings["distributed_type"] == kind
    assert settings["use_cpu"] is cpu
    assert settings["mixed_precision"] == precision


MEETING = {"accelerate": True, "num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": 29500}


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        (MEETING, set()),
        (MEETING | {"machine_rank": 1, "main_process_ip": "192.0.2.7"}, set()),
        (MEETING | {"main_process_ip": "gpu-1.cluster.example"}, set()),
        (MEETING | {"main_process_ip": "192.0.2.7"}, {("main_process_ip", "warning")}),
        (MEETING | {"machine_rank": 2}, {("machine_rank", "error")}),
        (MEETING | {"main_process_ip": None}, {("main_process_ip", "error")}),
        (MEETING | {"main_process_port": None}, {("main_process_port", "error")}),
        (MEETING | {"main_process_port": 80}, {("main_process_port", "error")}),
        (MEETING | {"main_process_port": None, "num_machines": 1}, set()),
        (MEETING | {"ablation__use_ablate": True, "ablation__study_name": "s"}, {("num_machines", "error")}),
        ({"num_machines": 2, "machine_rank": 5}, set()),
    ],
)
def test_settings_of_a_run_on_several_machines(leaves: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert found(preflight_problems(config(**leaves), None, None)) == expected


def test_the_file_for_several_machines_names_their_meeting() -> None:
    from accelerate.commands.config.config_args import ClusterConfig  # which imports torch: seconds

    made = config(**MEETING | {"machine_rank": 1, "num_processes": 3})
    settings = yaml.safe_load(accelerate_yaml(made, CPU))
    assert yaml.safe_dump(ClusterConfig(**settings).to_dict()) == accelerate_yaml(made, CPU)
    assert (settings["num_processes"], settings["num_machines"], settings["machine_rank"]) == (6, 2, 1)
    assert (settings["main_process_ip"], settings["main_process_port"]) == ("127.0.0.1", 29500)
    assert (process_count(made, CPU), team_size(made, CPU)) == (3, 6)


def test_a_model_folder_may_be_a_link_to_a_folder(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    made = config(model__hf_model_ckpt=str(link))
    (dead,) = [p for p in preflight_problems(made, None, None) if p.path == "model.hf_model_ckpt"]
    assert f"a symbolic link to '{target}', which is not a folder" in dead.message
    target.mkdir()
    (target / "config.json").write_text("{}")
    assert not [p for p in preflight_problems(made, None, None) if p.path == "model.hf_model_ckpt"]
