"""Every setting reaches its library under the name of the installed version, or is listed as unused."""

from __future__ import annotations

import copy
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests.fakes.tokens import count_trained_tokens
from toolkit.config import Config
from toolkit.data.examples.hard_stops import Fault, select_blocking
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.split import plan_split
from toolkit.data.table import Table
from toolkit.field_types import OPTIMIZERS, SCHEDULERS
from toolkit.settings.draft import replace_setting

pytestmark = pytest.mark.worker

EITHER = ("model.bitsandbytes.load_in_8bit", "model.bitsandbytes.load_in_4bit")
CHAT = '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]'
ROWS = [{"message": f"ask {i}", "answer": f"say {i // 10}", "chat": CHAT} for i in range(20)]
# leaf -> another value than the default; settings that the change needs stand beside it
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "data.prompt": ("Q: {message}", {}),
    "data.prompt_stub": ("A: {answer}", {}),
    "data.train_size": (0.5, {}),
    "data.test_size": (0.1, {}),
    "data.train_test_split_seed": (7, {}),
    "data.use_chat_template": (False, {}),
    "data.messages": ("chat", {}),
    "data.stratify": (True, {}),
    "data.optional_columns": (["message"], {}),
    "data.accepted": (["placeholder"], {}),
    "training.sft_args.completion_only_loss": (False, {}),
    "training.sft_args.packing": ("packed", {}),
    "model.hf_model_ckpt": ("another", {}),
    "model.device_map": ("cuda:0", {}),
    "model.quantize": (True, {}),
    "model.bitsandbytes.load_in_8bit": (True, {"model.quantize": True, "model.bitsandbytes.load_in_4bit": False}),
    "model.bitsandbytes.llm_int8_threshold": (5, {"model.quantize": True}),
    "model.bitsandbytes.llm_int8_skip_modules": (["q_proj"], {"model.quantize": True}),
    "model.bitsandbytes.llm_int8_enable_fp32_cpu_offload": (True, {"model.quantize": True}),
    "model.bitsandbytes.llm_int8_has_fp16_weight": (True, {"model.quantize": True}),
    "model.bitsandbytes.load_in_4bit": (False, {"model.quantize": True, "model.bitsandbytes.load_in_8bit": True}),
    "model.bitsandbytes.bnb_4bit_compute_dtype": ("float32", {"model.quantize": True}),
    "model.bitsandbytes.bnb_4bit_quant_type": ("fp4", {"model.quantize": True}),
    "model.bitsandbytes.bnb_4bit_use_double_quant": (False, {"model.quantize": True}),
    "lora.r": (3, {}),
    "lora.task_type": (None, {}),
    "lora.lora_alpha": (3, {}),
    "lora.bias": ("all", {}),
    "lora.lora_dropout": (0.1, {}),
    "lora.target_modules": (["q_proj"], {}),
    "lora.fan_in_fan_out": (True, {}),
    "lora.modules_to_save": (["lm_head"], {}),
    "lora.use_rslora": (True, {}),
    "lora.use_dora": (True, {}),
    "lora.exclude_modules": (["down_proj"], {}),
    "lora.trainable_token_indices": ([7, 3, 7], {}),
    "lora.target_parameters": (["mlp.experts.down_proj"], {}),
    "lora.layers_to_transform": ([0], {"lora.target_modules": ["q_proj"]}),
    "lora.layers_pattern": ("layers", {"lora.target_modules": ["q_proj"], "lora.layers_to_transform": [0]}),
    "training.training_args.num_train_epochs": (1, {}),
    "training.training_args.per_device_train_batch_size": (2, {}),
    "training.training_args.gradient_accumulation_steps": (2, {}),
    "training.training_args.gradient_checkpointing": (True, {}),
    "training.training_args.optim": ("sgd", {}),
    "training.training_args.logging_steps": (2, {}),
    "training.training_args.learning_rate": (1e-4, {}),
    "training.training_args.bf16": (False, {}),
    "training.training_args.tf32": (False, {}),
    "training.training_args.fp16": (True, {}),
    "training.training_args.max_grad_norm": (0.0, {}),
    "training.training_args.warmup_ratio": (0.5, {}),
    "training.training_args.lr_scheduler_type": ("linear", {}),
    "training.training_args.seed": (1, {}),
    "training.training_args.eval_steps": (3, {}),
    "training.training_args.weight_decay": (0.1, {}),
    "training.training_args.max_steps": (3, {}),
    "training.sft_args.max_seq_length": (64, {}),
    "training.sft_args.neftune_noise_alpha": (5.0, {}),
    "inference.max_new_tokens": (3, {}),
    "inference.use_cache": (False, {}),
    "inference.do_sample": (True, {}),
    "inference.top_p": (0.5, {"inference.do_sample": True}),
    "inference.temperature": (0.5, {"inference.do_sample": True}),
    "inference.epsilon_cutoff": (0.1, {"inference.do_sample": True}),
    "inference.eta_cutoff": (0.1, {"inference.do_sample": True}),
    "inference.top_k": (5, {"inference.do_sample": True}),
    "training.pinned_prompts": (["Hello"], {}),
    "training.pinned_rows": (1, {}),
    "accelerate": (True, {}),
}  # fmt: skip

