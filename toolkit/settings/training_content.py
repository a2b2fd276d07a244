"""What a run trains, apart from its name and place: the settings that have an effect, and the dataset.

Two runs with the same content would train the same adapter and give the same answers to the test rows, so one of them
is enough. Settings of the answers in chat, of the study, and of saving and sample outputs are not part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from toolkit.config import Config
from toolkit.settings.device_defaults import FUSED_ADAMW
from toolkit.settings.draft import draft_from_config, get_setting, replace_setting
from toolkit.settings.field_spec import list_field_specs
from toolkit.settings.form_layout import get_field_layout

SEED_PATH = "training.training_args.seed"
IGNORED_SECTIONS = ("inference.", "ablation.")
IGNORED_SETTINGS = (
    "save_dir", "autopilot", "data.accepted", "training.pinned_prompts", "training.pinned_rows",
    "training.training_args.save_steps", "machine_rank", "main_process_ip", "main_process_port",
)  # fmt: skip
"""Settings that change neither the weights nor the answers to the test rows."""
SOURCE_PATHS = ("data.path", "data.test_path", "data.file_type")
"""Where the rows come from. The hash of the dataset replaces them, so that a file may be moved."""
_ARGS = "training.training_args."
_MEANT_BY_EMPTY = {_ARGS + "optim": FUSED_ADAMW, "training.sft_args.packing": "grouped"}
"""Values that are the same as an empty setting."""
_IDLE_RULES: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool], str], ...] = (
    ((_ARGS + "warmup_ratio",), _ARGS + "lr_scheduler_type", lambda value: value == "constant",
     "the constant scheduler has no warmup"),
    (("data.train_size", "data.test_size", "data.stratify"), "data.test_path", lambda value: value is not None,
     "the test set is a file, and all other rows are trained on"),
    (("data.prompt", "data.prompt_stub", "data.optional_columns"), "data.messages", lambda value: bool(value),
     "the conversation column takes the place of the templates"),
    (("training.sft_args.neftune_noise_alpha",), "training.sft_args.neftune_noise_alpha", lambda value: value == 0,
     "0 adds no noise"),
)  # fmt: skip
"""Settings without effect, the setting that decides it, when it does, and why. `shown_when` of the form has others."""


def is_training_setting(path: str) -> bool:
    """Return whether the setting can change what a run trains."""
    return not path.startswith(IGNORED_SECTIONS) and path not in IGNORED_SETTINGS


def find_effective_settings(config: Config) -> dict[str, Any]:
    """Return the settings that change this training, by path; one that has no effect is None."""
    draft = draft_from_config(config)
    found = {
        spec.path: None if find_idle_reason(spec.path, draft) else get_setting(draft, spec.path)
        for spec in list_field_specs()
        if is_training_setting(spec.path)
    }
    return {path: None if value == _MEANT_BY_EMPTY.get(path) else value for path, value in found.items()}


def hash_training_content(config: Config, dataset: str = "", without: Iterable[str] = ()) -> str:
    """Return a key that is equal for runs that train the same.

    dataset: SHA-256 of the table; "" takes the file's path for it. without: settings to leave out.
    """
    left_out = {*without, *(SOURCE_PATHS if dataset else ())}
    settings = {path: value for path, value in find_effective_settings(config).items() if path not in left_out}
    text = json.dumps([settings, dataset], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def leave_chosen_open(config: Config, chosen: Collection[str]) -> Config:
    """Return the config as the user set it: settings that Start decided are empty again."""
    draft = draft_from_config(config)
    for path in chosen:
        draft = replace_setting(draft, path, None)
    return Config.model_validate(draft) if chosen else config


def find_idle_reason(path: str, draft: Mapping[str, Any]) -> str:
    """Return why the setting has no effect with these settings, as the end of a sentence; "" when it has one."""
    if not is_training_setting(path):
        return "it does not change the training"
    for other, allowed in get_field_layout(path).shown_when:
        if get_setting(draft, other) not in allowed:
            return f"{get_field_layout(other).label} is off"
    for paths, other, is_idle, reason in _IDLE_RULES:
        if path in paths and is_idle(get_setting(draft, other)):
            return reason
    return ""
