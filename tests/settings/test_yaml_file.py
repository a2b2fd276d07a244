"""Config files: settings survive a file unchanged, and an invalid file is rejected with a message and a place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.config import Config
from toolkit.errors import ConfigError
from toolkit.settings import yaml_file
from toolkit.settings.draft import default_draft
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
        ("a:\n  b: " + "9" * 5000, "has more than 400 characters in line 2"),
        ("a: 0x" + "f" * 90_000, "the number 0xffffffffffffffffff... has more than 400 characters"),
        ("a: 0b" + "1" * 90_000, "has more than 400 characters"),
        ("a: 1" + ":10" * 90_000, "has more than 400 characters"),  # base 60
        ("a: 1" + ":1" * 190 + ".5", "too large"),
        ("a: 2020-01-01 00:00:00." + "9" * 90_000, "has more than 400 characters"),
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


LAYOUTS = (
    "a: 1\nb:\n  c: |\n    x\n\n     y\n  d: >-\n    foo\n    bar\n",
    "a:\n  b: 'x\n\n    y'\n",
    "yes: 1\nno:\n  on: 2\n",
    "a: {b: 1,\nc: 2}\n",
    'a: "x\ny: 1"\n',
    "a: 1\na: 2\n",
    "a:\n  b: 1\n  b: 2\n",
    "a: &x 1\nb: *x\n",
    "<<: {a: 1}\n",
    "a:\n  <<: {b: 1}\n",
    "---\na: 1\n",
    "a: 1\n---\nb: 2\n",
    "a:\n  ---\n",
    "a:\n- 1\n- b: 2\nc: 3\n",
    "a:\n  - 1\n",
    "a:\n  b\n  c\n",
    "a:\n  b\n  c: 1\n",
    "? a\n: 1\n",
    "a: 1\r\nb: 2\r\n",
    "a:\r\n  b: 1\r\n",
    "a:\n  b: 1\n# d\n  c: 2\n",
    "a: |+\n  x\n\n\nb: 1\n",
    "a: |2\n    x\nb: 1\n",
    "a:\n  b: |1\n    x\n",
    "a:\n\tb: 1\n",
    "a: 1\n  b: 2\n",
    "a:  # note\n  b: 1\n",
    "a:\n  b: 1\n c: 2\n",
    "a:\n   b: 1\n",
    " a: 1\nb: 2\n",
    "a:\n   b: 1\n  c: 2\n",
    "a: [1, 2\nb: 3]\n",
    "a:\n  b: 2026-01-01\n  c: 0x1F\n  d: ~\n",
    "a: !!python/none x\n",
    "'A': 1\nA: 2\n",
    "a:\n  x: 1\n   \n  y: |\n    q\n\n",
    "a:\n  x: 1\n...\n",
    "a: 1\x85b: 2\n",
    "a:\n",
    "a:\n  b: 1",
    "a:\n" * 2,
    "# only a comment\n",
    "a:\n  b: {}\n  c: []\n",
)


@pytest.mark.parametrize("text", LAYOUTS, ids=repr)
def test_a_text_that_is_read_line_by_line_means_the_same(text: str) -> None:
    def read(parse: Callable[[str], Any]) -> str:
        try:
            return repr(parse(text))
        except (yaml.YAMLError, ValueError):
            return "refused"

    assert yaml_file._parse_blocks(text) is None or read(yaml_file._parse_blocks) in (
        read(yaml_file._parse_plain_yaml),
        "{}",
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 900), st.text("ab: \n'\"|>#{}[],&*!?%-\t", max_size=4)), max_size=3))
def test_a_changed_config_is_read_or_refused_as_a_whole_is(changes: list[tuple[int, str]]) -> None:
    text = dump_draft(default_draft())
    for at, added in changes:
        text = text[:at] + added + text[at + 1 :]
    found = yaml_file._parse_blocks(text)
    assert not found or found == yaml_file._parse_plain_yaml(text)


def test_what_was_read_can_be_changed_without_an_effect_on_the_next_reading() -> None:
    text = "lora:\n  target_modules:\n  - q\n  r: 8\n"
    load_draft(text)["lora"]["target_modules"].append("v")
    assert load_draft(text) == {"lora": {"target_modules": ["q"], "r": 8}}
