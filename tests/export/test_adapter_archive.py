"""The zip of an adapter: what it is not, when it is unpacked, and how large it may be."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.export.adapter_archive import WEIGHT_FILES, unpack, write_zip


def test_a_zip_of_ours_is_unpacked_as_it_was(tmp_path: Path) -> None:
    for name in WEIGHT_FILES:
        (tmp_path / name).write_bytes(b"\0" * 100_000)
    write_zip(tmp_path / "a.zip", {name: tmp_path / name for name in WEIGHT_FILES})
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(WEIGHT_FILES)
    assert (tmp_path / "out" / WEIGHT_FILES[0]).read_bytes() == b"\0" * 100_000


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_expands_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", method) as archive:
        archive.writestr(WEIGHT_FILES[0], b"\0" * 50_000_000)
    with pytest.raises(RunError, match="would expand to"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_whose_entries_share_their_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "overlap.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"\0" * 1_000_000)
        entry = archive.getinfo("a")
        for number in range(200):
            other = zipfile.ZipInfo(f"b{number}")
            other.file_size, other.compress_size = entry.file_size, entry.compress_size
            other.CRC, other.header_offset = entry.CRC, entry.header_offset
            archive.filelist.append(other)
        archive._didModify = True
    with pytest.raises(RunError, match="would expand to"):
        unpack(path, tmp_path / "out")
