"""What the schema's classes share: their base, and the types that several fields have."""

from __future__ import annotations

from contextlib import suppress
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

from toolkit import rules


def no_bool(value: Any) -> Any:
    """A validator: pydantic would read True as 1, also inside a list."""
    if isinstance(value, bool):
        raise PydanticCustomError("no_bool", "must not be true or false")
    return value


HfModelPath = Annotated[str, BeforeValidator(rules.path_text), StringConstraints(min_length=1, max_length=4096)]
DataPath = Annotated[Union[FilePath, HfModelPath], BeforeValidator(rules.path_text)]
ModuleName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Template = Annotated[str, StringConstraints(max_length=20_000)]
Index = Annotated[int, Field(ge=0), BeforeValidator(no_bool)]
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
        takes = _takes_bool(cls.model_fields[str(info.field_name)].annotation)
        return value if takes else no_bool(value)  # train_size=True became one row in the original
