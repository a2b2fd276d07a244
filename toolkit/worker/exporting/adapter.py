"""The adapter form of an export: a zip of the adapter with its tokenizer and description, and loading it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.config import Config
from toolkit.export.adapter_archive import TOKENIZER_FILES, WEIGHT_FILES, unpack, write_zip
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
    """Write adapter-<run>.zip into `staging`."""
    progress("copying the adapter", 0.2)
    with scratch_dir(staging / "files") as folder:
        copy_files(run.adapter_dir, folder, (*WEIGHT_FILES, *TOKENIZER_FILES))
        add_description(run, config, form, contract, folder)
        write_zip(staging / f"adapter-{run.id}.zip", {path.name: path for path in sorted(folder.iterdir())})


@contextmanager
def load_adapter(run: RunDir, config: Config, form: ExportForm, contract: PromptContract) -> Iterator[LoadedExport]:
    """Yield the run's base model with the adapter from the zip; the unpacked files are deleted at the end."""
    from toolkit.worker.answering.golden_prompts import read_base_identity
    from toolkit.worker.models import load
    from toolkit.worker.models.adapter_switch import load_adapter_as_trained

    with scratch_dir(run.exports_dir / ".replay") as folder:
        unpack(next(iter(export_folder(run, form.key).glob("*.zip"))), folder)
        base_folder = resolve_model_folder(config)
        matches = read_base_identity(base_folder, contract.base.name) == contract.base
        base = load.load_base_model(config, folder=base_folder)
        dtype = str(base.dtype).removeprefix("torch.")
        # an adapter computes in whatever precision its base is loaded, so it promises that of training
        yield LoadedExport(folder, load_adapter_as_trained(base, folder), matches, dtype, contract.precision)
