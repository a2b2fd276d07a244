"""Save the trained adapter: safetensors weights, its config, the tokenizer and the run's settings.

The folder appears complete or not at all (the commit protocol of `system/durable.py`).
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
from toolkit.worker.models.tokenizer_files import save_tokenizer
from toolkit.worker.training.reporter import divergence_error

ALLOWED_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".yml", ".md")
"""File types of an adapter. None of them can hold code; another one means that a library changed what it saves."""


def save_adapter(
    run: RunDir,
    config: Config,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    step: int,
    contract: str | None = None,
) -> int:
    """Save the adapter as run.adapter_dir and return its size in bytes.

    contract: the prompt contract as JSON text, stored with it. Raises DivergedError if a trained weight is not finite,
    RunError for an unexpected file, OSError if the disk is full.
    """
    _refuse_non_finite_weights(model, step)
    staging = run.path / ".adapter-new"
    shutil.rmtree(staging, ignore_errors=True)  # left over when an earlier save was killed
    # without embeddings: they belong to the base model, and peft would query the hub to compare them
    model.save_pretrained(staging, save_embedding_layers=False)
    save_tokenizer(tokenizer, staging)
    shutil.copyfile(run.config_path, staging / "config.yml")
    if contract is not None:
        (staging / CONTRACT_FILE).write_text(contract, encoding="utf-8")
    write_base_name(staging, portable_base_name(config, model))
    _refuse_unexpected_files(staging)
    extra: dict[str, Any] = {"kind": "adapter", "run": run.id, "step": step, "base": config.model.hf_model_ckpt}
    commit_dir(staging, run.adapter_dir, extra)
    return sum(path.stat().st_size for path in run.adapter_dir.rglob("*") if path.is_file())


def portable_base_name(config: Config, model: PeftModel) -> str:
    """Return the name by which other programs find the base model.

    That is the hub id if the model was downloaded from the hub, else the absolute path of its folder.
    """
    name = str(config.model.hf_model_ckpt)
    loaded_from = str(model.get_base_model().config._name_or_path)
    # "models--" is part of the path of every folder in the hub's cache
    return name if "models--" in loaded_from and not Path(name).exists() else loaded_from


def write_base_name(folder: Path, name: str) -> None:
    """Set the base model in the adapter_config.json of `folder`."""
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = name
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _refuse_non_finite_weights(model: PeftModel, step: int) -> None:
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise divergence_error(f"weight {name} is not finite", step)


def _refuse_unexpected_files(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    unexpected = sorted(path.name for path in files if path.suffix not in ALLOWED_SUFFIXES)
    if unexpected:
        raise RunError(f"The adapter would contain {', '.join(unexpected)}.", "Please report this with the log.")
