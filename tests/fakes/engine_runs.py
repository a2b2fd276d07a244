"""Finished runs for the engine's tests: a config and a random adapter, committed as a worker would."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from toolkit.config import Config
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.system.durable import commit_dir


def make_config(save_dir: Path, model: Path | str, *, bits: int | None = None, **lora: Any) -> Config:
    quantized = {"load_in_4bit": bits == 4, "load_in_8bit": bits == 8} if bits else {}
    return Config.model_validate(
        {
            "save_dir": str(save_dir),
            "model": {
                "hf_model_ckpt": str(model),
                "device_map": "cpu",
                "quantize": bool(bits),
                "bitsandbytes": quantized,
            },
            "lora": {"r": 4, "lora_alpha": 8, **lora},
            "inference": {"max_new_tokens": 12},
        }
    )


def finished_run(save_dir: Path, model: Path | str, seed: int = 1, **lora: Any) -> RunDir:
    """Create a run with an adapter that changes every answer."""
    config = make_config(save_dir, model, **lora)
    run = create_run(config, None)
    write_adapter(run, config, seed)
    return run


def write_adapter(run: RunDir, config: Config, seed: int, scale: float = 1.0) -> None:
    """Return a model with a random adapter. scale: 0 makes one that changes nothing."""
    peft = _random_adapter(config, seed, scale)
    staging = run.path / ".adapter"
    peft.save_pretrained(staging)
    (staging / "README.md").unlink(missing_ok=True)
    if run.adapter_dir.exists():
        shutil.rmtree(run.adapter_dir)
    commit_dir(staging, run.adapter_dir, {"kind": "adapter"})


def write_checkpoint(run: RunDir, config: Config, step: int, seed: int) -> None:
    """Save a checkpoint with the weights of such an adapter, as training does."""
    from toolkit.runs.checkpoints import save_checkpoint
    from toolkit.worker.checkpoints.training_state import save_trained_weights

    peft = _random_adapter(config, seed, 1.0)
    save_checkpoint(run, step, lambda folder: save_trained_weights(peft, folder), {}, lambda done: None)


def _random_adapter(config: Config, seed: int, scale: float) -> Any:
    import torch
    from peft import get_peft_model

    from toolkit.worker.models.load import load_base_model
    from toolkit.worker.models.lora_setup import build_lora_config

    torch.manual_seed(seed)
    base = load_base_model(config)
    peft = get_peft_model(base, build_lora_config(config, base))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale * (0.3 if "lora_B" in name else 0.05))
    return peft
