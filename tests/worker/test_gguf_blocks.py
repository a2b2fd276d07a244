"""Which numbers the weights of a GGUF file get, and how far rounding moves them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

pytest.importorskip("gguf")

from gguf import GGMLQuantizationType as Block

from toolkit.errors import ToolkitError
from toolkit.export import gguf_ladder
from toolkit.worker.exporting import gguf_blocks

WIDE, NARROW, ODD = (64, 512), (64, 96), (64, 40)
needs_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")


def choose(name: str, shape: tuple[int, ...], precision: str, *, tied: bool = False) -> str:
    return gguf_blocks.choose_block(name, shape, precision, 30, tied=tied).name


@pytest.mark.parametrize(
    ("name", "shape", "tied", "blocks"),
    [
        ("blk.7.attn_q.weight", WIDE, False, ("Q6_K", "Q5_K", "Q4_K")),
        ("blk.7.attn_q.weight", NARROW, False, ("Q8_0", "Q5_1", "Q5_0")),
        ("blk.7.attn_q.weight", ODD, False, ("F16", "F16", "F16")),
        ("blk.0.ffn_down.weight", WIDE, False, ("Q6_K", "Q6_K", "Q6_K")),
        ("blk.2.attn_v.weight", NARROW, False, ("Q8_0", "Q8_0", "Q8_0")),
        ("blk.3.ffn_down.weight", WIDE, False, ("Q6_K", "Q5_K", "Q4_K")),
        ("blk.5.attn_v.weight", WIDE, False, ("Q6_K", "Q6_K", "Q6_K")),
        ("blk.25.ffn_down.weight", WIDE, False, ("Q6_K", "Q5_K", "Q4_K")),
        ("blk.26.ffn_down.weight", WIDE, False, ("Q6_K", "Q6_K", "Q6_K")),
        ("output.weight", WIDE, False, ("Q6_K", "Q6_K", "Q6_K")),
        ("token_embd.weight", WIDE, False, ("Q6_K", "Q5_K", "Q4_K")),
        ("token_embd.weight", WIDE, True, ("Q6_K", "Q6_K", "Q6_K")),
        ("token_embd.weight", NARROW, True, ("Q8_0", "Q8_0", "Q8_0")),
        ("blk.7.attn_norm.weight", (512,), False, ("F32", "F32", "F32")),
    ],
)
def test_the_mix_is_that_of_llama_quantize(
    name: str, shape: tuple[int, ...], tied: bool, blocks: tuple[str, ...]
) -> None:
    assert tuple(choose(name, shape, one, tied=tied) for one in ("q6_k", "q5_k_m", "q4_k_m")) == blocks
    for precision in ("float16", "q8_0"):
        block = {"float16": "F16", "q8_0": "Q8_0" if shape[-1] % 32 == 0 else "F16"}[precision]
        assert choose(name, shape, precision, tied=tied) == ("F32" if len(shape) < 2 else block)


@needs_llama_cpp
def test_llama_cpp_rounds_what_the_package_gguf_can_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(0).normal(0, 0.02, WIDE).astype(np.float32)

    def error(block: Block) -> float:
        found = gguf_blocks.round_weights(weights, block)
        return float(np.sqrt(np.mean((found - weights) ** 2)) / weights.std())

    exact = [error(block) for block in gguf_blocks.STAND_INS]
    assert 0.06 < exact[0] < 0.08 and 0.03 < exact[1] < 0.04 and 0.015 < exact[2] < 0.02
    monkeypatch.setattr(gguf_blocks, "list_ggml_libraries", list)
    for one, block in zip(exact, gguf_blocks.STAND_INS, strict=True):
        assert one < error(block) < 1.3 * one, f"what stands for {block.name} is a little coarser"


def test_without_llama_cpp_its_blocks_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.ones(WIDE, dtype=np.float32)
    gguf_blocks._open_quantizer.cache_clear()
    monkeypatch.setattr(gguf_blocks, "list_ggml_libraries", list)
    with pytest.raises(ToolkitError, match="it is not installed") as caught:
        gguf_blocks.quantize_weights(weights, Block.Q4_K)
    assert gguf_ladder.PLAYER in caught.value.hint
    assert gguf_blocks.quantize_weights(weights, Block.Q8_0).shape == (64, 512 // 32 * 34)