_SFT, _LORA, _BNB, _LOAD, _GEN = "SFTConfig.", "LoraConfig.", "BitsAndBytesConfig.", "from_pretrained.", "generate."
_ARGS, _QUANT, _ADAPTER, _INFER = "training.training_args.", "model.bitsandbytes.", "lora.", "inference."

CONSUMED: dict[str, str] = {
    "data.prompt": "toolkit.data.examples.templates, the context of every example",
    "data.prompt_stub": "toolkit.data.examples.templates, the trained text",
    "data.train_size": "toolkit.data.examples.split",
    "data.test_size": "toolkit.data.examples.split",
    "data.train_test_split_seed": "toolkit.data.examples.split",
    "data.accepted": "worker.tokens.prepared_rows, blocking problems that the user accepted",
    "data.use_chat_template": "worker.tokens.examples.chat_enabled",
    "data.messages": "toolkit.data.examples.renderers, the column of conversations",
    "data.stratify": "toolkit.data.examples.split",
    "data.optional_columns": "toolkit.data.examples.renderers, columns whose missing cells count as empty",
    "model.hf_model_ckpt": "worker.models.folder.resolve_model_folder",
    "model.device_map": _LOAD + "device_map",
    "model.quantize": _LOAD + "quantization_config",
    "training.sft_args.max_seq_length": _SFT + "max_length",
    "training.sft_args.completion_only_loss": "worker.tokens.labels.prepare_examples, the loss mask",
    "training.sft_args.neftune_noise_alpha": _SFT + "neftune_noise_alpha",
    "training.sft_args.packing": "worker.training.trainer_setup, which rows share a batch",
    "accelerate": _LOAD + "device_map",
    "training.pinned_prompts": "worker.training.film_strip.choose_pinned_prompts",
    "training.pinned_rows": "worker.training.film_strip.choose_pinned_prompts",
    _ARGS + "gradient_checkpointing": _SFT + "activation_checkpointing",
    _ARGS + "warmup_ratio": _SFT + "warmup_steps",
    **{
        _ARGS + name: _SFT + name
        for name in (
            "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "optim",
            "logging_steps", "learning_rate", "bf16", "tf32", "fp16", "max_grad_norm", "lr_scheduler_type", "seed",
            "eval_steps", "weight_decay", "max_steps",
        )
    },
    **{
        _QUANT + name: _BNB + name
        for name in (
            "load_in_8bit", "llm_int8_threshold", "llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload",
            "llm_int8_has_fp16_weight", "load_in_4bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type",
            "bnb_4bit_use_double_quant",
        )
    },
    **{
        _ADAPTER + name: _LORA + name
        for name in (
            "r", "task_type", "lora_alpha", "bias", "lora_dropout", "target_modules", "fan_in_fan_out",
            "modules_to_save", "layers_to_transform", "layers_pattern", "use_rslora", "use_dora", "exclude_modules",
            "trainable_token_indices",
            "target_parameters",
        )
    },
    **{
        _INFER + name: _GEN + name
        for name in (
            "max_new_tokens", "use_cache", "do_sample", "top_p", "temperature", "epsilon_cutoff", "eta_cutoff", "top_k",
        )
    },
}  # fmt: skip
"""Leaf of the schema -> where the worker passes it: "group.key". Together with UNUSED it covers every leaf."""
UNUSED: dict[str, str] = {
    "save_dir": "the supervisor passes the run's folder to the worker; the config's own path may have moved",
    "ablation.use_ablate": "a study is expanded into ordinary runs before any worker starts",
    "ablation.study_name": "a label of the run, stored in run.json",
    "ablation.seeds": "a study is expanded into runs with different seeds before any worker starts",
    "ablation.objective": "read when the study is judged, after its runs",
    "ablation.pass_rules": "read when the study is judged, after its runs",
    "ablation.method": "read when the runs of a study are planned, before any worker starts",
    "ablation.trials": "read when the runs of a study are planned, before any worker starts",
    "ablation.prune_losers": "read by the supervisor between the runs of a study",
    "ablation.stop_when_decided": "read by the supervisor between the runs of a study",
    "data.file_type": "the table is read before the run is queued; the worker trains on the run's own copy",
    **{
        f"data.{leaf}": "the table is read before the run is queued; the worker trains on the run's own copy"
        for leaf in (
            "test_path",
            "encoding",
            "delimiter",
            "rows_from",
            "flatten",
            "bad_rows",
            "repair_text",
            "quotes",
            "header_row",
            "join_messages",
            "number_names",
            "answered_by",
            "hub_config",
            "hub_split",
            "hub_revision",
        )
    },
    "data.path": "the table is read before the run is queued; the worker trains on the run's own copy",
    _ARGS + "early_stopping_patience": "a callback of our own, worker.training.best_checkpoint",
    _ARGS + "load_best_at_end": "worker.training.attempt restores the weights of the best checkpoint",
    _ARGS + "save_steps": "worker.checkpoints writes checkpoints when worker.checkpoints.pace says so",
    "shard_model": "worker.process.sharding splits the weights, if there are several processes",
    "autopilot": "read where a dead run is closed (lifecycle/resume_policy.py)",
    **dict.fromkeys(
        ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"),
        "accelerate starts the processes before a worker exists (runs/worker_process.py)",
    ),
}
"""Leaf of the schema -> why the worker does not read it."""


