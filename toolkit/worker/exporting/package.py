"""What each form of an export holds: weights, tokenizer, contract, settings, card and picture, under fixed names.

`training_args.bin` and every other pickle stay out by a list of what may come in. The heavy
libraries are imported where a form needs them: an adapter is copied. Knows how to build, not when.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.export.evaluation_section import evaluation_section
from toolkit.export.export_state import EXPORT_FORMS, TOKENIZER_FILES, WEIGHT_FILES, ExportForm
from toolkit.export.model_card import model_card
from toolkit.export.prompt_contract import CONTRACT_FILE, PromptContract, read_reference_contract
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import durable_write
from toolkit.worker.exporting.loss_chart import draw_loss_chart
from toolkit.worker.models.folder import resolve_model_folder

ExportProgressCallback = Callable[[str, float], None]

CARD_FILE, CHART_FILE, EXPORTED_SETTINGS_FILE = "README.md", "curves.png", "finetuning-toolkit.yml"


def build_export(run: RunDir, config: Config, form: str, staging: Path, progress: ExportProgressCallback) -> None:
    """Fill `staging`. Raises ToolkitError with the reason why this form can't be had."""
    contract = _find_or_make_contract(run, config, progress)
    if form == "adapter":
        inside = staging / "files"
        inside.mkdir()
        _copy_files(run.adapter_dir, inside, (*WEIGHT_FILES, *TOKENIZER_FILES))
        _add_description(run, config, EXPORT_FORMS[form], contract, inside)
        _zip_folder(inside, staging / f"adapter-{run.id}.zip")
        shutil.rmtree(inside)
        return
    _save_merged_model(run, config, EXPORT_FORMS[form], staging, progress)
    _add_description(run, config, EXPORT_FORMS[form], contract, staging)
    if form == "gguf":
        _add_ollama_files(config, contract, staging, progress)


def _add_ollama_files(
    config: Config, contract: PromptContract, staging: Path, progress: ExportProgressCallback
) -> None:
    from toolkit.worker.exporting import gguf
    from toolkit.worker.models import load

    tokenizer = load.load_tokenizer(config, staging)
    durable_write(staging / "Modelfile", gguf.make_modelfile(config, contract, tokenizer))
    progress("converting to GGUF", 0.5)
    gguf.convert_to_gguf(staging)


def _save_merged_model(
    run: RunDir, config: Config, form: ExportForm, staging: Path, progress: ExportProgressCallback
) -> None:
    from toolkit.worker.models import load
    from toolkit.worker.models.merge import load_merged_model

    load.quiet_libraries()
    folder = resolve_model_folder(config)
    progress("merging the adapter into the base model", 0.2)
    whole = load_merged_model(run, config, folder, form.dtype)
    progress("saving the merged model", 0.4)
    whole.save_pretrained(staging)
    _copy_files(run.adapter_dir, staging, TOKENIZER_FILES)


def _find_or_make_contract(run: RunDir, config: Config, progress: ExportProgressCallback) -> PromptContract:
    """The adapter's own, else one made now from base and adapter as training would load them."""
    found = read_reference_contract(run)
    if found is not None:
        return found
    from toolkit.worker.answering.golden_prompts import make_contract
    from toolkit.worker.models import load
    from toolkit.worker.models.adapter_switch import load_trained_adapter
    from toolkit.worker.tokens.prepared_rows import open_row_source

    progress("asking the golden prompts", 0.15)
    load.quiet_libraries()
    folder = resolve_model_folder(config)
    base = load.load_base_model(config, folder=folder)
    adapted = load_trained_adapter(base, run.adapter_dir)
    tokenizer = load.load_tokenizer(config, _tokenizer_folder(run, folder))
    made = make_contract(run.id, config, adapted, tokenizer, open_row_source(run, config), folder, made="export")
    durable_write(run.exports_dir / CONTRACT_FILE, made.dump())
    return made


def _tokenizer_folder(run: RunDir, base: Path) -> Path:
    return run.adapter_dir if (run.adapter_dir / "tokenizer_config.json").exists() else base


def _add_description(run: RunDir, config: Config, form: ExportForm, contract: PromptContract, folder: Path) -> None:
    if not (folder / "tokenizer_config.json").exists():
        _copy_files(resolve_model_folder(config), folder, TOKENIZER_FILES)  # an adapter of old that came without
    durable_write(folder / CONTRACT_FILE, contract.dump())
    shutil.copyfile(run.config_path, folder / EXPORTED_SETTINGS_FILE)
    picture = draw_loss_chart(run)
    if picture is not None:
        durable_write(folder / CHART_FILE, picture)
    shown, evaluated = CHART_FILE if picture else None, evaluation_section(run)
    durable_write(folder / CARD_FILE, model_card(run, config, form, contract, picture=shown, evaluated=evaluated))


def _copy_files(source: Path, target: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _zip_folder(folder: Path, target: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    if not set(WEIGHT_FILES) <= set(names):
        raise RunError("The adapter has no weights.", "Train the run again.")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.write(folder / name, name)
