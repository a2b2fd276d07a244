"""Files that another program wrote: only regular ones are opened, and JSON is bounded in size, depth and numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from toolkit.system.foreign_files import (
    MAX_JSON_DEPTH,
    MAX_LARGE_JSON_PARTS,
    find_weight_files,
    parse_foreign_json,
    read_foreign_file,
    read_foreign_json,
)

REFUSED = (
    "[" * 100_000, '{"a":' * 100_000, "[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65, "NaN", "[Infinity]",
    "[1e400]", "[-1e999]", f"[{10**19}]", f"[{-(10**19)}]", "9" * 5000, r'["\ud800"]', r'{"\udc00": 1}', "", "{", "nul",
    "[" + "[]," * 2_000_000 + "1]", '{"a": 1}{',
)  # fmt: skip
ALLOWED = (
    None,
    1,
    -(2**63) + 1,
    1.5e300,
    {"model_max_length": int(1e30)},
    {"model_max_length": 10**30},
    "\\ud800 as text is fine",
    "\U0001f600 ä",
    {"a": [1, {"b": None}]},
    True,
    [],
    {},
)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:12])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_what_is_refused_is_a_value_error(text: str, encoding: str) -> None:
    with pytest.raises(ValueError):
        parse_foreign_json(text.encode(encoding))
    if encoding == "utf-8":
        with pytest.raises(ValueError):
            parse_foreign_json(text)


@pytest.mark.parametrize("value", ALLOWED, ids=str)
def test_usual_json_is_read(value: object) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert parse_foreign_json(text) == value
        assert parse_foreign_json(text.encode()) == value


def test_too_many_values_are_counted_before_anything_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_bytes(b"[" + b"[]," * 500_000 + b"[]]")
    assert len(read_foreign_json(tmp_path / "a.json", parts=MAX_LARGE_JSON_PARTS)) == 500_001
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match="more than 200,000 values"):
        read_foreign_json(tmp_path / "a.json")


def test_the_deepest_nesting_that_is_read() -> None:
    depth = MAX_JSON_DEPTH - 1
    assert parse_foreign_json("[" * depth + "]" * depth)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "good").write_text("1")
    (tmp_path / "link").symlink_to("good")
    for name in ("pipe", "device", "folder"):
        with pytest.raises(OSError, match="not a regular file"):
            read_foreign_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_foreign_json(tmp_path / "missing")
    assert read_foreign_json(tmp_path / "good") == read_foreign_json(tmp_path / "link") == 1


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="larger than"):
        read_foreign_json(tmp_path / "sparse")


def test_weights_are_counted_once(tmp_path: Path) -> None:
    """Mistral's repositories have every weight twice: in parts, and whole in a format of their own."""
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in (*parts, "consolidated.safetensors"):
        (tmp_path / name).write_bytes(b"0" * 8)
    index = tmp_path / "model.safetensors.index.json"
    for broken in ("", "[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": {"a": [1]}}'):
        index.write_text(broken)
        assert len(find_weight_files(tmp_path)) == 3, broken
    index.write_text(json.dumps({"weight_map": {"a": parts[0], "b": parts[1], "c": parts[0]}}))
    assert [path.name for path in find_weight_files(tmp_path)] == parts
    (tmp_path / "model.safetensors").write_bytes(b"0")
    assert [path.name for path in find_weight_files(tmp_path)] == ["model.safetensors"]
