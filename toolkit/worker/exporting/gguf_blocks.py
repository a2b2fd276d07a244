"""Which numbers each weight of a GGUF file gets, and rounding weights to them.

The package `gguf` reads all of llama.cpp's blocks and writes those up to q8_0. K-quants (q4_k, q5_k, q6_k) are written
by llama.cpp's own function, from the library in an installed package; the mix of them is that of `llama-quantize`.
"""

from __future__ import annotations

import ctypes
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Block
from numpy.typing import NDArray

from toolkit.errors import ToolkitError
from toolkit.export.gguf_ladder import INSTALL_HINT, list_ggml_libraries
from toolkit.worker.exporting.gguf_families import GGUF_FAMILIES, GgufFamily, Weights

FILE_TYPES = {1: "float16", 7: "q8_0", 15: "q4_k_m", 17: "q5_k_m", 18: "q6_k"}
"""llama.cpp's number of a file's precision -> its name as a form of export has it."""
BLOCKS = {"float16": Block.F16, "q8_0": Block.Q8_0, "q4_k_m": Block.Q4_K, "q5_k_m": Block.Q5_K, "q6_k": Block.Q6_K}
"""The numbers of most weights in a file of that precision."""
NARROW_BLOCKS = {Block.Q4_K: Block.Q5_0, Block.Q5_K: Block.Q5_1, Block.Q6_K: Block.Q8_0}
"""What takes the place of blocks of 256 where a row is no multiple of that, as in llama.cpp."""
STAND_INS = {Block.Q4_K: (Block.Q4_0, 1.0), Block.Q5_K: (Block.Q5_0, 1.0), Block.Q6_K: (Block.Q5_0, 0.5)}
"""Numbers that stand for the rounding of others, and the share of their error: 1.2 times that of the others."""
_FINER_WEIGHTS = re.compile(r"blk\.(\d+)\.(attn_v|ffn_down)\.weight")


def choose_block(name: str, shape: tuple[int, ...], precision: str, layers: int, *, tied: bool) -> Block:
    """Return the numbers of a weight in a file of that precision.

    name: llama.cpp's. layers: of the model. tied: whether the output has no weight but that of the embeddings.
    Source: `llama_tensor_get_type` of llama.cpp.
    """
    if len(shape) < 2:
        return Block.F32
    block = BLOCKS[precision]
    found = _FINER_WEIGHTS.fullmatch(name)
    is_output = name == ("token_embd.weight" if tied else "output.weight")
    if block in NARROW_BLOCKS and (is_output or (found and _gets_more_bits(int(found[1]), layers))):
        block = Block.Q6_K
    if not _fits(shape, block):
        block = NARROW_BLOCKS.get(block, Block.F16)
    return block if _fits(shape, block) else Block.F16


def _gets_more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _fits(shape: tuple[int, ...], block: Block) -> bool:
    return shape[-1] % gguf.GGML_QUANT_SIZES[block][0] == 0


def quantize_weights(weights: Weights, block: Block) -> NDArray[np.uint8]:
    """Return the bytes of the weights as numbers of that kind. Raises ToolkitError without llama.cpp's library."""
    if block not in NARROW_BLOCKS:
        written: NDArray[np.uint8] = gguf.quantize(weights, block)
        return written
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    target = np.empty(gguf.quant_shape_to_byte_shape(weights.shape, block), dtype=np.uint8)
    rows, columns = math.prod(weights.shape[:-1]), weights.shape[-1]
    done = _open_quantizer()(block.value, weights.ctypes.data, target.ctypes.data, 0, rows, columns, None)
    if done != target.nbytes:
        raise ToolkitError(f"llama.cpp wrote {done} of {target.nbytes} bytes of a weight.", INSTALL_HINT)
    return target


def round_weights(weights: Weights, block: Block) -> Weights:
    """Return the weights as they are read from a file; without llama.cpp's library, rounded a little more coarsely."""
    if block in (Block.F16, Block.F32):
        return weights
    share = 1.0
    if block in STAND_INS and not list_ggml_libraries():
        block, share = STAND_INS[block]
    rounded: Weights = gguf.dequantize(quantize_weights(weights, block), block)
    return rounded if share == 1.0 else weights + np.float32(share) * (rounded - weights)


def name_weights(config: Any) -> Callable[[str], str]:
    """Return a function from transformers' name of a weight to llama.cpp's, "" for one that it has no name for."""
    family = GGUF_FAMILIES.get(str(config.model_type), GGUF_FAMILIES["llama"])
    known = gguf.get_tensor_name_map(find_architecture(family), config.num_hidden_layers)
    return lambda name: known.get_name(name, try_suffixes=(".weight", ".bias")) or ""


def find_architecture(family: GgufFamily) -> gguf.MODEL_ARCH:
    """Return llama.cpp's architecture of a family."""
    (found,) = [key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.name]
    return found


@functools.cache
def _open_quantizer() -> Callable[..., int]:
    """Return `ggml_quantize_chunk`: type, source, target, first number, rows, columns, weights of importance."""
    reason = "it is not installed"
    for path in list_ggml_libraries():
        try:
            function = ctypes.CDLL(str(path)).ggml_quantize_chunk
        except (OSError, AttributeError) as error:
            reason = str(error)[:300]
            continue
        function.restype = ctypes.c_size_t
        counts = [ctypes.c_int64] * 3
        function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *counts, ctypes.c_void_p]
        quantizer: Callable[..., int] = function
        return quantizer
    raise ToolkitError(f"llama.cpp's library can't be used: {reason}.", INSTALL_HINT)
