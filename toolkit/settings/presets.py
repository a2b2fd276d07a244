"""Known-good settings as files: `toolkit/presets/*.yml`, each a config with its title and description in comments.

A preset lists what matters to it; the rest stands at its default. It leaves the person's data and folder alone unless
it names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.settings import draft as drafts
from toolkit.settings.yaml_file import load_draft
from toolkit.system.paths import PRESETS


@dataclass(frozen=True)
class Preset:
    """`name` is the file's name without its ending; `settings` the nested dict as the file has it."""

    name: str
    title: str
    description: str
    settings: drafts.Draft
    path: Path


@cache
def load_presets() -> tuple[Preset, ...]:
    """Every preset, by file name. Raises ConfigError for a file that is not YAML."""
    return tuple(_read_preset(path) for path in sorted(PRESETS.glob("*.yml")))


def apply_preset(preset: Preset, draft: Mapping[str, Any]) -> drafts.Draft:
    """The preset over the defaults, with the draft's own data and folder where the preset has none."""
    kept = {name: draft[name] for name in ("data", "save_dir") if name in draft}
    return drafts.fill_defaults(
        drafts.overlay_settings(drafts.overlay_settings(drafts.default_draft(), kept), preset.settings)
    )


def _read_preset(path: Path) -> Preset:
    text = path.read_text(encoding="utf-8")
    said = dict(re.findall(r"^# (title|description): (.+)$", text, re.MULTILINE))
    return Preset(path.stem, said["title"], said["description"], load_draft(text), path)
