"""Write the state of a training at the end of a step to a folder and read it back: all that a bit-exact resume needs.

The files:

weights.safetensors              every trainable parameter by its name
optimizer.json, .safetensors     moments, scheduler and gradient scaler
rank-N.json, .safetensors        random states and running sums of process N
trainer_state.json               the trainer's step, epoch and token count
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from toolkit.errors import RunError, ToolkitError
from toolkit.system.printable import format_plural

CHECKPOINT_WEIGHTS_FILE, OPTIMIZER_STATE, TRAINER_STATE_FILE = "weights.safetensors", "optimizer", "trainer_state.json"
_PLAIN_TYPES = (bool, int, float, str, type(None))


def save_shared_state(trainer: Any, folder: Path) -> None:
    """Write the state that is the same in every process. Only one process calls it."""
    save_trained_weights(trainer.model, folder)
    scaler = getattr(trainer.accelerator, "scaler", None)
    tree = {
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    save_tree(folder, OPTIMIZER_STATE, tree)
    # without the trainer's history of logs, which grows with the run: events.jsonl has it
    dataclasses.replace(trainer.state, log_history=[]).save_to_json(folder / TRAINER_STATE_FILE)


def save_rank_state(trainer: Any, folder: Path, rank: int) -> None:
    """Write the state that each process has of its own."""
    tree = {
        "random": get_random_states(),
        "loss_since_log": trainer._tr_loss,
        "step_last_logged": trainer._globalstep_last_logged,
        "tokens_trained": trainer._total_train_tokens,
    }
    save_tree(folder, f"rank-{rank}", tree)


def save_trained_weights(model: nn.Module, folder: Path) -> None:
    """Write every trainable parameter of `model` under its name."""
    trained = {
        name: weight.detach().cpu().contiguous() for name, weight in model.named_parameters() if weight.requires_grad
    }
    save_file(trained, folder / CHECKPOINT_WEIGHTS_FILE)


def load_trained_weights(model: nn.Module, folder: Path) -> None:
    """Restore the trained weights.

    Raises ToolkitError if names, shapes or types are not exactly those of the parameters that this model trains.
    """
    saved = load_file(folder / CHECKPOINT_WEIGHTS_FILE)
    own = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    different = sorted(set(saved) ^ set(own)) or [name for name in own if own[name].shape != saved[name].shape]
    if different:
        message = f"The checkpoint's weights don't fit this adapter. Different: {different[0]}"
        message += f" and {format_plural(len(different) - 1, 'other')}." if different[1:] else "."
        raise ToolkitError(message, "Use the settings (model and LoRA) that the checkpoint was made with.")
    with torch.no_grad():
        for name, weight in own.items():
            if weight.dtype != saved[name].dtype:
                message = f"The checkpoint has {name} as {saved[name].dtype}, this run as {weight.dtype}."
                raise ToolkitError(message, "Use the precision that the checkpoint was made with.")
            weight.copy_(saved[name])


def load_optimizer_state(trainer: Any, folder: Path) -> None:
    """Restore the optimizer, the scheduler and the gradient scaler."""
    tree = load_tree(folder, OPTIMIZER_STATE)
    trainer.optimizer.load_state_dict(tree["optimizer"])
    _keep_dtypes(getattr(trainer.optimizer, "optimizer", trainer.optimizer), tree["optimizer"])
    trainer.lr_scheduler.load_state_dict(tree["scheduler"])
    if tree["scaler"] is not None and getattr(trainer.accelerator, "scaler", None) is not None:
        trainer.accelerator.scaler.load_state_dict(tree["scaler"])


def load_rank_state(trainer: Any, folder: Path, rank: int) -> None:
    """Restore the running sums of this process. The trainer asks for its random states later, by load_random_states."""
    tree = load_tree(folder, f"rank-{rank}")
    trainer._tr_loss = tree["loss_since_log"].to(trainer.args.device)
    trainer._globalstep_last_logged = tree["step_last_logged"]
    trainer._total_train_tokens = tree["tokens_trained"]


def load_random_states(folder: Path, rank: int) -> None:
    """Restore the random states of process `rank`."""
    set_random_states(load_tree(folder, f"rank-{rank}")["random"])


def get_random_states() -> dict[str, Any]:
    """Return the states of every generator that training draws from, as plain values and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restore what get_random_states returned; the states of GPUs only on a machine with as many."""
    random.setstate(states["python"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def _keep_dtypes(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Restore the types of the optimizer's moments: torch casts them to the type of their weight on loading, and some
    optimizers keep them in a wider one."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for weight, number in zip(weights, numbers, strict=True):
        for name, value in saved["state"].get(number, {}).items():
            if isinstance(value, torch.Tensor) and optimizer.state[weight][name].dtype != value.dtype:
                optimizer.state[weight][name] = value.to(optimizer.state[weight][name].device)


def save_tree(folder: Path, name: str, tree: Any) -> None:
    """Write `tree` as folder/name.json and folder/name.safetensors.

    tree: dicts, lists and tuples of plain values and tensors. The JSON holds {"tensor": key}, {"dict": [[key, value],
    ...]} and {"tuple": [...]}, so that types and keys that are no strings survive. Raises RunError for another type.
    """
    tensors: dict[str, torch.Tensor] = {}
    plain = _encode_value(tree, tensors)
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")


def load_tree(folder: Path, name: str) -> Any:
    """Return what save_tree wrote, its tensors on the CPU.

    Raises OSError, ValueError, KeyError or safetensors' own error.
    """
    tensors = load_file(folder / f"{name}.safetensors")
    return _decode_value(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), tensors)


def _encode_value(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        key = f"t{len(tensors)}"
        # a copy, because safetensors refuses two names for the same memory
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
    raise RunError(f"A checkpoint can't store a {type(value).__name__}.", "Please report this with the log.")


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
