"""Names of arguments and values in `--help`, as the docs write them: RUN, CONFIG, --save-dir DIR, [RUN ...]."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


def argument_label(parameter: Any) -> str:
    """Return the name of an argument on the usage line: RUN, or [RUN ...] where it may be left out or repeated."""
    name = str(parameter.metavar or parameter.name.upper()) + (" ..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _name_values(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if parameter.metavar is None:  # a flag takes no value
            parameter.metavar = "" if getattr(parameter, "is_flag", False) else parameter.name.upper()
    return parameters


class _NamedCommand(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _name_values(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [argument_label(one) for one in self.get_params(ctx) if one.param_type_name == "argument"]
        return [*arguments, "[OPTIONS]"]


class _NamedGroup(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _name_values(super().get_params(ctx))


def use_plain_help_names(app: typer.Typer) -> None:
    """Give the help of `app` and of its commands these names. Call it when all commands are registered."""
    app.info.cls = _NamedGroup
    for command in app.registered_commands:
        command.cls = _NamedCommand
