"""Large uploads are written to disk before Streamlit's route runs; all other requests pass through unchanged."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import streamlit as st
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from streamlit.runtime.uploaded_file_manager import UploadedFile, UploadedFileRec

from toolkit.data.storage import uploads
from toolkit.errors import DataError
from toolkit.ui.elements import large_uploads

NAME = "ünï (quoted).csv"
CONTENT = b"a,b\r\n" + random.Random(0).randbytes(300_000) + b"\r\n--nearly a boundary\r\n"


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in a separate thread: the main thread may have the event loop of the browser tests."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class Behind:
    """A stand-in for Streamlit's upload route that stores the file of a form and answers with `status`."""

    def __init__(self, folder: Path, status: int = 204) -> None:
        self.got: list[UploadedFileRec] = []
        self._status = status
        inner = Starlette(routes=[Route("/_stcore/upload_file/{session}/{file}", self._put, methods=["PUT"])])
        self.app = large_uploads.UploadToDisk(inner, lambda: folder)

    async def _put(self, request: Request) -> Response:
        (file,) = (await request.form()).values()
        assert isinstance(file, UploadFile)
        self.got.append(UploadedFileRec("1", file.filename or "", file.content_type or "", await file.read()))
        return Response(status_code=self._status)

    def put(self, content: bytes, session: str = "alive", /, **more: Any) -> int:
        async def ask() -> int:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                body = more or {"files": {"f": (NAME, content, "text/csv")}}
                return (await client.put(f"/_stcore/upload_file/{session}/1", **body)).status_code

        return _run(ask())

    def given(self) -> UploadedFile:
        return UploadedFile(self.got[-1], None)  # type: ignore[arg-type]


class Sessions:
    uploaded_file_mgr = SimpleNamespace(file_storage=dict[str, dict[str, Any]]())

    def is_active_session(self, name: str) -> bool:
        return name == "alive"


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_uploads, "_received", {})
    monkeypatch.setattr(large_uploads, "LARGE_UPLOAD_BYTES", 100_000)
    monkeypatch.setattr(large_uploads, "UPLOAD_WRITE_BYTES", 70_000)
    monkeypatch.setattr(large_uploads.Runtime, "exists", lambda: True)
    monkeypatch.setattr(large_uploads.Runtime, "instance", Sessions)
    monkeypatch.setattr(st, "get_option", lambda name: 1)


def left(folder: Path) -> list[Path]:
    return list((folder / "uploads").glob(".new-*"))


def test_a_large_file_is_on_disk_and_a_receipt_in_memory(tmp_path: Path) -> None:
    behind = Behind(tmp_path)
    assert behind.put(CONTENT) == 204
    (record,) = behind.got
    assert (record.name, record.type) == (NAME, "text/csv")
    assert len(record.data) < 100
    path = large_uploads.keep_upload(behind.given(), tmp_path)
    assert path.read_bytes() == CONTENT
    assert path.name == f"{hashlib.sha256(CONTENT).hexdigest()[:12]}-uni-quoted.csv"
    assert large_uploads.keep_upload(behind.given(), tmp_path) == path, "a rerun presents its receipt again"
    assert not left(tmp_path)
    assert path == uploads.store_upload(CONTENT, NAME, tmp_path), "the same file as for a small upload"


def test_the_draft_may_have_another_folder(tmp_path: Path) -> None:
    behind = Behind(tmp_path / "home")
    behind.put(CONTENT)
    path = large_uploads.keep_upload(behind.given(), tmp_path / "elsewhere")
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "elsewhere")
    assert not left(tmp_path / "home")


def test_small_and_foreign_and_oversized_uploads_pass_through_unchanged(tmp_path: Path) -> None:
    behind = Behind(tmp_path)
    for content, session in ((CONTENT[:50_000], "alive"), (CONTENT, "another"), (CONTENT * 5, "alive")):
        behind.put(content, session)  # small; unknown session; too large: Streamlit refuses the last two
        assert behind.got[-1].data == content
    assert large_uploads.keep_upload(UploadedFile(behind.got[0], None), tmp_path).read_bytes() == CONTENT[:50_000]  # type: ignore[arg-type]
    assert not left(tmp_path)


