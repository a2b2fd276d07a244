"""Files of the fine-tuning API: upload, list, content, deletion, and what is refused before it is kept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.fakes.fine_tuning_api import GOOD_LINES, ApiWithoutProcesses
from toolkit.api.files import file_store
from toolkit.api.files.file_store import FileStore
from toolkit.worker.serving.request_models import RequestError

PURPOSE = {"purpose": "fine-tune"}


def error_of(reply: object) -> dict[str, str]:
    return reply.json()["error"]  # type: ignore[attr-defined,no-any-return]


def stored(api: ApiWithoutProcesses) -> list[Path]:
    return sorted((api.save_dir / "api" / "files").iterdir())


def test_a_file_is_kept_for_its_owner_only_and_given_back_as_it_was(api: ApiWithoutProcesses) -> None:
    content = "\n".join(GOOD_LINES).encode()
    reply = api.http.post("/v1/files", data=PURPOSE, files={"file": ("../../Kauf beleg.jsonl", content)}).json()
    assert reply["id"].startswith("file-") and reply["object"] == "file" and reply["purpose"] == "fine-tune"
    assert (reply["bytes"], reply["filename"], reply["status"]) == (len(content), "Kauf beleg.jsonl", "processed")
    assert api.http.get(f"/v1/files/{reply['id']}").json() == reply
    assert api.http.get(f"/v1/files/{reply['id']}/content").content == content
    assert api.http.get("/v1/files").json()["data"] == [reply]
    (folder,) = stored(api)
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (folder.parent, folder)}
    assert folder.name == reply["id"] and modes <= {0, 0o055}  # the umask of an entry point makes it 0
    assert api.http.delete(f"/v1/files/{reply['id']}").json() == {"id": reply["id"], "object": "file", "deleted": True}
    assert api.http.get(f"/v1/files/{reply['id']}").status_code == 404 and not stored(api)


def test_pages_of_files_follow_the_cursor(api: ApiWithoutProcesses) -> None:
    made = {api.upload(GOOD_LINES, f"{number}.jsonl") for number in range(5)}
    seen: list[str] = []
    query = {"limit": "2", "order": "asc", "purpose": "fine-tune"}
    while True:
        page = api.http.get("/v1/files", params=query).json()
        seen += [file["id"] for file in page["data"]]
        if not page["has_more"]:
            break
        assert page["last_id"] == seen[-1] and len(page["data"]) == 2
        query["after"] = seen[-1]
    assert len(seen) == 5 and set(seen) == made
    assert api.http.get("/v1/files", params={"purpose": "fine-tune-results"}).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "param"), [({"limit": "0"}, "limit"), ({"limit": "many"}, "limit"), ({"limit": "²"}, "limit"),
                         ({"after": "file-none"}, "after"), ({"order": "up"}, "order")]
)  # fmt: skip
def test_a_wrong_page_is_refused_by_its_parameter(api: ApiWithoutProcesses, query: dict[str, str], param: str) -> None:
    reply = api.http.get("/v1/files", params=query)
    assert reply.status_code == 400 and error_of(reply)["param"] == param


@pytest.mark.parametrize(
    "file_id",
    ["nothing", "file-" + "0" * 24, "..", "file-..%2F..%2Fkey", "%2e%2e%2fkey", "file-result-..", "file-result-none",
     "file-result-..%2Fruns", "key", "file-" + "0" * 23 + "/"],
)  # fmt: skip
def test_an_id_that_is_no_id_finds_nothing(api: ApiWithoutProcesses, file_id: str) -> None:
    for reply in (
        api.http.get(f"/v1/files/{file_id}"),
        api.http.get(f"/v1/files/{file_id}/content"),
        api.http.delete(f"/v1/files/{file_id}"),
    ):
        assert reply.status_code in (404, 405), reply.text
        assert set(error_of(reply)) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"purpose": "assistants"}, {"file": ("a.jsonl", b"{}")}, "purpose"),
        ({}, {"file": ("a.jsonl", b"{}")}, "purpose"),
        ({**PURPOSE, "expires_after[anchor]": "created_at"}, {"file": ("a.jsonl", b"{}")}, "expires_after[anchor]"),
        (PURPOSE, {"file": ("a.jsonl", b"")}, "file"),
        (PURPOSE, {"other": ("a.jsonl", b"{}")}, "other"),
    ],
)
def test_a_form_with_something_else_is_refused_and_not_kept(
    api: ApiWithoutProcesses, fields: dict[str, str], files: dict[str, tuple[str, bytes]], param: str
) -> None:
    reply = api.http.post("/v1/files", data=fields, files=files)
    assert reply.status_code == 400 and error_of(reply)["param"] == param, reply.text
    assert not stored(api)


def test_what_is_no_form_is_refused(api: ApiWithoutProcesses) -> None:
    assert api.http.post("/v1/files", json={}).status_code == 400
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"garbage", b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\ncut off"):
        assert api.http.post("/v1/files", content=body, headers=headers).status_code == 400
    long_header = b"--x\r\nContent-Disposition: " + b"a" * 2_000
    assert api.http.post("/v1/files", content=long_header, headers=headers).status_code == 400
    for boundary in ("B" * 5_000, "é" * 200):
        odd = {"Content-Type": f"multipart/form-data; boundary={boundary}".encode()}
        reply = api.http.post("/v1/files", content=b"--x", headers=odd)
        assert reply.status_code == 400 and "boundary" in error_of(reply)["message"].lower()
    reply = api.http.post("/v1/files", content=iter([b"--x"]), headers=headers)
    assert reply.status_code == 411 and not stored(api)


def test_sizes_are_judged_before_the_first_byte(api: ApiWithoutProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(2**40)}
    reply = api.http.post("/v1/files", content=b"", headers=headers)
    assert reply.status_code == 413 and error_of(reply)["code"] == "too_large"
    reply = api.http.post("/v1/fine_tuning/jobs", content=b"", headers={"Content-Length": str(2**23)})
    assert reply.status_code == 413
    api.upload(GOOD_LINES)
    monkeypatch.setattr(file_store, "MAX_STORED_BYTES", 1_000)
    reply = api.http.post("/v1/files", data=PURPOSE, files={"file": ("a.jsonl", b"{}" * 300)})
    assert reply.status_code == 413 and error_of(reply)["code"] == "storage_full"
    assert len(stored(api)) == 1


def test_space_of_uploads_in_progress_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_store, "MAX_STORED_BYTES", 100)
    store = FileStore(tmp_path)
    with store.reserve_space(60), pytest.raises(RequestError, match="more than"), store.reserve_space(60):
        pass
    with store.reserve_space(60):
        pass
    monkeypatch.setattr(file_store, "KEPT_FREE_BYTES", 2**60)
    with pytest.raises(RequestError, match="no room"), store.reserve_space(1):
        pass


def test_damaged_and_unfinished_files_are_left_out(api: ApiWithoutProcesses) -> None:
    file_id = api.upload(GOOD_LINES)
    folder = api.save_dir / "api" / "files"
    (folder / ".new-cut-off").mkdir()
    (folder / f"file-{'1' * 24}").mkdir()
    (folder / f"file-{'2' * 24}").symlink_to(folder / file_id)
    (folder / f"file-{'3' * 24}").mkdir()
    (folder / f"file-{'3' * 24}" / "record.json").write_text("[" * 5_000)
    assert [file["id"] for file in api.http.get("/v1/files").json()["data"]] == [file_id]
    FileStore(api.save_dir)
    assert not (folder / ".new-cut-off").exists()


def test_without_the_key_nothing_is_answered(api: ApiWithoutProcesses) -> None:
    with TestClient(api.http.app, base_url="http://127.0.0.1") as http:
        for key in ({}, {"Authorization": "Bearer wrong"}):
            for path in ("/health", "/v1/files", "/v1/fine_tuning/jobs", "/v1/models"):
                reply = http.get(path, headers=key)
                assert reply.status_code == 401 and error_of(reply)["code"] == "invalid_api_key"
    with TestClient(api.http.app, base_url="http://evil.example") as http:
        assert http.get("/v1/files", headers=dict(api.http.headers)).status_code == 403
