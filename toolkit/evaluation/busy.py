"""Whether an evaluation has its models loaded: one at a time in a save_dir. Light, for every page asks."""

from __future__ import annotations

from pathlib import Path

from toolkit.system.locks import is_lock_held


def loaded_models_lock(save_dir: Path) -> Path:
    """Held by the one evaluation of a save_dir that has its models loaded."""
    return save_dir / "runs" / "evaluating.lock"


def is_evaluating(save_dir: Path) -> bool:
    return is_lock_held(loaded_models_lock(save_dir))
