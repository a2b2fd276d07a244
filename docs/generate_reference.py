"""Write the tables of settings and commands in docs/reference.md: `python docs/generate_reference.py`.

The settings come from the schema (`toolkit/config.py`) and the form, the commands from the command line itself. Only
the text between `<!-- settings -->` and `<!-- /settings -->`, and between `<!-- cli -->` and `<!-- /cli -->`, is
replaced. A test compares the page with what this script writes.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script, from any folder
    sys.path.insert(0, str(ROOT))

import typer  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from toolkit.cli.help_names import argument_label  # noqa: E402
from toolkit.cli.main import app  # noqa: E402
from toolkit.config import Config  # noqa: E402
from toolkit.settings.field_explanations import FIELD_EXPLANATIONS  # noqa: E402
from toolkit.settings.field_spec import FieldSpec, list_field_specs  # noqa: E402
from toolkit.settings.form_layout import (  # noqa: E402
    FORM_SECTIONS,
    get_field_layout,
    list_section_settings,
)

REFERENCE_PAGE = ROOT / "docs" / "reference.md"
TYPE_NAMES = {
    "flag": "true / false",
    "whole": "integer",
    "number": "number",
    "size": "share or number of rows",
    "text": "text",
    "words": "list of texts",
    "indexes": "integer or list of integers",
}


def generate_reference(page: str) -> str:
    """Return the page with both generated parts renewed. Raises ValueError when a marker is missing."""
    for name, text in (("settings", _settings_tables()), ("cli", _command_tables())):
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in page or end not in page:
            raise ValueError(f"docs/reference.md lacks {begin} or {end}")
        before, after = page.split(begin)[0], page.split(end)[1]
        page = f"{before}{begin}\n\n{text}\n{end}{after}"
    return page


def _settings_tables() -> str:
    """One table for each section of the form, in the form's order."""
    specs = {spec.path: spec for spec in list_field_specs()}
    added = _added_paths(Config, "")
    parts = []
    for section in FORM_SECTIONS:
        rows = [_setting_row(specs[path], path in added) for path in list_section_settings(section.key)]
        header = "| setting | label | type | default | meaning |\n|---|---|---|---|---|"
        parts.append(f"### {section.title}\n\n{section.lead}\n\n{header}\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _setting_row(spec: FieldSpec, added: bool) -> str:
    layout = get_field_layout(spec.path)
    label = f"{layout.label}, {layout.unit}" if layout.unit else layout.label
    meaning = f"{spec.description.rstrip('.')}. {FIELD_EXPLANATIONS.get(spec.path, '')}".strip()
    if spec.optional:
        meaning += f" Empty: {layout.empty}."
    cells = [f"`{spec.path}`" + (" +" if added else ""), label, _describe_type(spec), _describe_default(spec.default)]
    return _table_row([*cells, meaning])


def _describe_type(spec: FieldSpec) -> str:
    """For example "integer from 1 to 4096, or empty"."""
    kind = ", ".join(f"`{choice}`" for choice in spec.choices) if spec.kind == "choice" else TYPE_NAMES[spec.kind]
    limits = f" {spec.bounds.words()}" if spec.bounds.words() else ""
    return f"{kind}{limits}" + (", or empty" if spec.optional else "")


def _describe_default(value: Any) -> str:
    """Return a default as YAML writes it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _added_paths(model: type[BaseModel], prefix: str) -> set[str]:
    """Return the settings below a "# added" line of the schema: those that the original toolkit does not have."""
    _, _, below = inspect.getsource(model).partition("# added\n")
    own = set(re.findall(r"^    (\w+): ", below, re.MULTILINE))
    found = {f"{prefix}{name}" for name in own & set(model.model_fields)}
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= _added_paths(info.annotation, f"{prefix}{name}.")
    return found


def _command_tables() -> str:
    """Each command with its arguments and options."""
    parts = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        arguments = [argument_label(entry) for entry in command.params if not entry.opts[0].startswith("-")]
        options = " [OPTIONS]" if len(arguments) < len(command.params) else ""
        usage = " ".join(["python -m toolkit", name, *arguments]) + options
        rows = [_parameter_row(entry) for entry in command.params]
        table = "\n| argument or option | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n" if rows else ""
        parts.append(f"### {name}\n\n```\n{usage}\n```\n\n{inspect.cleandoc(command.help or '')}\n{table}")
    return "\n".join(parts)


def _parameter_row(entry: Any) -> str:
    if not entry.opts[0].startswith("-"):
        return _table_row([f"`{argument_label(entry)}`", "required" if entry.required else "", entry.help or ""])
    names = ", ".join(f"`{name}`" for name in (*entry.opts, *entry.secondary_opts))
    default = "" if entry.default in (None, "", False) else f"`{_option_default(entry)}`"
    return _table_row([names, default, entry.help or ""])


def _option_default(entry: Any) -> str:
    return str(entry.opts[0]) if entry.default is True else str(entry.default)


def _table_row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    REFERENCE_PAGE.write_text(generate_reference(REFERENCE_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