def test_an_unknown_receipt_is_not_stored_as_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = UploadedFileRec("1", "a.csv", "text/csv", large_uploads._MARK + b"0" * 32)
    with pytest.raises(DataError, match="no longer stored") as refused:
        large_uploads.keep_upload(UploadedFile(forged, None), tmp_path)  # type: ignore[arg-type]
    assert "again" in refused.value.hint
    behind = Behind(tmp_path)
    behind.put(CONTENT)
    monkeypatch.setattr(large_uploads, "UNCLAIMED_UPLOAD_S", -1)
    large_uploads._drop_unclaimed()
    with pytest.raises(DataError, match="no longer stored"):  # a page that returns after its upload was removed
        large_uploads.keep_upload(behind.given(), tmp_path)


def test_after_a_failed_store_the_user_is_asked_to_upload_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = Behind(tmp_path)
    behind.put(CONTENT)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads, "publish_file", full)
    with pytest.raises(DataError, match="No space left"):
        large_uploads.keep_upload(behind.given(), tmp_path)
    monkeypatch.undo()
    with pytest.raises(DataError, match="no longer stored"):
        large_uploads.keep_upload(behind.given(), tmp_path)
    assert not left(tmp_path)


def test_an_exception_in_the_route_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(self: Behind, request: Request) -> Response:
        raise RuntimeError("another version's route")

    monkeypatch.setattr(Behind, "_put", breaks)
    with pytest.raises(RuntimeError):
        Behind(tmp_path).put(CONTENT)
    assert not left(tmp_path)
    assert not large_uploads._received


def test_the_app_starts_when_the_upload_folder_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    behind = Behind(tmp_path / "file")
    assert behind.put(CONTENT) == 507
    assert behind.put(CONTENT[:100]) == 204


def test_an_upload_that_streamlit_refuses_is_not_kept(tmp_path: Path) -> None:
    behind = Behind(tmp_path, status=403)
    assert behind.put(CONTENT) == 403
    assert not left(tmp_path)
    assert not large_uploads._received


@pytest.mark.parametrize("body", [
    b"--x\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\n" + CONTENT,
    b"no form at all" + CONTENT,
    (b"--x\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\n" + CONTENT + b"\r\n") * 2 + b"--x--\r\n",
])  # fmt: skip
def test_an_invalid_form_or_one_with_two_files_is_refused(tmp_path: Path, body: bytes) -> None:
    behind = Behind(tmp_path)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert behind.put(b"", content=body, headers=headers) == 400
    assert not behind.got
    assert not left(tmp_path)


def test_a_boundary_that_the_parser_refuses_leaves_no_file(tmp_path: Path) -> None:
    behind = Behind(tmp_path)
    headers = {"Content-Type": f"multipart/form-data; boundary={'b' * 10_000}"}
    assert behind.put(b"", content=CONTENT, headers=headers) == 400
    assert not behind.got
    assert not left(tmp_path)
    assert not large_uploads._arriving


def test_a_disconnect_during_an_upload_leaves_no_file(tmp_path: Path) -> None:
    behind, sent = Behind(tmp_path), list[Any]()
    messages = [
        {"type": "http.request", "body": b"--x\r\n\r\n" + CONTENT, "more_body": True}, {"type": "http.disconnect"},
    ]  # fmt: skip

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-length", b"500000"), (b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "PUT", "path": "/_stcore/upload_file/alive/1", "headers": headers}
    _run(behind.app(scope, receive, send))
    assert not left(tmp_path)


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, piece: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(large_uploads.IncomingFile, "write", full)
    assert Behind(tmp_path).put(CONTENT) == 507
    assert not left(tmp_path)


