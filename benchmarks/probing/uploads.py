"""Uploads: of other pages, for other sessions, in odd forms, without end, and more than the disk holds."""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.probing.probe import Probe
from benchmarks.probing.server import (
    Headers,
    Session,
    Target,
    ask,
    is_alive,
    status_of,
    write_form,
    write_upload,
)
from toolkit.data.storage.uploads import store_upload
from toolkit.ui.elements.large_uploads import LARGE_UPLOAD_BYTES

FORM = ("Content-Type", "multipart/form-data; boundary=b0undary")
LARGE = b"x" * (LARGE_UPLOAD_BYTES + 1000)
SLOW_SECONDS = 75.0
STORED_NAME = re.compile(r"[0-9a-f]{12}-[a-z0-9-]{1,40}\.[a-z0-9]{1,8}")
IDS = (
    "..",
    "../x",
    "..%2fx",
    "%2e%2e%2fx",
    "/etc/passwd",
    "a/b",
    "%00",
    "x" * 5000,
    "'",
    '"',
    "<b>",
    "{}",
    "$(id)",
    "`id`",
    ";id",
    "|id",
    "%",
    "%zz",
    "ü",
    "\u202e",
    "con",
    "nul",
    ".",
    "~",
    "-",
    "a b",
    "a%20b",
    "%0d%0aX: y",
    "\\",
    "..\\x",
    "*",
    "?x",
    "#x",
    "&",
    "0",
    "-1",
)
NAMES = (
    "../../x.csv",
    "..\\..\\x.csv",
    "/etc/passwd",
    "C:\\x.csv",
    "\\\\server\\x.csv",
    "x.csv/",
    "x.csv/..",
    ".",
    "..",
    "...",
    "",
    " ",
    "\x00.csv",
    "a\x00b.csv",
    "a\nb.csv",
    "a\r\nX: y.csv",
    "\u202evsc.exe",
    "a" * 5000 + ".csv",
    "a." + "b" * 300,
    ".csv",
    ".bashrc",
    "-rf.csv",
    "--x",
    "~",
    "~root",
    "$HOME",
    "$(id).csv",
    "`id`.csv",
    ";id.csv",
    "|id.csv",
    "&.csv",
    "<b>.csv",
    "'.csv",
    '".csv',
    "%2e%2e%2fx.csv",
    "con.csv",
    "nul",
    "a.csv.exe",
    "a.tar.gz",
    "a.PARQUET",
    "a.py",
    "a.pkl",
    "a.so",
    "COMMIT.json",
    "run.json",
    "\ud800.csv",
    "\u200b.csv",
    "ï»¿.csv",
    "e\u0301.csv",
    "𝓍.csv",
    "文件.csv",
    "a:b.csv",
    "a*b?.csv",
    ".new-1",
    "tables",
    "versions",
    "tables/x.parquet",
    "versions/a-b.parquet",
    "a.csv\t",
    "a .csv",
    "#.csv",
    "a%00.csv",
    "{x}.csv",
    "{0}.csv",
    "%s.csv",
    "😀.csv",
)
FOLDERS = ("x.csv", "a/../../x.csv", "uploads/../../x.csv", "x/../x.csv")


def name_probes(folder: Path) -> Iterator[Probe]:
    """Names of files: what is stored lies in the uploads folder, under a plain name."""
    for name in NAMES:
        for form in ("{}", "../{}", "a/{}", "{}.csv", "{}.jsonl"):
            yield Probe(
                "file name",
                repr(form.format(name)[:60]),
                partial(_store_name, form.format(name), folder),
                isolated=False,
            )


def _store_name(name: str, folder: Path) -> str:
    path = store_upload(b"a,b\n1,2\n", name, folder)
    inside = path.resolve().parent == (folder / "uploads").resolve() and bool(STORED_NAME.fullmatch(path.name))
    return "" if inside else f"stored as {str(path)[-100:]!r}"


