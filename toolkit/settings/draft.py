"""The draft: a plain nested dict that holds what a person is editing, valid or not.

Maps drafts to drafts and never changes one in place. Knows the schema's paths, not its rules (`validation.py`), not
how a draft is stored (`ui/workspace/workspace.py`), not how several values are written (`ablation.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.config import Config
from toolkit.settings.field_spec import field_specs_by_path, list_field_specs, section_paths

Draft = dict[str, Any]


@dataclass(frozen=True)
class SettingChange:
    """A setting that differs from its default."""

    path: str
    default: Any
    value: Any


def default_draft() -> Draft:
    """What `Config()` holds, as plain values: text, numbers, lists, dicts, None."""
    return Config().model_dump(mode="json")


def draft_from_config(config: Config) -> Draft:
    return config.model_dump(mode="json")


def get_setting(draft: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; the schema's default where the draft has none."""
    here: Any = draft
    for name in path.split("."):
        if not isinstance(here, Mapping) or name not in here:
            return copy.deepcopy(field_specs_by_path()[path].default) if path in field_specs_by_path() else None
        here = here[name]
    return here


def replace_setting(draft: Mapping[str, Any], path: str, value: Any) -> Draft:
    """A copy of the draft with one value set; missing sections on the way are made. Raises KeyError: no setting."""
    if path not in field_specs_by_path() and path not in section_paths():
        raise KeyError(path)
    return _replace_at(draft, path.split("."), value)


def _replace_at(draft: Mapping[str, Any], names: list[str], value: Any) -> Draft:
    first, *rest = names
    inner = draft.get(first)
    inside = _replace_at(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else copy.deepcopy(value)
    return {**draft, first: inside}


def overlay_settings(draft: Mapping[str, Any], top: Mapping[str, Any]) -> Draft:
    """The draft with every value that `top` has; keys that are no settings are kept, so that validation names them."""
    merged = dict(draft)
    for name, value in top.items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[name] = overlay_settings(below, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    return merged


def fill_defaults(draft: Mapping[str, Any]) -> Draft:
    """The draft with every missing setting at its default, in the schema's order; a section left empty is filled."""
    return overlay_settings(default_draft(), _without_empty_sections(draft, ""))


def _without_empty_sections(draft: Mapping[str, Any], prefix: str) -> Draft:
    kept: Draft = {}
    for name, value in draft.items():
        if f"{prefix}{name}" not in section_paths():
            kept[name] = value
        elif isinstance(value, Mapping):
            kept[name] = _without_empty_sections(value, f"{prefix}{name}.")
        elif value is not None:  # "bitsandbytes:" with nothing below is how old files say "the defaults"
            kept[name] = value
    return kept


def find_changed_settings(draft: Mapping[str, Any]) -> list[SettingChange]:
    """Every setting that differs from its default, in the schema's order."""
    values = ((spec, get_setting(draft, spec.path)) for spec in list_field_specs())
    return [
        SettingChange(spec.path, spec.default, value)
        for spec, value in values
        if setting_values_differ(spec.default, value)
    ]


def setting_values_differ(first: Any, second: Any) -> bool:
    """Whether two values of one setting differ; 6 in a file is the 6.0 of the schema, but True is not 1."""
    if isinstance(first, float) and isinstance(second, int) and not isinstance(second, bool):
        return first != second
    return type(first) is not type(second) or bool(first != second)


def reset_settings(draft: Mapping[str, Any], paths: str | Iterable[str]) -> Draft:
    """The draft with these settings at their defaults: one path, a dotted section ("lora"), or several of either."""
    wanted = (paths,) if isinstance(paths, str) else tuple(paths)
    result = dict(draft)
    for spec in list_field_specs():
        if any(spec.path == path or spec.path.startswith(f"{path}.") for path in wanted):
            result = replace_setting(result, spec.path, spec.default)
    return result
