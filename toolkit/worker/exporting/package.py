"""What every form of export contains besides its weights: contract, settings, model card, tokenizer and loss chart.

Files are chosen by name, so `training_args.bin` and every other pickle stay out. The heavy libraries are imported only
where a contract has to be made: copying an adapter needs none of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config import Config
from toolkit.export.adapter_archive import CARD_FILE, SETTINGS_FILE, TOKENIZER_FILES
from toolkit.export.evaluation_section import evaluation_section
from toolkit.export.export_forms import ExportForm, find_export_form, resolve_form_function
from toolkit.export.model_card import CHART_FILE, model_card
from toolkit.export.prompt_contract import CONTRACT_FILE, PromptContract, read_reference_contract
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import durable_write
from toolkit.worker.exporting.loss_chart import draw_loss_chart
from toolkit.worker.models.folder import resolve_model_folder
from toolkit.worker.models.older_readers import write_old_tokenizer_form

ExportProgressCallback = Callable[[str, float], None]
"""(phase, fraction done from 0 to 1)"""


@dataclass(frozen=True)
class LoadedExport:
    """An export as it was loaded from its files.

    base_matches: whether the adapter's base model is the one of training; None when the export contains its weights.
    dtype: precision of the weights in the files. precision: the one that the export promises. tokenizer: None if it is
    in the files of transformers.
    """

    folder: Path
    model: Any
    base_matches: bool | None
    dtype: str
    precision: str
    tokenizer: Any = None


def build_export(run: RunDir, config: Config, form: str, staging: Path, progress: ExportProgressCallback) -> None:
    """Write the export into the empty folder `staging`. Raises ToolkitError with the reason when it can't be made."""
    kind = find_export_form(form)
    contract = _find_or_make_contract(run, config, progress)
    resolve_form_function(kind.build)(run, config, kind, contract, staging, progress)


def _find_or_make_contract(run: RunDir, config: Config, progress: ExportProgressCallback) -> PromptContract:
    """Return the adapter's own contract, or make one from base model and adapter as training would load them."""
    found = read_reference_contract(run)
    # before adapters were replayed in their own precision, a contract made here was computed in another one
    if found is not None and (found.made == "training" or found.adapter_precision):
        return found
    from toolkit.worker.answering.golden_prompts import make_contract
    from toolkit.worker.models import load
    from toolkit.worker.models.adapter_switch import load_adapter_as_trained
    from toolkit.worker.tokens.prepared_rows import open_row_source

    progress("answering the golden prompts", 0.15)
    load.quiet_libraries()
    folder = resolve_model_folder(config)
    base = load.load_base_model(config, folder=folder)
    adapted = load_adapter_as_trained(base, run.adapter_dir)
    tokenizer = load.load_tokenizer(config, _tokenizer_folder(run, folder))
    made = make_contract(run.id, config, adapted, tokenizer, open_row_source(run, config), folder, made="export")
    durable_write(run.exports_dir / CONTRACT_FILE, made.dump())
    return made


def _tokenizer_folder(run: RunDir, base: Path) -> Path:
    return run.adapter_dir if (run.adapter_dir / "tokenizer_config.json").exists() else base


def add_description(run: RunDir, config: Config, form: ExportForm, contract: PromptContract, folder: Path) -> None:
    """Write contract, settings, card and loss chart next to the weights in `folder`."""
    if not (folder / "tokenizer_config.json").exists():
        copy_files(resolve_model_folder(config), folder, TOKENIZER_FILES)  # early versions saved adapters without one
    write_old_tokenizer_form(folder)
    durable_write(folder / CONTRACT_FILE, contract.dump())
    shutil.copyfile(run.config_path, folder / SETTINGS_FILE)
    chart = draw_loss_chart(run)
    if chart is not None:
        durable_write(folder / CHART_FILE, chart)
    card = model_card(
        run,
        config,
        form,
        contract,
        chart_file=CHART_FILE if chart is not None else None,
        figures=evaluation_section(run),
    )
    durable_write(folder / CARD_FILE, card)


def copy_files(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files that a pattern of `Path.glob` matches, into the same folders."""
    for path in [path for pattern in patterns for path in sorted(source.glob(pattern)) if path.is_file()]:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