def leaves(model: BaseModel, before: str = "") -> Iterator[str]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield before + name


def with_settings(settings: dict[str, Any]) -> Config:
    draft: dict[str, Any] = {}
    for path, value in settings.items():
        draft = replace_setting(draft, path, value)
    return Config.model_validate(draft)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    from tests.fakes.training import make_table

    return make_table(tmp_path_factory.mktemp("table") / "t.parquet", ROWS)


@pytest.fixture
def effects(table: Table, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """config -> {group: {key: value}}: everything that the worker passes to the libraries."""
    from toolkit.settings import device_defaults
    from toolkit.worker.models import library_arguments, load
    from toolkit.worker.tokens import examples, labels
    from toolkit.worker.tokens.prepared_rows import RowSource
    from toolkit.worker.training import film_strip

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "another")

    def measure(config: Config) -> dict[str, dict[str, Any]]:
        place = library_arguments.ComputeDevice(cuda=True, capability=(9, 0), bf16_gpu=True)
        data = config.data
        renderer = renderer_of(data, table.columns)
        plan = plan_split(table, data)
        folder = load.resolve_model_folder(config)
        tokenizer = load.load_tokenizer(config, tiny_model)
        loads = {
            **library_arguments.model_load_args(config, place),
            "quantization_config": library_arguments.quantization_args(config),
        }
        return {
            "SFTConfig": library_arguments.sft_args(config, place, "out"),
            "LoraConfig": library_arguments.lora_args(config),
            "BitsAndBytesConfig": library_arguments.quantization_args(config) or {},
            "from_pretrained": loads,
            "generate": library_arguments.generation_args(config.inference),
            "toolkit": {
                "example": renderer.example(ROWS[0]),
                "optional": renderer.optional,
                "split": (plan.train.tolist(), plan.test.tolist()),
            },
            "worker": {
                "chat": examples.chat_enabled(config, tokenizer),
                "folder": folder.name,
                "packs": device_defaults.uses_packing(config),
                "stops": select_blocking([Fault("placeholder", "", "", 1)], data.accepted or ()),
                "mask": count_trained_tokens(
                    labels.prepare_examples(
                        [renderer.example(ROWS[0])],
                        tokenizer,
                        99,
                        False,
                        completion_only=config.training.sft_args.completion_only_loss,
                    )
                ),
                "pins": film_strip.choose_pinned_prompts(
                    config, RowSource(table, plan, renderer_of(config.data, table.columns))
                ),
            },
        }

    return measure


def test_the_tables_cover_every_setting_once() -> None:
    found = list(leaves(Config()))
    assert len(found) >= 60
    assert sorted([*CONSUMED, *UNUSED]) == sorted(found)
    assert set(CHANGES) == set(CONSUMED)
    assert all(len(reason) > 20 for reason in UNUSED.values())


