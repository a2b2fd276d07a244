"""Write a model as one GGUF file with the package `gguf`, and read it back.

Matrices are written in 16 bits or in blocks of fewer (`gguf_blocks.py`), all other weights in float32, as llama.cpp
expects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolkit.errors import ToolkitError
from toolkit.export.prompt_contract import SpecialTokens
from toolkit.worker.exporting import gguf_tokenizer
from toolkit.worker.exporting.gguf_blocks import FILE_TYPES, choose_block, name_weights, quantize_weights
from toolkit.worker.exporting.gguf_families import (
    GGUF_FAMILIES,
    Weights,
    arrange_weights,
    list_gguf_settings,
    scale_frequencies,
)

FREQUENCIES = "rope_freqs.weight"


def write_gguf(
    folder: Path, target: Path, config: Any, tokenizer: PreTrainedTokenizerBase, special: SpecialTokens, precision: str
) -> None:
    """Write the safetensors in `folder` with its tokenizer to `target`. precision: a key of BLOCKS.

    config: of the model, which `find_unwritable` accepts. Raises ToolkitError for a weight without a place in the file.
    """
    family = GGUF_FAMILIES[str(config.model_type)]
    writer = gguf.GGUFWriter(target, family.name)
    writer.add_name(folder.name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(next(number for number, name in FILE_TYPES.items() if name == precision))
    fields = gguf_tokenizer.list_tokenizer_fields(tokenizer, special, config.vocab_size)
    settings = {f"{family.name}.{name}": value for name, value in list_gguf_settings(config).items()}
    for name, value in {**settings, **fields}.items():
        _add_field(writer, name, value)
    names = _list_names(folder, config)
    shapes = {name: weights.shape for name, weights in _iterate_weights(folder, config, names)}
    tied, layers = "output.weight" not in shapes, config.num_hidden_layers
    kinds = {name: choose_block(name, shape, precision, layers, tied=tied) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        kind = kinds[name]
        size = math.prod(gguf.quant_shape_to_byte_shape(shape, kind))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, weights in _iterate_weights(folder, config, names):
        writer.write_tensor_data(quantize_weights(weights.astype(np.float32), kinds[name]))
    writer.close()


def _add_field(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def _list_names(folder: Path, config: Any) -> dict[str, str]:
    """Return transformers' names of the weights in `folder` -> llama.cpp's. Raises ToolkitError."""
    find_name = name_weights(config)
    names: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                found = find_name(name)
                if not found:
                    raise ToolkitError(f"GGUF has no place for the weight {name}.", "Export the merged model instead.")
                names[name] = found
    return names


def _iterate_weights(folder: Path, config: Any, names: dict[str, str]) -> Iterator[tuple[str, Weights]]:
    """Yield llama.cpp's names and weights one by one, so that only one is in memory."""
    frequencies = scale_frequencies(config)
    if frequencies is not None:
        yield FREQUENCIES, frequencies
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                weights = opened.get_tensor(name).to(torch.float32).numpy()
                yield names[name], arrange_weights(config, name, weights)


def read_gguf_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer in the file."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}
    return gguf_tokenizer.build_tokenizer(fields)


def read_gguf_precision(path: Path) -> str:
    """Return the precision that the file says it has."""
    field = gguf.GGUFReader(path).fields["general.file_type"]
    number = int(field.contents())
    return FILE_TYPES.get(number, str(number))
