"""The merged forms of an export: base model and adapter as one model in safetensors, and loading it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from toolkit.config import Config
from toolkit.export.adapter_archive import TOKENIZER_FILES
from toolkit.export.export_forms import ExportForm
from toolkit.export.export_state import export_folder
from toolkit.export.prompt_contract import PromptContract
from toolkit.runs.run_dir import RunDir
from toolkit.worker.exporting.package import ExportProgressCallback, LoadedExport, add_description, copy_files
from toolkit.worker.models import load
from toolkit.worker.models.folder import resolve_model_folder
from toolkit.worker.models.merge import load_merged_model
from toolkit.worker.models.older_readers import write_both_config_forms

DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
"""torch's names for the types in a safetensors header."""


def build_merged(
    run: RunDir,
    config: Config,
    form: ExportForm,
    contract: PromptContract,
    staging: Path,
    progress: ExportProgressCallback,
) -> None:
    """Write the merged model in `form.dtype` with its tokenizer and description into `staging`."""
    write_merged_model(run, config, contract, form.dtype, staging, progress)
    add_description(run, config, form, contract, staging)


def write_merged_model(
    run: RunDir, config: Config, contract: PromptContract, dtype: str, staging: Path, progress: ExportProgressCallback
) -> None:
    """Write the merged model with the files of its tokenizer into `staging`. dtype: a key of MERGE_DTYPES."""
    load.quiet_libraries()
    folder = resolve_model_folder(config)
    progress("merging the adapter into the base model", 0.2)
    merged = load_merged_model(run, config, folder, dtype)
    name_trained_end(merged, contract)
    progress("saving the merged model", 0.4)
    merged.save_pretrained(staging)
    write_both_config_forms(staging)
    copy_files(run.adapter_dir, staging, TOKENIZER_FILES)


def name_trained_end(model: Any, contract: PromptContract) -> None:
    """Write the tokens that end an answer into the model's configs, the trained one first.

    Other programs stop at those only: a base model that was trained to end turns like a chat model would run on.
    """
    end, stops = contract.special_tokens.eos, contract.special_tokens.stops
    ends = [*([end] if end is not None else []), *(stop for stop in stops if stop != end)]
    if not ends:
        return
    model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends
    if contract.special_tokens.pad is not None and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = contract.special_tokens.pad
    for settings in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        settings.eos_token_id = ends[0]


@contextmanager
def load_merged(run: RunDir, config: Config, form: ExportForm, contract: PromptContract) -> Iterator[LoadedExport]:
    """Yield the model as transformers loads it from the exported folder."""
    folder = export_folder(run, form.key)
    model = load_exported_model(config, folder, dtype="auto", use_safetensors=True)
    stored, computed = read_weights_dtype(folder), str(model.dtype).removeprefix("torch.")
    dtype = stored if stored == computed else f"{stored}, loaded as {computed}"
    yield LoadedExport(folder, model, None, dtype, form.dtype)


def load_exported_model(config: Config, folder: Path, /, **arguments: Any) -> Any:
    """Load a model from its exported files alone, onto the device of the run. Raises ToolkitError."""
    device = "cuda:0" if load.detect_compute_device(config).cuda else "cpu"
    with load.explain_load_errors(folder.name):
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **arguments
        )
    return model.eval().to(device)


def read_weights_dtype(folder: Path) -> str:
    """Return the precision of the floating-point weights in the folder's safetensors; several are joined by "and"."""
    found: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            # the format begins with the length of its JSON header: 8 bytes, little-endian
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found |= {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    return " and ".join(sorted(DTYPE_NAMES.get(name, name) for name in found))
