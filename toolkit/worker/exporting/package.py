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
from toolkit.export.evaluation_section import card_section
from toolkit.export.export_state import FORMS, TOKENIZER_FILES, WEIGHT_FILES, Form
from toolkit.export.model_card import model_card
from toolkit.export.prompt_contract import CONTRACT, Contract, reference
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import durable_write
from toolkit.worker.exporting.loss_chart import curves_png
from toolkit.worker.models.folder import resolve

Progress = Callable[[str, float], None]

CARD, PICTURE, SETTINGS = "README.md", "curves.png", "finetuning-toolkit.yml"


def build(run: RunDir, config: Config, form: str, staging: Path, progress: Progress) -> None:
    """Fill `staging`. Raises ToolkitError with the reason why this form can't be had."""
    contract = _contract(run, config, progress)
    if form == "adapter":
        inside = staging / "files"
        inside.mkdir()
        _copy(run.adapter_dir, inside, (*WEIGHT_FILES, *TOKENIZER_FILES))
        _describe(run, config, FORMS[form], contract, inside)
        _zip(inside, staging / f"adapter-{run.id}.zip")
        shutil.rmtree(inside)
        return
    _merge(run, config, FORMS[form], staging, progress)
    _describe(run, config, FORMS[form], contract, staging)
    if form == "gguf":
        _for_ollama(config, contract, staging, progress)


def _for_ollama(config: Config, contract: Contract, staging: Path, progress: Progress) -> None:
    from toolkit.worker.exporting import gguf
    from toolkit.worker.models import load

    tokenizer = load.load_tokenizer(config, staging)
    durable_write(staging / "Modelfile", gguf.modelfile(config, contract, tokenizer))
    progress("converting to GGUF", 0.5)
    gguf.convert(staging)


def _merge(run: RunDir, config: Config, form: Form, staging: Path, progress: Progress) -> None:
    from toolkit.worker.models import load
    from toolkit.worker.models.merge import merged

    load.quiet_libraries()
    folder = resolve(config)
    progress("merging the adapter into the base model", 0.2)
    whole = merged(run, config, folder, form.dtype)
    progress("saving the merged model", 0.4)
    whole.save_pretrained(staging)
    _copy(run.adapter_dir, staging, TOKENIZER_FILES)


def _contract(run: RunDir, config: Config, progress: Progress) -> Contract:
    """The adapter's own, else one made now from base and adapter as training would load them."""
    found = reference(run)
    if found is not None:
        return found
    from toolkit.worker.answering.golden_prompts import make_contract
    from toolkit.worker.models import load
    from toolkit.worker.models.adapter_switch import trained
    from toolkit.worker.tokens.prepared_rows import open_source

    progress("asking the golden prompts", 0.15)
    load.quiet_libraries()
    folder = resolve(config)
    base = load.load_base(config, folder=folder)
    adapted = trained(base, run.adapter_dir)
    tokenizer = load.load_tokenizer(config, _tokenizer_folder(run, folder))
    made = make_contract(run.id, config, adapted, tokenizer, open_source(run, config), folder, made="export")
    durable_write(run.exports_dir / CONTRACT, made.dump())
    return made


def _tokenizer_folder(run: RunDir, base: Path) -> Path:
    return run.adapter_dir if (run.adapter_dir / "tokenizer_config.json").exists() else base


def _describe(run: RunDir, config: Config, form: Form, contract: Contract, folder: Path) -> None:
    if not (folder / "tokenizer_config.json").exists():
        _copy(resolve(config), folder, TOKENIZER_FILES)  # an adapter of old that came without
    durable_write(folder / CONTRACT, contract.dump())
    shutil.copyfile(run.config_path, folder / SETTINGS)
    picture = curves_png(run)
    if picture is not None:
        durable_write(folder / PICTURE, picture)
    shown, evaluated = PICTURE if picture else None, card_section(run)
    durable_write(folder / CARD, model_card(run, config, form, contract, picture=shown, evaluated=evaluated))


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _zip(folder: Path, target: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    if not set(WEIGHT_FILES) <= set(names):
        raise RunError("The adapter has no weights.", "Train the run again.")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.write(folder / name, name)