def test_unclaimed_uploads_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = Behind(tmp_path)
    behind.put(CONTENT)
    assert len(left(tmp_path)) == 1
    monkeypatch.setattr(large_uploads, "UNCLAIMED_UPLOAD_S", 0)
    behind.put(CONTENT)
    assert len(left(tmp_path)) == 1, "only the second upload is left"
    monkeypatch.setattr(uploads, "ABANDONED_UPLOAD_S", -1)
    Behind(tmp_path)
    assert not left(tmp_path), "removed at the next start"


def test_unclaimed_uploads_stay_within_a_quota(tmp_path: Path) -> None:
    behind = Behind(tmp_path)
    for _ in range(12):
        assert behind.put(CONTENT) == 204
    quota = large_uploads.UPLOAD_QUOTA << 20
    assert quota - 400_000 < sum(file.stat().st_size for file in left(tmp_path)) <= quota
    assert large_uploads.keep_upload(behind.given(), tmp_path).read_bytes() == CONTENT, "the newest one is kept"
    behind.got.pop(0)
    behind.got[-1] = behind.got[0]
    with pytest.raises(DataError, match="no longer stored"):
        large_uploads.keep_upload(behind.given(), tmp_path)


def test_uploads_that_arrive_at_once_are_refused_beyond_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = Behind(tmp_path)
    monkeypatch.setitem(large_uploads._arriving, 1, (large_uploads.UPLOAD_QUOTA << 20) - 100_000)
    assert behind.put(CONTENT) == 503
    assert not left(tmp_path)
    large_uploads._arriving.clear()
    assert behind.put(CONTENT) == 204
    assert not large_uploads._arriving


@pytest.mark.parametrize("size", [b"500000", b"5000"])
def test_an_upload_that_stalls_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: bytes) -> None:
    monkeypatch.setattr(large_uploads, "UPLOAD_STALL_S", 0.05)
    behind = Behind(tmp_path)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-length", size), (b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "PUT", "path": "/_stcore/upload_file/alive/1", "headers": headers}
    _run(behind.app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert not left(tmp_path)
    assert not large_uploads._arriving


@pytest.mark.parametrize("length", [None, b"", b"-1", b"+5", b"1e3", b"\xb2", b"0x10"])
def test_an_upload_of_unknown_length_is_refused_before_its_first_byte(tmp_path: Path, length: bytes | None) -> None:
    behind = Behind(tmp_path)
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("it is not read")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    headers += [(b"content-length", length)] if length is not None else [(b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "PUT", "path": "/_stcore/upload_file/alive/1", "headers": headers}
    _run(behind.app(scope, receive, send))
    assert sent[0]["status"] == 411
    assert not behind.got


def test_small_files_that_sessions_hold_stay_within_a_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = Behind(tmp_path)
    held = SimpleNamespace(data=CONTENT[:50_000])
    monkeypatch.setattr(large_uploads, "SMALL_UPLOADS_QUOTA", 200_000)
    monkeypatch.setitem(Sessions.uploaded_file_mgr.file_storage, "other", {"1": held, "2": held})
    assert behind.put(CONTENT[:50_000]) == 204
    monkeypatch.setitem(Sessions.uploaded_file_mgr.file_storage, "alive", {"1": held})
    assert behind.put(CONTENT[:50_000]) == 503
    assert len(behind.got) == 1
    assert behind.put(CONTENT) == 204, "a large one is on the disk"


def test_an_upload_is_read_once_per_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(large_uploads, "st", SimpleNamespace(session_state={}))
    kept, read = [], []

    def keep(given: Any, save_dir: Path) -> Path:
        kept.append(given.file_id)
        return save_dir / given.file_id

    monkeypatch.setattr(large_uploads, "keep_upload", keep)
    for name in ("a", "a", "b"):
        given: Any = SimpleNamespace(file_id=name)
        found = large_uploads.read_upload_once(given, tmp_path, lambda path: (read.append(path), path.name)[1])
        assert found == name
    assert kept == ["a", "b"]
    assert len(read) == 2
