"""Where the base model that a config names comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from toolkit.config import BUNDLED, Config
from toolkit.system.paths import ASSETS

ModelKind = Literal["none", "bundled", "local", "hub"]


def model_kind(config: Config) -> ModelKind:
    """Where the base model comes from; a path is one by its look or because the folder is there."""
    name = config.model.hf_model_ckpt
    if not name:
        return "none"
    if name.startswith(BUNDLED):
        return "bundled"
    return "local" if name.startswith(("/", "./", "../", "~")) or Path(name).is_dir() else "hub"


def bundled_model_folder(name: str) -> Path | None:
    """Where the model of that name lies among the toolkit's own; None when there is none. No name leads elsewhere."""
    plain = name.removeprefix(BUNDLED)
    return ASSETS / plain if re.fullmatch(r"[a-z0-9-]+", plain) and (ASSETS / plain).is_dir() else None
