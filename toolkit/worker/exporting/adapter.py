"""The adapter form of an export: the adapter's files with its tokenizer and description, and loading them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.config import Config
from toolkit.export.adapter_archive import TOKENIZER_FILES, WEIGHT_FILES, copy_exported_files
from toolkit.export.export_forms import ExportForm
from toolkit.export.export_state import export_folder
from toolkit.export.prompt_contract import PromptContract
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import scratch_dir
from toolkit.worker.exporting.package import ExportProgressCallback, LoadedExport, add_description, copy_files
from toolkit.worker.models.folder import resolve_model_folder


def build_adapter(
    run: RunDir,
    config: Config,
    form: ExportForm,
    contract: PromptContract,
    staging: Path,
    progress: ExportProgressCallback,
) -> None:
    """Write the adapter with all that other programs need into `staging`."""
    progress("copying the adapter", 0.2)
    copy_files(run.adapter_dir, staging, (*WEIGHT_FILES, *TOKENIZER_FILES))
    add_description(run, config, form, contract, staging)


@contextmanager
def load_adapter(run: RunDir, config: Config, form: ExportForm, contract: PromptContract) -> Iterator[LoadedExport]:
    """Yield the run's base model with a copy of the exported adapter, which is deleted at the end."""
    from toolkit.worker.answering.golden_prompts import read_base_identity
    from toolkit.worker.models import load
    from toolkit.worker.models.adapter_switch import load_adapter_as_trained

    with scratch_dir(run.exports_dir / ".replay") as folder:
        copy_exported_files(export_folder(run, form.key), folder)
        base_folder = resolve_model_folder(config)
        matches = read_base_identity(base_folder, contract.base.name) == contract.base
        base = load.load_base_model(config, folder=base_folder)
        dtype = str(base.dtype).removeprefix("torch.")
        # an adapter computes in whatever precision its base is loaded, so it promises that of training
        yield LoadedExport(folder, load_adapter_as_trained(base, folder), matches, dtype, contract.precision)