@pytest.mark.parametrize("leaf", sorted(CHANGES))
def test_changing_a_setting_changes_the_arguments_of_the_library(leaf: str, effects: Any) -> None:
    value, beside = CHANGES[leaf]
    # 4-bit and 8-bit exclude each other, so they change together
    other = {"model.quantize": True} if leaf in EITHER else beside
    before, after = effects(with_settings(other)), effects(with_settings({**beside, leaf: value}))
    group, _, key = CONSUMED[leaf].partition(".")
    if leaf == "data.use_chat_template":
        key = "chat"
    elif leaf in ("data.accepted", "training.sft_args.completion_only_loss"):
        key = "stops" if leaf == "data.accepted" else "mask"
    elif leaf == "model.hf_model_ckpt":
        key = "folder"
    elif leaf == "training.sft_args.packing":
        key = "packs"
    elif leaf.startswith("training.pinned"):
        key = "pins"
    elif leaf == "data.optional_columns":
        key = "optional"
    elif leaf.startswith("data."):
        key = "example" if "prompt" in leaf or leaf == "data.messages" else "split"
    assert before[group].get(key) != after[group].get(key), CONSUMED[leaf]


@pytest.mark.parametrize("leaf", sorted(CHANGES))
def test_an_empty_setting_uses_the_default_of_the_library(leaf: str, effects: Any) -> None:
    beside = CHANGES[leaf][1]
    try:
        config = with_settings({**beside, leaf: None})
    except ValueError:
        assert leaf in (*EITHER, "data.prompt", "data.prompt_stub") or leaf.endswith(
            ("seed", "pinned_rows", "completion_only_loss")
        )
        return
    if leaf == "model.hf_model_ckpt":
        pytest.skip("a run without a base model is refused (test_model.py)")
    group, _, key = CONSUMED[leaf].partition(".")
    assert effects(config)[group].get(key) is not None or key not in effects(config)[group] or leaf == "model.quantize"


def test_every_key_is_a_parameter_of_the_installed_class(effects: Any) -> None:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, GenerationConfig, PreTrainedModel
    from trl import SFTConfig

    everything = {leaf: value for leaf, (value, _) in CHANGES.items()}
    for leaf in ("training.training_args.fp16", "model.bitsandbytes.load_in_8bit", "model.bitsandbytes.load_in_4bit",
                 "accelerate", "model.device_map", "data.messages"):  # fmt: skip
        del everything[leaf]
    emitted = effects(with_settings(everything))
    classes = {"SFTConfig": SFTConfig, "LoraConfig": LoraConfig, "BitsAndBytesConfig": BitsAndBytesConfig}
    counted = 0
    for group, made_of in classes.items():
        known = set(inspect.signature(made_of.__init__).parameters)
        assert set(emitted[group]) <= known, set(emitted[group]) - known
        counted += len(emitted[group])
    assert set(emitted["generate"]) <= set(vars(GenerationConfig()))
    source = inspect.getsource(PreTrainedModel.from_pretrained)
    assert all(f'"{name}"' in source or f"{name}:" in source for name in emitted["from_pretrained"])
    assert counted > 40


def test_the_values_arrive_in_the_objects_that_the_trainer_reads() -> None:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig

    from toolkit.worker.models import library_arguments

    config = with_settings({"model.quantize": True, "training.training_args.gradient_checkpointing": True})
    arguments = library_arguments.sft_args(config, library_arguments.ComputeDevice(), "out")
    made = SFTConfig(**arguments)
    assert made.report_to == []  # the library's own form of "none"
    del arguments["report_to"]
    for name, value in arguments.items():
        assert getattr(made, name) == value, name
    assert made.gradient_checkpointing is True  # the name that trl itself still reads
    lora = LoraConfig(**library_arguments.lora_args(config))
    assert (lora.r, lora.target_modules) == (16, "all-linear")
    quantization = BitsAndBytesConfig(**(library_arguments.quantization_args(config) or {}))
    assert quantization.load_in_4bit
    assert quantization.bnb_4bit_quant_type == "nf4"


def test_a_cpu_gets_only_supported_arguments() -> None:
    from toolkit.worker.models import library_arguments

    config = with_settings({"training.training_args.fp16": True, "training.training_args.tf32": True})
    arguments = library_arguments.sft_args(config, library_arguments.ComputeDevice(), "out")
    assert arguments["use_cpu"] is True
    assert "tf32" not in arguments
    assert arguments["fp16"] is False  # the library ignores it without a warning and trains in fp32
    assert library_arguments.model_load_args(config, library_arguments.ComputeDevice())["dtype"] == "float32"
    assert library_arguments.model_load_args(config, library_arguments.ComputeDevice())["device_map"] == "cpu"
    unsaid = with_settings({"training.training_args.bf16": None})
    assert library_arguments.sft_args(unsaid, library_arguments.ComputeDevice(), "out")["bf16"] is False
    assert (
        library_arguments.sft_args(unsaid, library_arguments.ComputeDevice(cuda=True, bf16_gpu=True), "out")["bf16"]
        is True
    )
    old = library_arguments.ComputeDevice(cuda=True, capability=(7, 5))
    assert "tf32" not in library_arguments.sft_args(config, old, "out")


