"""The source of the base model that a config names: bundled, a local folder, or the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from toolkit.config import BUNDLED, Config
from toolkit.system.paths import ASSETS

ModelKind = Literal["none", "bundled", "local", "hub"]


def model_kind(config: Config) -> ModelKind:
    """Return the source of the base model. A name that looks like a path, or is an existing folder, is "local"."""
    name = config.model.hf_model_ckpt
    if not name:
        return "none"
    if name.startswith(BUNDLED):
        return "bundled"
    return "local" if name.startswith(("/", "./", "../", "~")) or Path(name).is_dir() else "hub"


def bundled_model_folder(name: str) -> Path | None:
    """Return the folder of a bundled model, or None. A name with path separators never leads outside the assets."""
    plain = name.removeprefix(BUNDLED)
    return ASSETS / plain if re.fullmatch(r"[a-z0-9-]+", plain) and (ASSETS / plain).is_dir() else None
