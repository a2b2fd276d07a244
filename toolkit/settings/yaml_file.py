"""Config files: YAML with the schema version in the first line.

Only plain YAML is read: no tags, no aliases (a short file could expand to gigabytes), no merge or duplicate keys, at
most 1 MB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from toolkit.config import BUNDLED, SCHEMA_VERSION, Config
from toolkit.errors import ConfigError, Problem
from toolkit.settings.draft import copy_values
from toolkit.system.foreign_files import open_regular_file

SCHEMA_HEADER = f"# finetuning-toolkit config, schema {SCHEMA_VERSION}"
MAX_YAML_BYTES = 1_000_000  # a config has 3 kB; a larger file is most likely another file
MAX_YAML_DEPTH = 20  # levels of nesting; the schema has 4, and the parser recurses
MAX_YAML_PARTS = 20_000  # names, values and brackets: the parser takes 20 seconds for those that fit into 1 MB
MAX_NUMBER_CHARACTERS = 400  # the largest float has 309 digits; base 60 takes seconds for a long one
MAX_DIVIDED_CHARACTERS, MAX_DIVIDED_DEPTH = 20_000, 8  # of a text that is parsed line by line
MAX_KEPT_BLOCK = 500  # characters: what is kept of thousands of longer ones would take memory
_BLOCK_START = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)
_NAME_ALONE, _INDENTED, _INDENT = re.compile(r"\w+:"), re.compile(r"(  [^\n]*\n)+"), re.compile(r"^  ", re.MULTILINE)
_DOCUMENT_MARK = re.compile(r"^(---|\.\.\.|%)", re.MULTILINE)
_UNREADABLE = (yaml.YAMLError, ValueError, OverflowError)  # also what a date or a number can't be made of
_SCHEMA_LINE = re.compile(r"^#\s*finetuning-toolkit config, schema (\d{1,9})\s*$", re.MULTILINE)


def dump_config(config: Config) -> str:
    """Return every setting as YAML; `load_draft` and validation restore an equal config."""
    return dump_draft(config.model_dump(mode="json"))


def dump_draft(draft: Mapping[str, Any]) -> str:
    """Return a nested dict of settings, including the lists of a study, as YAML with the schema line."""
    body = yaml.dump(
        dict(draft), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=110
    )
    return f"{SCHEMA_HEADER}\n{body}"


def read_config_text(path: Path) -> str:
    """Return the text of a config file. Raises ConfigError if it does not exist or is not text."""
    try:
        with open_regular_file(path.expanduser()) as file:
            return file.read(MAX_YAML_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise _config_file_error(f"'{path}' can't be read: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise _config_file_error(f"'{path}' is not UTF-8 text.", "Check that it is a YAML file.") from error
    except (ValueError, RuntimeError) as error:  # a NUL character, or ~ with an unknown user
        raise _config_file_error(f"{str(path)!r} is not a path: {error}.", "Check the path.") from error


def load_draft(text: str) -> dict[str, Any]:
    """Return the nested dict of a YAML text. Raises ConfigError with the place that cannot be read."""
    if len(text.encode(errors="replace")) > MAX_YAML_BYTES:
        raise _config_file_error(
            "The file is larger than 1 MB.", "A config has about 60 lines: check that this is the right file."
        )
    version = _SCHEMA_LINE.search(text[:2000])
    if version and int(version.group(1)) > SCHEMA_VERSION:
        message = (
            f"The file was written by a newer version (schema {version.group(1)}, this one reads {SCHEMA_VERSION})."
        )
        raise _config_file_error(message, "Update the toolkit to read it.")
    try:
        draft = copy_values(_parse_blocks(text)) or _parse_plain_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise _config_file_error(
            f"The file is not plain YAML: {error.problem}{place}.", "Correct this line."
        ) from error
    except _UNREADABLE as error:
        raise _config_file_error(
            f"The file is not plain YAML: {error}.", "Check that it is a text file in UTF-8."
        ) from error
    if draft is None:
        return {}
    if not isinstance(draft, dict):
        raise _config_file_error(
            f"The file contains a {type(draft).__name__} instead of named settings.",
            "Start with lines such as `data:`, or export a config to see an example.",
        )
    return draft


def with_absolute_paths(config: Config) -> Config:
    """Return the config with absolute local paths: it is stored with the run and read in another folder."""
    model, data = config.model, config.data
    folder = Path(model.hf_model_ckpt or "").expanduser()
    if model.hf_model_ckpt and not model.hf_model_ckpt.startswith(BUNDLED) and folder.is_dir():
        model = model.model_copy(update={"hf_model_ckpt": str(folder.absolute())})
    if data.file_type != "huggingface" and not str(data.path).startswith(BUNDLED):
        data = data.model_copy(update={"path": str(Path(data.path).expanduser().absolute())})
    if data.test_path is not None:
        data = data.model_copy(update={"test_path": str(Path(data.test_path).expanduser().absolute())})
    return config.model_copy(update={"model": model, "data": data})


@lru_cache(maxsize=256)
def _parse_blocks(text: str, depth: int = 0) -> dict[str, Any] | None:
    """Return the settings of a text, parsed line by line where it has plain lines; None if only the whole can be read.

    The files of many runs differ in a few lines, and each line is parsed once. The result is shared: change nothing.
    """
    found: dict[str, Any] = {}
    if len(text) > MAX_DIVIDED_CHARACTERS or depth > MAX_DIVIDED_DEPTH:
        return None
    for block in _BLOCK_START.split(text):
        parse = _parse_block if len(block) <= MAX_KEPT_BLOCK else _parse_block.__wrapped__
        part = _parse_nested_block(block, depth) or parse(block)
        is_indented = part and not _BLOCK_START.match(block)  # names before the first block: another indentation
        if part is None or is_indented or not found.keys().isdisjoint(part):
            return None
        found |= part
    return found


def _parse_nested_block(block: str, depth: int) -> dict[str, Any] | None:
    """Return the settings of a name with an indented block of names; None for any other block."""
    name, _, below = block.partition("\n")
    if not _NAME_ALONE.fullmatch(name) or not _INDENTED.fullmatch(below):
        return None
    inner, outer = _parse_blocks(_INDENT.sub("", below), depth + 1), _parse_block(name)
    return dict.fromkeys(outer, inner) if inner and outer else None


@lru_cache(maxsize=20_000)
def _parse_block(block: str) -> dict[str, Any] | None:
    """Return the settings of a block, {} for comments; None if it is no plain mapping."""
    if _DOCUMENT_MARK.search(block):
        return None
    try:
        _check_plain_yaml(block, _FastLoader)
        part = _FastLoader(block).get_single_data()
    except _UNREADABLE:
        return None
    return part if isinstance(part, dict) else {} if part is None else None


def _parse_plain_yaml(text: str) -> Any:
    """Return the value of a text. Raises YAMLError or ValueError."""
    # libyaml takes a seventh of the time; of a text with a mistake, the parser in Python says better what is wrong
    for loader in (_FastLoader, _Loader):
        try:
            _check_plain_yaml(text, loader)
            return loader(text).get_single_data()
        except _UNREADABLE:
            if loader is _Loader:
                raise
    return None


def _check_plain_yaml(text: str, loader: Any) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        wrong = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            wrong = "anchors (&) and aliases (*) are not allowed"
        elif getattr(event, "tag", None):
            wrong = "tags (!) are not allowed"
        elif depth > MAX_YAML_DEPTH:
            wrong = "it is nested too deeply"
        elif number > MAX_YAML_PARTS:
            wrong = f"it has more than {MAX_YAML_PARTS:,} names and values"
        if wrong:
            raise yaml.MarkedYAMLError(problem=wrong, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _config_file_error(message: str, hint: str) -> ConfigError:
    return ConfigError([Problem("", message, hint)])


class _PlainConstructor:
    """A duplicate key is an error, as PyYAML would take the last one silently, and so is an endless number."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if len(node.value) > MAX_NUMBER_CHARACTERS and node.tag.endswith((":int", ":float", ":timestamp")):
            wrong = f"the number {node.value[:20]}... has more than {MAX_NUMBER_CHARACTERS} characters"
            raise yaml.MarkedYAMLError(problem=wrong, problem_mark=node.start_mark)
        return super().construct_scalar(node)  # type: ignore[misc]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a name is expected here", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' appears twice", problem_mark=key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":  # it would hide which value counts, and which is a duplicate
                raise yaml.MarkedYAMLError(problem="merge keys (<<) are not allowed", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)  # type: ignore[misc, no-any-return]


class _Loader(_PlainConstructor, yaml.SafeLoader):
    """Loads plain types only."""


class _FastLoader(_PlainConstructor, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same with libyaml, where PyYAML was built with it."""


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, so that it can be edited."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text and text == text.strip(" \n\t") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