def test_arguments_avoid_known_quirks_of_the_libraries() -> None:
    from toolkit.worker.models import library_arguments

    assert library_arguments.quantization_args(Config()) is None
    config = with_settings(
        {
            "model.quantize": True,
            "model.bitsandbytes.llm_int8_threshold": 6,
            "model.bitsandbytes.llm_int8_skip_modules": ["q_proj"],
        }
    )
    quantization = library_arguments.quantization_args(config) or {}
    assert isinstance(quantization["llm_int8_threshold"], float)
    assert quantization["llm_int8_skip_modules"] == ["q_proj", "lm_head"]
    several = library_arguments.model_load_args(Config(), library_arguments.ComputeDevice(cuda=True, processes=2))
    assert "device_map" not in several
    second = with_settings({"model.device_map": "cuda:1"})
    assert (
        library_arguments.model_load_args(second, library_arguments.ComputeDevice(cuda=True, gpus=2))["device_map"]
        == "cuda:1"
    )
    assert (
        library_arguments.model_load_args(second, library_arguments.ComputeDevice(cuda=True))["device_map"] == "cuda:0"
    ), "the others are hidden"
    assert (
        library_arguments.model_load_args(Config(), library_arguments.ComputeDevice(cuda=True))["device_map"] == "auto"
    )
    cold = with_settings({"inference.do_sample": True})
    frozen = copy.deepcopy(cold)
    for cold_as in (0.0, 1e-44, 1e-38, 9e-5):
        frozen.inference.temperature = cold_as
        assert library_arguments.generation_args(frozen.inference)["do_sample"] is False
        assert "temperature" not in library_arguments.generation_args(frozen.inference)
    frozen.inference.temperature = 1e-4
    assert library_arguments.generation_args(frozen.inference)["do_sample"] is True


def test_vocabularies_are_those_of_the_installed_transformers() -> None:
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    optimizers = {name.value for name in OptimizerNames}
    assert set(OPTIMIZERS) <= optimizers, set(OPTIMIZERS) - optimizers
    schedulers = {name.value for name in SchedulerType}
    assert set(SCHEDULERS) <= schedulers
    assert len(OPTIMIZERS) > 10


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps_on_a_cpu(name: str) -> None:
    import torch
    from transformers import Trainer
    from trl import SFTConfig

    from toolkit.worker.models import library_arguments

    arguments = library_arguments.sft_args(
        with_settings({"training.training_args.optim": name}), library_arguments.ComputeDevice(), "out"
    )
    made_of, settings = Trainer.get_optimizer_cls_and_kwargs(SFTConfig(**arguments))
    weight = torch.nn.Parameter(torch.ones(64, 128))  # above the size at which 8-bit states begin
    optimizer = made_of([weight], **settings)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert torch.isfinite(weight).all()
    assert (weight < 1).all()


def test_the_default_length_is_that_of_the_library() -> None:
    from trl import SFTConfig

    from toolkit.settings import device_defaults

    assert SFTConfig.__dataclass_fields__["max_length"].default == device_defaults.LIBRARY_MAX_LENGTH
    assert (
        device_defaults.resolve_max_length(with_settings({"training.sft_args.max_seq_length": None}))
        == device_defaults.LIBRARY_MAX_LENGTH
    )


@pytest.mark.parametrize(
    ("wanted", "seen", "then"),
    [("cuda:1", None, "1"), (None, None, "0"), ("cuda:1", "4,6", "6"), (None, "4,6", "4"), ("cuda:1", "4", "4"),
     ("auto", "4,6", "4,6"), ("cuda", "", "")],
)  # fmt: skip
def test_a_run_of_one_process_sees_one_gpu(
    wanted: str | None, seen: str | None, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from toolkit.worker.train import _choose_gpu

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen or "")
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    _choose_gpu(wanted, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == then


def test_a_gpu_that_only_emulates_bf16_does_not_support_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch reports bf16 support for every GPU, but those before Ampere emulate it and are many times slower."""
    import torch

    from toolkit.settings import device_defaults
    from toolkit.worker import probe
    from toolkit.worker.models import load

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(probe, "_gpu", lambda number: {"name": "T4", "memory_bytes": 1, "capability": [7, 5]})
    place = load.detect_compute_device(Config())
    assert place == device_defaults.ComputeDevice(cuda=True, capability=(7, 5))
    assert device_defaults.resolve_precision(Config(), place) == "fp32"
    assert probe.detect_hardware()["bf16_gpu"] is False