def upload_probes(target: Target, session: Session) -> Iterator[Probe]:
    """Small and large uploads with a wrong token, session or form."""
    own = (("Origin", target.origin), ("X-Xsrftoken", session.token))
    cookies = _with_cookie(target, session.token)
    for size, content in (("small", b"a,b\n1,2\n"), ("large", LARGE)):
        form = write_form(content)
        for token in ("", *_forge(session.token), "2|" + "0" * 40, secrets.token_hex(32), "\u202e", "x" * 5000):
            for cookie in ("", session.token):  # another page can't choose the cookie
                given = (("Origin", target.origin), ("X-Xsrftoken", token), FORM, ("Content-Length", str(len(form))))
                bad = _with_cookie(target, cookie)
                attempt = partial(_put, bad, session.name, "f", form, given)
                yield Probe("xsrf", f"{size}, token {token[:12]!r}, cookie {cookie[:6]!r}", attempt, isolated=False)
        for name in (
            "",
            "x",
            session.name[:-1],
            session.name + "0",
            session.name.upper() + "x",
            "../" + session.name,
            "*",
            "%00",
            secrets.token_hex(16),
        ):
            given = (*own, FORM, ("Content-Length", str(len(form))))
            yield Probe(
                "session",
                f"{size}, {name[:12]!r}",
                partial(_put, cookies, name or "%20", "f", form, given),
                isolated=False,
            )
    for file in IDS:
        form = write_form(b"a,b\n1,2\n")
        given = (*own, FORM, ("Content-Length", str(len(form))))
        for method in ("put", "delete"):
            yield Probe(
                "file id",
                f"{method} {file[:20]!r}",
                partial(_try_id, cookies, session.name, file, form, given, method),
                isolated=False,
            )
    for name, (content_type, body) in odd_forms().items():
        for size in ("small", "large"):
            sent = body if size == "small" else body + LARGE
            given = (*own, ("Content-Type", content_type), ("Content-Length", str(len(sent))))
            yield Probe(
                "form", f"{size}, {name}", partial(_put_odd, cookies, session.name, sent, given), isolated=False
            )


def _forge(token: str) -> list[str]:
    """Return tokens that differ from the session's own in one digit of what is compared."""
    version, *parts = token.split("|")
    changed = [[*parts] for _ in range(2)]
    for number, one in enumerate(changed):
        one[number] = f"{(int(one[number][0], 16) + 1) % 16:x}{one[number][1:]}"
    return ["|".join([version, *one]) for one in changed]


def _with_cookie(target: Target, token: str) -> Target:
    return replace(target, cookie=f"_streamlit_xsrf={token}")


def odd_forms() -> dict[str, tuple[str, bytes]]:
    """Name -> (content type, body) of forms that hold no single file."""
    whole = write_form(b"a,b\n1,2\n")
    part = b'--b0undary\r\nContent-Disposition: form-data; name="f"; filename="a.csv"\r\n\r\n'
    field = b'--b0undary\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n'
    multi = FORM[1]
    return {
        "no type": ("", whole),
        "JSON": ("application/json", b"{}"),
        "no boundary": ("multipart/form-data", whole),
        "empty boundary": ("multipart/form-data; boundary=", whole),
        "other boundary": ("multipart/form-data; boundary=x", whole),
        "boundary of 10 kB": (f"multipart/form-data; boundary={'b' * 10_000}", write_form(b"x", boundary="b" * 10_000)),
        "boundary with CR": ('multipart/form-data; boundary="a\tb"', whole),
        "no end": (multi, part + b"x"),
        "nothing": (multi, b""),
        "no header": (multi, b"--b0undary\r\n\r\nx\r\n--b0undary--\r\n"),
        "two files": (multi, part + b"x\r\n" + part + b"y\r\n--b0undary--\r\n"),
        "1,001 fields": (multi, field * 1001 + b"--b0undary--\r\n"),
        "field only": (multi, field + b"--b0undary--\r\n"),
        "header of 1 MB": (multi, b"--b0undary\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\nx\r\n--b0undary--\r\n"),
        "10,000 headers": (multi, b"--b0undary\r\n" + b"X: y\r\n" * 10_000 + b"\r\nx\r\n--b0undary--\r\n"),
        "binary": (multi, bytes(range(256)) * 10),
        "urlencoded": ("application/x-www-form-urlencoded", b"f=x"),
        "nested": (multi, part.replace(b"\r\n\r\n", b"\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n") + whole),
        "NUL name": (multi, part.replace(b"a.csv", b"a\x00.csv") + b"x\r\n"),
        "bare LF": (multi, whole.replace(b"\r\n", b"\n")),
    }


def _put(target: Target, session: str, file: str, form: bytes, headers: Headers) -> str:
    before = _left(target)
    status = status_of(ask(target.port, write_upload(target, session, file, form, headers)))
    left = _left(target) - before
    return f"accepted with {status}" if status in range(200, 400) else _describe_rest(status, left)


