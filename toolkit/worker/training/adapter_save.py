"""The adapter on disk: whole or not there at all. safetensors, its config, the tokenizer and the run's own settings.

Knows the run directory's commit protocol and peft's file names; no trainer, no event.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.export.prompt_contract import CONTRACT_FILE
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import commit_dir
from toolkit.worker.training.reporter import divergence_error

ALLOWED_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".yml", ".md")


def save_adapter(
    run: RunDir,
    config: Config,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    step: int,
    contract: str | None = None,
) -> int:
    """Save the adapter, with its prompt contract, as run.adapter_dir by the commit protocol; returns its bytes.

    Raises DivergedError when a trained weight is not finite, OSError when the disk refuses.
    """
    _refuse_non_finite_weights(model, step)
    staging = run.path / ".adapter-new"
    shutil.rmtree(staging, ignore_errors=True)
    # the base's embeddings are not the adapter's; looking them up would ask the hub
    model.save_pretrained(staging, save_embedding_layers=False)
    tokenizer.save_pretrained(staging)
    shutil.copyfile(run.config_path, staging / "config.yml")
    if contract is not None:
        (staging / CONTRACT_FILE).write_text(contract, encoding="utf-8")
    write_base_name(staging, portable_base_name(config, model))
    _refuse_unexpected_files(staging)
    extra: dict[str, Any] = {"kind": "adapter", "run": run.id, "step": step, "base": config.model.hf_model_ckpt}
    commit_dir(staging, run.adapter_dir, extra)
    return sum(path.stat().st_size for path in run.adapter_dir.rglob("*") if path.is_file())


def portable_base_name(config: Config, model: PeftModel) -> str:
    """How other programs find the base: the hub id where it came from the hub, else its absolute folder."""
    name = str(config.model.hf_model_ckpt)
    loaded_from = str(model.get_base_model().config._name_or_path)
    return name if "models--" in loaded_from and not Path(name).exists() else loaded_from


def write_base_name(folder: Path, name: str) -> None:
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = name
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _refuse_non_finite_weights(model: PeftModel, step: int) -> None:
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise divergence_error(f"weight {name} is not finite", step)


def _refuse_unexpected_files(folder: Path) -> None:
    strange = sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix not in ALLOWED_SUFFIXES)
    if strange:
        raise RunError(f"The adapter would contain {', '.join(strange)}.", "Please report it with the log.")
