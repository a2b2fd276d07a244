"""Uploads are kept whole, by content, under names that the server makes."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolkit.data.storage import room
from toolkit.data.storage.stored_names import make_file_label, original_file_name
from toolkit.data.storage.uploads import (
    UPLOAD_CHUNK_BYTES,
    store_named_file,
    store_upload,
)
from toolkit.errors import DataError


def test_the_bytes_are_kept_as_given(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    path = store_upload(io.BytesIO(content), "a.csv", tmp_path)
    assert path.read_bytes() == content
    assert path == tmp_path / "uploads" / f"{hashlib.sha256(content).hexdigest()[:12]}-a.csv"
    assert store_upload(content, "a.csv", tmp_path) == path
    assert list((tmp_path / "uploads").iterdir()) == [path]


@pytest.mark.parametrize(
    "name",
    [
        "../../x.csv",
        "/etc/passwd",
        "CON",
        ".",
        "",
        "x" * 300,
        "a\0b.csv",
        "a\nb.csv",
        "😀.csv",
        "\u202ecsv.exe",
        "-rf.csv",
        "C:\\Users\\me\\data.csv",
        "a.tar.gz",
        ".hidden",
        "a b.JSON",
    ],
)
def test_names_become_harmless(tmp_path: Path, name: str) -> None:
    path = store_upload(b"x", name, tmp_path)
    assert path.parent == tmp_path / "uploads"
    assert re.fullmatch(r"[0-9a-f]{12}-[a-z0-9-]{1,40}\.(csv|tsv|txt|json|jsonl|ndjson|data)", path.name)


@pytest.mark.parametrize(
    ("name", "label"),
    [("My Data (2).csv", "my-data-2"), ("Übung.json", "ubung"), ("C:\\x\\y.csv", "y"), ("日本.csv", "data")],
)
def test_labels_read_like_the_name(name: str, label: str) -> None:
    assert make_file_label(name) == label


@pytest.mark.parametrize(
    ("name", "label"),
    [("x.xyz", "x.xyz"), ("My Export.LOG", "my-export.log"), ("a.tar.gz", "a-tar.gz"), ("notes", "notes.data"),
     ("a--b.csv", "a-b.csv"), ("C:\\v1.2\\x", "x.data")],
)  # fmt: skip
def test_an_unknown_ending_is_shown_as_the_user_wrote_it(tmp_path: Path, name: str, label: str) -> None:
    path = store_upload(b"a,b\n", name, tmp_path)
    assert path.suffix in (".data", ".csv"), "stored under a harmless ending"
    assert store_named_file(path, tmp_path).label == original_file_name(path) == label


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    from toolkit.errors import DataError

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left"):
        store_upload(Broken(), "a.csv", tmp_path)
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_upload_is_its_own_copy(tmp_path: Path) -> None:
    path = store_upload(b"a,b\n", "a.csv", tmp_path)
    source = store_named_file(path, tmp_path)
    assert (source.path, source.label) == (path, "a.csv")
    assert source.sha256 == hashlib.sha256(b"a,b\n").hexdigest()
    assert list((tmp_path / "uploads").iterdir()) == [path]


def test_a_file_that_is_nearly_all_holes_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    given = tmp_path / "a.csv"
    with given.open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(DataError, match="nearly all zeros") as refused:
        store_named_file(given, tmp_path)
    assert refused.value.hint and not list((tmp_path / "uploads").iterdir())


def test_a_file_that_the_disk_can_not_hold_is_refused_before_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=4))
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="would fill the disk"):
        store_named_file(tmp_path / "a.csv", tmp_path)
    assert not list((tmp_path / "uploads").iterdir())


def test_a_file_of_the_kernel_without_an_end_is_read_to_the_length_that_it_states(tmp_path: Path) -> None:
    if not Path("/proc/self/pagemap").exists():
        pytest.skip("no Linux")
    assert store_named_file(Path("/proc/self/pagemap"), tmp_path).path.stat().st_size <= 2 * UPLOAD_CHUNK_BYTES
