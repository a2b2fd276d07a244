"""One FieldSpec for each setting of the schema: kind, bounds, default, description, and whether it may be empty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from toolkit.config import Config

FieldKind = Literal["flag", "whole", "number", "size", "choice", "text", "words", "indexes"]
"""whole: int. number: float. size: a share (float) or a number of rows (int). words: list of str. indexes: a list of
int, or one int."""

LIST_KINDS: tuple[FieldKind, ...] = ("words", "indexes")


@dataclass(frozen=True)
class Bounds:
    """The limits of a number, None for no limit. ge, le: inclusive. gt, lt: exclusive."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def words(self) -> str:
        """Return for example "from 1 to 4096" or "above 0, below 1"; "" without limits."""
        low = f"above {self.gt:g}" if self.gt is not None else "" if self.ge is None else f"from {self.ge:.10g}"
        high = f"below {self.lt:.10g}" if self.lt is not None else "" if self.le is None else f"to {self.le:.10g}"
        both_inclusive = self.ge is not None and self.le is not None
        return f"{low} {high}" if both_inclusive else ", ".join(part for part in (low, high) if part)


@dataclass(frozen=True)
class FieldSpec:
    """One setting. optional: whether it may be None, which means the library's default."""

    path: str
    kind: FieldKind
    optional: bool
    default: Any
    description: str
    bounds: Bounds = Bounds()
    choices: tuple[str, ...] = ()
    max_length: int | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


@cache
def list_field_specs() -> tuple[FieldSpec, ...]:
    """Return every setting in the schema's order. Raises TypeError for a field type without a kind."""
    return tuple(_walk_fields(Config, ""))


@cache
def field_specs_by_path() -> dict[str, FieldSpec]:
    """Return every setting by its dotted path."""
    return {spec.path: spec for spec in list_field_specs()}


@cache
def section_paths() -> frozenset[str]:
    """Return the dotted paths of the sections, such as "model.bitsandbytes"."""
    parts = [spec.path.split(".") for spec in list_field_specs()]
    return frozenset(".".join(names[:end]) for names in parts for end in range(1, len(names)))


def _walk_fields(model: type[BaseModel], prefix: str) -> Iterator[FieldSpec]:
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _walk_fields(annotation, f"{prefix}{name}.")
        else:
            yield _build_field_spec(prefix + name, info)


def _build_field_spec(path: str, info: FieldInfo) -> FieldSpec:
    types, limits = _flatten_annotation(info.annotation)
    for entry in info.metadata:
        _collect_limits(entry, limits)
    choices = tuple(str(word) for kind in types if get_origin(kind) is Literal for word in get_args(kind))
    bounds = Bounds(**{key: value for key, value in limits.items() if key != "max_length"})
    return FieldSpec(
        path=path,
        kind=_find_field_kind(path, {kind for kind in types if kind is not NoneType}),
        optional=NoneType in types,
        default=info.get_default(call_default_factory=True),
        description=info.description or "",
        # a size has separate limits for shares and for numbers of rows, which one Bounds cannot hold
        bounds=Bounds() if {int, float} <= set(types) else bounds,
        choices=choices,
        max_length=limits.get("max_length"),
    )


def _flatten_annotation(annotation: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the member types of nested Optional, Union and Annotated, and the limits found in them."""
    origin = get_origin(annotation)
    types: list[Any] = []
    limits: dict[str, Any] = {}
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        types, limits = _flatten_annotation(inner)
        for entry in metadata:
            _collect_limits(entry, limits)
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            member_types, member_limits = _flatten_annotation(member)
            types += member_types
            limits |= member_limits
    elif origin is list:
        types, limits = [list[_flatten_annotation(get_args(annotation)[0])[0][0]]], {}  # type: ignore[misc]
    else:
        types = [annotation]
    return types, limits


def _collect_limits(entry: Any, limits: dict[str, Any]) -> None:
    for part in entry.metadata if isinstance(entry, FieldInfo) else [entry]:
        for key in ("ge", "gt", "le", "lt"):
            if hasattr(part, key) and getattr(part, key) is not None:
                limits[key] = getattr(part, key)
        if isinstance(part, StringConstraints) and part.max_length is not None:
            limits["max_length"] = part.max_length


_KIND_OF_TYPES: dict[frozenset[Any], FieldKind] = {
    frozenset({bool}): "flag",
    frozenset({int}): "whole",
    frozenset({float}): "number",
    frozenset({float, int}): "size",
    frozenset({str}): "text",
    frozenset({Path, str}): "text",
    frozenset({list[str]}): "words",
    frozenset({list[int]}): "indexes",
    frozenset({list[int], int}): "indexes",
}


def _find_field_kind(path: str, types: set[Any]) -> FieldKind:
    if len(types) == 1 and get_origin(next(iter(types))) is Literal:
        return "choice"
    kind = _KIND_OF_TYPES.get(frozenset(types))
    if kind is None:
        raise TypeError(f"{path} has a type without a kind: {types}. Add a kind to toolkit/settings/field_spec.py.")
    return kind
