"""The values of empty settings on several devices, and their explanations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from toolkit.config import Config
from toolkit.data.examples.batches import pack_best_fit
from toolkit.settings import device_defaults, form_layout
from toolkit.settings.device_defaults import ComputeDevice
from toolkit.settings.field_spec import field_specs_by_path

CPU = ComputeDevice()
H200 = ComputeDevice(cuda=True, capability=(9, 0), bf16_gpu=True)
FULL = replace(H200, flash=True, liger=True)
T4 = ComputeDevice(cuda=True, capability=(7, 5), flash=True)


def config(args: dict[str, Any] | None = None, **sft: Any) -> Config:
    return Config.model_validate({"training": {"training_args": args or {}, "sft_args": sft}})


@pytest.mark.parametrize(
    ("place", "precision", "tf32", "attention", "pads", "liger"),
    [
        (CPU, "fp32", None, "sdpa", False, False),
        (H200, "bf16", True, "sdpa", True, False),
        (FULL, "bf16", True, "flash_attention_2", False, True),
        (T4, "fp32", None, "sdpa", True, False),
        (ComputeDevice(flash=True, liger=True), "fp32", None, "sdpa", False, False),
    ],
)
def test_defaults_of_each_device(
    place: ComputeDevice, precision: str, tf32: bool | None, attention: str, pads: bool, liger: bool
) -> None:
    empty = config()
    found = (
        device_defaults.resolve_precision(empty, place),
        device_defaults.resolve_tf32(empty, place),
        device_defaults.resolve_attention(empty, place),
        device_defaults.computes_padding(empty, place),
        device_defaults.uses_liger_kernels(empty, place),
    )
    assert found == (precision, tf32, attention, pads, liger)
    assert device_defaults.resolve_optimizer(empty) == "adamw_torch_fused"


def test_values_chosen_by_the_user_are_kept() -> None:
    fp32 = config({"bf16": False, "tf32": False, "optim": "sgd"}, packing="grouped")
    assert device_defaults.resolve_precision(fp32, FULL) == "fp32"
    assert device_defaults.resolve_tf32(fp32, FULL) is False
    assert device_defaults.resolve_optimizer(fp32) == "sgd"
    assert device_defaults.computes_padding(fp32, FULL)
    assert device_defaults.computes_padding(config(neftune_noise_alpha=5), CPU)
    assert device_defaults.resolve_attention(fp32, FULL) == "sdpa", "flash-attn computes in 16 bits only"
    assert device_defaults.resolve_attention(config(neftune_noise_alpha=5), FULL) == "sdpa", (
        "one row of all examples has less noise"
    )
    assert device_defaults.resolve_precision(config({"bf16": True}), CPU) == "bf16"
    assert device_defaults.uses_packing(config(packing="packed"))
    assert not device_defaults.uses_packing(config())


@pytest.mark.parametrize("place", [CPU, H200, FULL, T4])
def test_every_default_is_explained_with_a_reason(place: ComputeDevice) -> None:
    lines = device_defaults.explain_defaults(config(), place, 3)
    assert len(lines) >= 5
    assert all(len(line.what) > 3 and len(line.why) > 10 for line in lines)
    assert {line.path for line in lines} - {""} <= set(field_specs_by_path())
    words = " ".join(f"{line.what} {line.why}" for line in lines)
    assert ("batches have no padding" in words) != device_defaults.computes_padding(config(), place)
    assert ("flash-attn: it is" in " ".join(f"{line.what}: {line.why}" for line in lines)) == (place == FULL)
    assert ("3 CPU threads" in words) == (not place.cuda)


def test_values_chosen_by_the_user_are_not_explained() -> None:
    mine = config({"bf16": True, "tf32": True, "optim": "sgd", "gradient_checkpointing": True}, packing="packed")
    assert {line.path for line in device_defaults.explain_defaults(mine, FULL, 1)} == {""}


def test_empty_fields_say_what_they_mean() -> None:
    args = "training.training_args."
    for path in (args + "bf16", args + "tf32", args + "optim", "training.sft_args.packing"):
        assert field_specs_by_path()[path].default is None
        assert form_layout.get_field_layout(path).empty != "the library decides"


def test_best_fit_packing_fills_rows() -> None:
    import numpy as np

    lengths = np.array([700, 300, 600, 400, 500, 500, 1100, 24])
    rows = pack_best_fit(lengths, 1024)
    assert sorted(row for packed in rows for row in packed.tolist()) == list(range(8))
    assert sorted(int(lengths[packed].sum()) for packed in rows) == [1000, 1000, 1024, 1100]
    many = np.minimum(2000, np.random.default_rng(0).lognormal(5, 1, 5000).astype(np.int64) + 1)
    packed = pack_best_fit(many, 2048)
    assert many.sum() / (len(packed) * 2048) > 0.97
    assert len(packed) == len(pack_best_fit(many, 2048, epoch=1))
    assert [p.tolist() for p in packed] != [p.tolist() for p in pack_best_fit(many, 2048, epoch=1)]
