"""Config files: settings survive a file unchanged, and an invalid file is rejected with a message and a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.config import Config
from toolkit.errors import ConfigError
from toolkit.settings import yaml_file
from toolkit.settings.validation import parse_draft
from toolkit.settings.yaml_file import (
    SCHEMA_HEADER,
    dump_config,
    dump_draft,
    load_draft,
    read_config_text,
    with_absolute_paths,
)

printable = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=80)


def test_the_defaults_survive_a_file() -> None:
    text = dump_config(Config())
    assert text.splitlines()[0] == SCHEMA_HEADER
    assert parse_draft(load_draft(text)) == Config()


@given(prompt=printable, rate=st.floats(1e-9, 1), name=printable)
def test_any_text_and_number_survives_a_file(prompt: str, rate: float, name: str) -> None:
    draft = {"data": {"prompt": prompt}, "training": {"training_args": {"learning_rate": rate}}, "save_dir": name}
    assert load_draft(dump_draft(draft)) == draft


def test_lists_of_values_survive_a_file_without_aliases() -> None:
    values = [1e-4, 2e-4]
    draft = {"lora": {"r": [8, 16], "target_modules": [["q_proj"], ["all-linear"]]}, "a": values, "b": values}
    text = dump_draft(draft)
    assert "&" not in text
    assert load_draft(text) == draft


def test_text_of_several_lines_is_written_as_a_block() -> None:
    text = dump_draft({"prompt": "### Q: {q}\n### A:"})
    assert "prompt: |-\n  ### Q: {q}\n  ### A:" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# finetuning-toolkit config, schema 2\ndata: {}", "newer version"),
        ("a: [1, 2", "line 1"),
        ("a: 1\nb: 2\na: 3", "the key 'a' appears twice in line 3"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: 1\n<<: {a: 2}", "merge keys (<<) are not allowed in line 2"),
        ("lora: {<<: [{r: 2}, {r: 4}]}", "merge keys"),
        ("a: !!python/object/apply:os.system ['id']", "tags"),
        ("a: !!binary aGk=", "tags"),
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        ("? [1, 2]\n: 3", "name is expected"),
        ("- 1\n- 2", "contains a list instead"),
        ("just words", "contains a str instead"),
        ("a: \x00", "not plain YAML"),
        ("a\tb: - c: :", "line 1"),
        ("a: " + "x" * 1_000_001, "larger than 1 MB"),
        ("a: 2020-13-45", "not plain YAML"),
    ],
)
def test_unreadable_yaml_is_rejected_with_a_message_and_a_hint(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_draft(text)
    assert words in str(error.value)
    assert error.value.problems[0].hint


def test_an_empty_file_is_an_empty_draft() -> None:
    assert load_draft("") == {}
    assert load_draft(SCHEMA_HEADER) == {}


@given(st.text(max_size=200))
def test_any_text_is_a_dict_or_a_config_error(text: str) -> None:
    try:
        draft = load_draft(text)
    except ConfigError:
        return
    assert isinstance(draft, dict)
    assert draft == yaml.safe_load(text) or not draft


def test_missing_files_and_files_that_are_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        read_config_text(tmp_path / "none.yml")
    (tmp_path / "x.yml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_config_text(tmp_path / "x.yml")
    (tmp_path / "bom.yml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert load_draft(read_config_text(tmp_path / "bom.yml")) == {"a": 1}


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    config = parse_draft({"data": {"path": "rows.csv"}, "model": {"hf_model_ckpt": "./model"}})
    absolute = with_absolute_paths(config)
    assert str(absolute.data.path) == str(tmp_path / "rows.csv")
    assert absolute.model.hf_model_ckpt == str(tmp_path / "model")
    assert with_absolute_paths(Config()) == Config()
    hub = parse_draft({"data": {"file_type": "huggingface", "path": "a/b"}, "model": {"hf_model_ckpt": "org/name"}})
    assert with_absolute_paths(hub) == hub


YAML_TEXT = st.text(st.sampled_from("ab:-[]{},#'\"|>&*!?%@` \n01.e~é\x85\u2028\\xuN"), max_size=30)


@settings(max_examples=500)
@given(YAML_TEXT)
def test_the_fast_parser_reads_what_the_other_one_reads(text: str) -> None:
    found: list[Any] = []
    for loader in (yaml_file._FastLoader, yaml_file._Loader):
        try:
            yaml_file._check_plain_yaml(text, loader)
            found.append(repr(loader(text).get_single_data()))
        except (yaml.YAMLError, ValueError):
            return
    assert found[0] == found[1]
