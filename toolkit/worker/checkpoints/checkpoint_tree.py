"""Nested Python values as two files: tensors in NAME.safetensors, everything else in NAME.json. No pickle.

Types come back as they went: tuples, integer keys, the bits of floats, the dtype and shape of tensors. What is none of
these is refused, not guessed at. Knows no trainer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import RunError

_PLAIN_TYPES = (bool, int, float, str, type(None))


def save_tree(folder: Path, name: str, tree: Any) -> None:
    """Write `tree` as folder/name.json and folder/name.safetensors. Raises RunError for a type it can't keep."""
    tensors: dict[str, torch.Tensor] = {}
    plain = _encode_value(tree, tensors)
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")


def load_tree(folder: Path, name: str) -> Any:
    """What save_tree wrote, its tensors on the CPU. Raises OSError, ValueError, KeyError or safetensors' own error."""
    tensors = load_file(folder / f"{name}.safetensors")
    return _decode_value(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), tensors)


def _encode_value(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        key = f"t{len(tensors)}"
        # a copy: safetensors refuses two names for one memory
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, dict):
        return {"dict": [[_encode_value(key, tensors), _encode_value(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, list):
        return [_encode_value(inner, tensors) for inner in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode_value(inner, tensors) for inner in value]}
    raise RunError(f"A checkpoint can't keep a {type(value).__name__}.", "Please report it with the log.")


def _decode_value(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode_value(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decode_value(inner, tensors) for inner in content)
    return {_decode_value(key, tensors): _decode_value(inner, tensors) for key, inner in content}
