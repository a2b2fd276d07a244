"""What the schema's classes share: their base, and the types that several fields have."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

MOST_NAME, MOST_PATH = 255, 3_900
"""Bytes of one name in a path, and of a whole path with room for what is kept below it: what systems can look up."""


def path_fault(text: str) -> str:
    """Why this is a path on no disk, or "": asking the system whether it exists would itself fail."""
    if "\0" in text:
        return "A path has no NUL character"
    longest = max(len(part.encode(errors="replace")) for part in text.split("/"))
    if longest > MOST_NAME or len(str(Path(text).absolute()).encode(errors="replace")) > MOST_PATH:
        return "This is too long for a path, or for a name in one"
    try:
        Path(text).expanduser()
    except RuntimeError:
        return "This machine has no such user, whose folder ~ would mean"
    return ""


def _path_text(value: Any) -> Any:
    fault = path_fault(value) if isinstance(value, str) else ""
    if fault:
        raise PydanticCustomError("path_text", "{fault}", {"fault": fault})
    return value


HfModelPath = Annotated[str, BeforeValidator(_path_text), StringConstraints(min_length=1, max_length=4096)]
DataPath = Annotated[Union[FilePath, HfModelPath], BeforeValidator(_path_text)]
ModuleName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Template = Annotated[str, StringConstraints(max_length=20_000)]
Size = Union[Annotated[float, Field(gt=0, lt=1)], Annotated[int, Field(ge=1, strict=True)]]


def number_from_text(value: Any) -> Any:
    """Keep 1 (one row) and 1.0 (not a fraction) apart, also when they arrive as text."""
    if not isinstance(value, str):
        return value
    for number in (int, float):
        with suppress(ValueError):
            return number(value)
    raise PydanticCustomError("float_parsing", "a number is needed")


def _takes_bool(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return any(_takes_bool(arg) for arg in get_args(annotation) if arg is not NoneType)
    return annotation is bool


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would read True as 1: train_size=True became one row in the original
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[str(info.field_name)].annotation):
            raise PydanticCustomError("no_bool", "must not be true or false")
        return value
