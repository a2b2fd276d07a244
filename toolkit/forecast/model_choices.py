"""Base models to choose from: those on this machine, and suggestions of the Hub. The network is never asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.config import Config, ModelConfig
from toolkit.errors import ConfigError, ToolkitError
from toolkit.forecast.base_model_files import BaseModelFiles, find_base_model, read_cached_model
from toolkit.forecast.costs.model_shape import ModelShape, read_model_shape
from toolkit.forecast.decisions import decide_in_scene
from toolkit.forecast.forecast import Forecast, Scene
from toolkit.settings.model_source import DEMO_MODEL, SUGGESTED_MODELS, find_suggested_model, model_kind
from toolkit.settings.yaml_file import load_draft
from toolkit.system.foreign_files import open_regular_file
from toolkit.system.machine import Machine

MAX_LISTED_MODELS = 40
HALF_PRECISION_BYTES = 2
"""Bytes per parameter of the suggested models' files."""
_CACHED_MODEL = re.compile(r"models--(?P<owner>[^-].*?)--(?P<name>.+)")
MAX_FRONT_MATTER_BYTES = 50_000
"""What is read of a model card: what stands at its beginning decides."""
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)


@dataclass(frozen=True)
class ModelChoice:
    """A base model to choose.

    name: value of `model.hf_model_ckpt`. shape: None if the forecast does not know this kind of model. file_bytes: of
    its weights, on this disk or to be downloaded. license: "" if it is not known here. on_disk: whether the weights are
    here. gated: whether its license must be accepted on the Hub first.
    """

    name: str
    shape: ModelShape | None
    file_bytes: int
    license: str
    on_disk: bool
    gated: bool = False


def list_local_models(known_names: Iterable[str] = ()) -> list[ModelChoice]:
    """Return the models on this machine: the bundled one, those in the Hub's cache, and folders, smallest first.

    known_names: models that the settings or runs name; folders among them are listed.
    """
    names = [DEMO_MODEL, *(name for name in known_names if name), *_list_cached_names()]
    found = [_describe_local_model(name) for name in dict.fromkeys(names)]
    here = [choice for choice in found if choice is not None][:MAX_LISTED_MODELS]
    return sorted(here, key=lambda choice: choice.file_bytes)


def list_suggested_models(local: Iterable[ModelChoice]) -> list[ModelChoice]:
    """Return the suggested models that are not among the local ones, smallest first."""
    here = {choice.name for choice in local}
    return [
        ModelChoice(
            model.name, shape, HALF_PRECISION_BYTES * shape.parameters, model.license, on_disk=False, gated=model.gated
        )
        for model in SUGGESTED_MODELS
        if model.name not in here
        for shape in (read_model_shape(model.sizes),)
    ]


def forecast_choice(
    choice: ModelChoice, config: Config, scene: Scene, machine: Machine | None, save_dir: Path
) -> Forecast | None:
    """Return the forecast of the run with this base model instead of its own; None if the model's shape is not known.

    scene: of the run with its own model, whose tokenizer has counted the rows.
    """
    if choice.shape is None:
        return None
    config = config.model_copy(update={"model": config.model.model_copy(update={"hf_model_ckpt": choice.name})})
    stored = choice.file_bytes / max(choice.shape.parameters, 1)
    scene = replace(scene, shape=choice.shape, file_bytes=4 if stored > 3 else HALF_PRECISION_BYTES)
    found = decide_in_scene(config, scene, machine, save_dir).found
    return found if isinstance(found, Forecast) else None


def _list_cached_names() -> list[str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        folders = sorted(Path(HF_HUB_CACHE).iterdir())
    except OSError:
        return []
    matches = [_CACHED_MODEL.fullmatch(folder.name) for folder in folders]
    return [f"{match['owner']}/{match['name']}" for match in matches if match]


def _describe_local_model(name: str) -> ModelChoice | None:
    """Return a model whose weights are on this disk, or None: a tokenizer or a config alone can't be trained."""
    config = Config(model=ModelConfig(hf_model_ckpt=name))
    try:
        files = read_cached_model(name) if model_kind(config) == "hub" else find_base_model(config)
        if files is None or isinstance(files, str) or not files.weights:
            return None
        return ModelChoice(name, _find_shape(files), files.weights, _find_license(name, files), on_disk=True)
    except (ToolkitError, OSError, ValueError):
        return None  # what can't be read can't be trained either


def _find_shape(files: BaseModelFiles) -> ModelShape | None:
    try:
        return read_model_shape(files.config)
    except ToolkitError:
        return None


def _find_license(name: str, files: BaseModelFiles) -> str:
    """Return the license that the model card names, else that of the suggestion."""
    suggested = find_suggested_model(name)
    if name == DEMO_MODEL or suggested is not None:
        return suggested.license if suggested else "part of this app"
    card = None if files.tokenizer is None else files.tokenizer.with_name("README.md")
    if card is None or not card.is_file():
        return ""
    with open_regular_file(card) as file:
        found = _FRONT_MATTER.match(file.read(MAX_FRONT_MATTER_BYTES).decode("utf-8", "replace"))
    try:
        values = load_draft(found[1]) if found else {}
    except ConfigError:
        return ""
    stated = values.get("license_name") or values.get("license")
    return stated[:40] if isinstance(stated, str) else ""
