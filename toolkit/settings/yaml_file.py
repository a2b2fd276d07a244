"""A config as a file: YAML with a schema version in its first line.

Reads plain YAML only: no tags, no aliases (a short file could unfold into gigabytes), no key twice, at most 1 MB.
Whether the settings make sense is `validation.py`'s to say, what a list means `ablation.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from toolkit.config import BUNDLED, SCHEMA_VERSION, Config
from toolkit.errors import ConfigError, Problem

SCHEMA_HEADER = f"# finetuning-toolkit config, schema {SCHEMA_VERSION}"
MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 20
_SCHEMA_LINE = re.compile(r"^#\s*finetuning-toolkit config, schema (\d{1,9})\s*$", re.MULTILINE)


def dump_config(config: Config) -> str:
    """Every setting of `config` as YAML; `load_draft` and validation give an equal Config back."""
    return dump_draft(config.model_dump(mode="json"))


def dump_draft(draft: Mapping[str, Any]) -> str:
    """A nested dict of settings (lists of values for a sweep included) as YAML with the schema line."""
    body = yaml.dump(
        dict(draft), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=110
    )
    return f"{SCHEMA_HEADER}\n{body}"


def read_config_text(path: Path) -> str:
    """The text of a config file; raises ConfigError when there is none, or it isn't text."""
    try:
        with path.expanduser().open("rb") as file:
            return file.read(MAX_YAML_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise _config_file_error(f"'{path}' can't be read: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise _config_file_error(f"'{path}' is not text in UTF-8.", "Is it a YAML file?") from error
    except (ValueError, RuntimeError) as error:  # a NUL in it, or the folder of a user whom nobody knows
        raise _config_file_error(f"{str(path)!r} is no path: {error}.", "Check the path.") from error


def load_draft(text: str) -> dict[str, Any]:
    """The nested dict that a YAML file holds; raises ConfigError that says where it can't be read."""
    if len(text.encode(errors="replace")) > MAX_YAML_BYTES:
        raise _config_file_error(
            "The file is larger than 1 MB.", "A config has about 60 lines: is this the right file?"
        )
    version = _SCHEMA_LINE.search(text[:2000])
    if version and int(version.group(1)) > SCHEMA_VERSION:
        message = (
            f"The file was written by a newer version (schema {version.group(1)}, this one reads {SCHEMA_VERSION})."
        )
        raise _config_file_error(message, "Update the toolkit to use it.")
    try:
        _check_plain_yaml(text)
        draft = _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise _config_file_error(
            f"The file is not plain YAML: {error.problem}{place}.", "Correct this line."
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        if "integer string conversion" in str(error):
            raise _config_file_error(
                "A number in the file has more than 4,300 digits.", "Write a shorter one."
            ) from error
        raise _config_file_error(f"The file is not plain YAML: {error}.", "Is it a text file in UTF-8?") from error
    if draft is None:
        return {}
    if not isinstance(draft, dict):
        raise _config_file_error(
            f"The file holds a {type(draft).__name__} where settings by name are expected.",
            "Begin with lines such as `data:`, or export a config to see one.",
        )
    return draft


def with_absolute_paths(config: Config) -> Config:
    """The same settings, local paths made absolute: a file must mean the same in every folder."""
    model, data = config.model, config.data
    folder = Path(model.hf_model_ckpt or "").expanduser()
    if model.hf_model_ckpt and not model.hf_model_ckpt.startswith(BUNDLED) and folder.is_dir():
        model = model.model_copy(update={"hf_model_ckpt": str(folder.absolute())})
    if data.file_type != "huggingface" and not str(data.path).startswith(BUNDLED):
        data = data.model_copy(update={"path": str(Path(data.path).expanduser().absolute())})
    if data.test_path is not None:
        data = data.model_copy(update={"test_path": str(Path(data.test_path).expanduser().absolute())})
    return config.model_copy(update={"model": model, "data": data})


def _check_plain_yaml(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        wrong = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            wrong = "anchors (&) and aliases (*) are not used here"
        elif getattr(event, "tag", None):
            wrong = "tags (!) are not used here"
        elif depth > MAX_YAML_DEPTH:
            wrong = "it is nested too deeply"
        if wrong:
            raise yaml.MarkedYAMLError(problem=wrong, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _config_file_error(message: str, hint: str) -> ConfigError:
    return ConfigError([Problem("", message, hint)])


class _Loader(yaml.SafeLoader):
    """YAML's plain types; a key that stands twice is an error, for PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a name is expected here", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands here twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block that people can edit."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text and text == text.strip(" \n\t") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
