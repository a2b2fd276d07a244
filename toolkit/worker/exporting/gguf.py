"""The GGUF forms of an export, for llama.cpp and Ollama: model.gguf, a Modelfile, tokenizer and description.

Files of the families in `gguf_families.py` are written here; for those of 6, 5 and 4 bits llama.cpp's library rounds
the weights. Others are converted by llama.cpp's `convert_hf_to_gguf` where a module of that name is installed, and
rounded by its `llama-quantize`.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from transformers import AutoConfig, GenerationConfig, LlamaConfig

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.export.export_forms import GGUF_FILE, GGUF_PROBLEM_FILE, K_QUANTS, ExportForm
from toolkit.export.export_state import export_folder
from toolkit.export.gguf_ladder import INSTALL_HINT, QUANTIZER, list_ggml_libraries, list_ladder_forms
from toolkit.export.prompt_contract import PromptContract, SpecialTokens
from toolkit.export.usage_recipes import GGUF_CONVERTER
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import durable_write
from toolkit.worker.exporting import gguf_file
from toolkit.worker.exporting.gguf_families import find_unwritable
from toolkit.worker.exporting.gguf_tokenizer import find_unwritable_tokenizer
from toolkit.worker.exporting.merged import load_exported_model, load_merged, write_merged_model
from toolkit.worker.exporting.modelfile import make_modelfile
from toolkit.worker.exporting.package import ExportProgressCallback, LoadedExport, add_description
from toolkit.worker.models import load
from toolkit.worker.models.folder import resolve_model_folder

QUANTIZER_HINT = f"Install llama.cpp so that {QUANTIZER} is on the PATH, or choose the export in 8 bits."
MERGED_PRECISION = "float16"
"""Of the merged model that a file is made from: finer than bfloat16 for all but very large weights."""


def build_gguf(
    run: RunDir,
    config: Config,
    form: ExportForm,
    contract: PromptContract,
    staging: Path,
    progress: ExportProgressCallback,
) -> None:
    """Write model.gguf with a Modelfile. The 16-bit form of a model that can't be written keeps the merged model.

    Raises ToolkitError with the reason for another precision.
    """
    if form.key not in list_ladder_forms():
        raise ToolkitError(f"Files of {form.dtype} are rounded by llama.cpp, which is not installed.", INSTALL_HINT)
    if form.quantized and importlib.util.find_spec(GGUF_CONVERTER) is None:
        _refuse(_find_problem(config, resolve_model_folder(config)))  # before a merge that takes minutes
    write_merged_model(run, config, contract, MERGED_PRECISION, staging, progress)
    add_description(run, config, form, contract, staging)
    tokenizer = load.load_tokenizer(config, staging)
    durable_write(staging / "Modelfile", make_modelfile(config, contract, tokenizer))
    progress("writing the GGUF file", 0.5)
    problem = convert_to_gguf(config, staging, contract.special_tokens, form.dtype)
    if form.quantized:
        _refuse(problem)
    if problem:
        durable_write(staging / GGUF_PROBLEM_FILE, problem + "\n")


def _refuse(problem: str) -> None:
    if problem:
        raise ToolkitError(problem, "Export the merged model instead, for vLLM or transformers.")


def load_gguf(
    run: RunDir, config: Config, form: ExportForm, contract: PromptContract
) -> AbstractContextManager[LoadedExport]:
    """Load model.gguf, or the merged model that it would be converted from."""
    folder = export_folder(run, form.key)
    if not (folder / GGUF_FILE).exists():
        return load_merged(run, config, form, contract)
    return _load_converted(config, form, folder)


@contextmanager
def _load_converted(config: Config, form: ExportForm, folder: Path) -> Iterator[LoadedExport]:
    """Yield weights and tokenizer of the file; the architecture comes from config.json, as transformers' reader knows
    only a part of llama.cpp's settings."""
    path, settings = folder / GGUF_FILE, AutoConfig.from_pretrained(str(folder))
    computed = "float16" if form.dtype == "float16" else "float32"
    if settings.model_type == "mistral":  # llama.cpp computes it as a Llama, and the reader knows it by that name only
        named = {name: value for name, value in settings.to_dict().items() if name != "model_type"}
        settings = LlamaConfig(**named)
    model = load_exported_model(config, folder, dtype=computed, gguf_file=GGUF_FILE, config=settings)
    # the file has room for two ends; Ollama gets all of them from the Modelfile
    model.generation_config = GenerationConfig.from_pretrained(str(folder))
    # one that llama.cpp's converter has written may split texts in a way that is not known here
    tokenizer = None if _find_problem(config, folder) else gguf_file.read_gguf_tokenizer(path)
    yield LoadedExport(folder, model, None, gguf_file.read_gguf_precision(path), form.dtype, tokenizer)


def convert_to_gguf(config: Config, folder: Path, special: SpecialTokens, precision: str) -> str:
    """Replace the weights in `folder` by model.gguf. Return why that is not possible, "" when it is done.

    Raises ToolkitError when a program of llama.cpp fails.
    """
    problem = _find_problem(config, folder)
    is_rounded_here = precision not in K_QUANTS or (not problem and bool(list_ggml_libraries()))
    first = folder / (GGUF_FILE if is_rounded_here else "model-f16.gguf")
    if not problem:
        settings, tokenizer = AutoConfig.from_pretrained(str(folder)), load.load_tokenizer(config, folder)
        written = precision if is_rounded_here else "float16"
        gguf_file.write_gguf(folder, first, settings, tokenizer, special, written)
    elif importlib.util.find_spec(GGUF_CONVERTER) is not None:
        kind = "q8_0" if precision == "q8_0" else "f16"
        converter = [sys.executable, "-m", GGUF_CONVERTER, str(folder), "--outfile", str(first), "--outtype", kind]
        _run_program(converter, first, "converter", "It may not support this architecture or tokenizer yet.")
    else:
        return problem
    if first.name != GGUF_FILE:
        if shutil.which(QUANTIZER) is None:
            reason = f"This file of {precision} is made by llama.cpp's {QUANTIZER}, which is not installed."
            raise ToolkitError(reason, QUANTIZER_HINT)
        quantizer = [QUANTIZER, str(first), str(folder / GGUF_FILE), precision.upper()]
        _run_program(quantizer, folder / GGUF_FILE, "quantizer", "It may be too old for this file.")
        first.unlink()
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    return ""


def _find_problem(config: Config, folder: Path) -> str:
    reason = find_unwritable(AutoConfig.from_pretrained(str(folder))) or find_unwritable_tokenizer(
        load.load_tokenizer(config, folder)
    )
    return f"model.gguf can't be written: {reason}." if reason else ""


def _run_program(command: Sequence[str], target: Path, name: str, hint: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode or not target.exists():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        raise ToolkitError(f"llama.cpp's {name} failed: {reason}.", f"{hint} Export the merged model instead.")