def _try_id(target: Target, session: str, file: str, form: bytes, headers: Headers, method: str) -> str:
    request = write_upload(target, session, file, form, headers)
    status = status_of(ask(target.port, request if method == "put" else request.replace(b"PUT", b"DELETE", 1)))
    outside = [path for path in target.save_dir.parent.rglob("*x") if path.name == "x" and path.is_file()]
    return f"wrote {outside[0]}" if outside else _describe_rest(status, set())


def _put_odd(target: Target, session: str, form: bytes, headers: Headers) -> str:
    before = _left(target)
    status = status_of(ask(target.port, write_upload(target, session, "f", form, headers), 20.0))
    left = set() if status == 204 else _left(target) - before  # what was accepted waits for its page
    return _describe_rest(status, left) or ("" if is_alive(target.port) else "the app answers no longer")


def _left(target: Target) -> set[Path]:
    """Return the unfinished uploads; those of an upload that was refused a moment ago are being removed."""
    deadline = time.monotonic() + 5
    while (found := set((target.save_dir / "uploads").glob(".new-*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _describe_rest(status: int, left: set[Path]) -> str:
    if status >= 500 and status not in (503, 507):
        return f"failed with {status}"
    return f"left {sorted(path.name for path in left)[:3]} ({status})" if left else ""


def hold_probes(target: Target, session: Session) -> Iterator[Probe]:
    """Requests that never end, and more uploads than are allowed to wait; each probe is one of several connections."""
    cookies = _with_cookie(target, session.token)
    given = (("Origin", target.origin), ("X-Xsrftoken", session.token), FORM)
    starts: dict[str, Callable[[], bytes]] = {
        "large, after the headers": lambda: write_upload(
            cookies, session.name, "f", b"", (*given, ("Content-Length", str(len(LARGE))))
        ),
        "large, in its middle": lambda: write_upload(
            cookies, session.name, "f", write_form(LARGE)[:100_000], (*given, ("Content-Length", str(len(LARGE))))
        ),
        "small, after the headers": lambda: write_upload(
            cookies, session.name, "f", b"", (*given, ("Content-Length", "5000"))
        ),
        "small, in its middle": lambda: write_upload(
            cookies, session.name, "f", write_form(b"x" * 4000)[:900], (*given, ("Content-Length", "5000"))
        ),
        "in chunks without end": lambda: write_upload(
            cookies, session.name, "f", b"5\r\nabcde\r\n", (*given, ("Transfer-Encoding", "chunked"))
        ),
        "without tokens": lambda: write_upload(target, "x", "f", b"", (FORM, ("Content-Length", "5000"))),
    }
    for name, start in starts.items():
        yield Probe("slow", name, partial(_hold, target, start()), SLOW_SECONDS + 10, isolated=False)


def _hold(target: Target, start: bytes) -> str:
    """Return how many of ten connections that send no more are still open after a minute."""
    held = []
    try:
        for _ in range(10):
            connection = socket.create_connection(("127.0.0.1", target.port), timeout=5)
            connection.sendall(start)
            held.append(connection)
        until = time.monotonic() + SLOW_SECONDS
        open_still = [one for one in held if not _is_closed(one, until)]
        return f"{len(open_still)} of {len(held)} connections are open after {SLOW_SECONDS:.0f} s" if open_still else ""
    finally:
        for one in held:
            one.close()


def _is_closed(connection: socket.socket, until: float) -> bool:
    connection.settimeout(max(0.1, until - time.monotonic()))
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def memory_probes(target: Target, session: Session, pid: int) -> Iterator[Probe]:
    """Small uploads, which Streamlit keeps in the app's memory, more and more of them."""
    cookies = _with_cookie(target, session.token)
    content = b"x" * (LARGE_UPLOAD_BYTES - 10_000)
    form = write_form(content)
    given = (("Origin", target.origin), ("X-Xsrftoken", session.token), FORM, ("Content-Length", str(len(form))))
    request = partial(write_upload, cookies, session.name)
    yield Probe(
        "disk",
        "800 MB of small files that no page claims",
        lambda: _fill(target, pid, lambda n: request(f"f{n}", form, given)),
        120,
        isolated=False,
    )


def _fill(target: Target, pid: int, request: Callable[[int], bytes]) -> str:
    before = _resident(pid)
    for number in range(100):
        ask(target.port, request(number), 20.0)
    grown = _resident(pid) - before
    return f"the app grew by {grown // 2**20} MiB" if grown > 600 << 20 else ""


def _resident(pid: int) -> int:
    import psutil

    return sum(one.memory_info().rss for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)))
