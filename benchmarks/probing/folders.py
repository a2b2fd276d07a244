"""Folders that another program wrote: each JSON file of a run, damaged in every way; keys, addresses and links."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.probing.probe import Probe
from tests.scenarios.runs.test_hostile_run_files import EVENTS, FIELDS, JSON_FILES, read_everything
from toolkit.errors import ToolkitError
from toolkit.runs.run_dir import RunDir
from toolkit.services.engine_process import EngineInfo, find_engine
from toolkit.services.service_process import sign_service_body
from toolkit.system import durable
from toolkit.system.locks import hold_lock
from toolkit.system.private_files import tighten_save_dir
from toolkit.ui.workspace.run_entries import read_run_entries

MORE_FILES = (
    "../slots.json",
    "../../draft.json",
    "../../studies/20261129-212526-r09j/study.json",
    "../../uploads/index.json",
    "adapter/adapter_config.json",
    "checkpoints/step-000001/COMMIT.json",
    "start/COMMIT.json",
    "stop",
    "accelerate.yml",
    "data/plan.json",
    "exports/adapter.json",
    "claim-2",
    "evaluation/20261129-212526-r09j/progress.json",
    "../index.json",
    "../facts.json",
    "../../engine/engine.lock",
)
LINES = b'{"n":1,"attempt":1,"t":1.0,"kind":"log","step":1,"loss":0.5}\n'
CONTENTS: dict[str, bytes] = {
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "closed deep list": b"[" * 30_000 + b"]" * 30_000,
    "closed deep object": b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
    "65 levels": b"[" * 65 + b"]" * 65,
    "empty": b"",
    "NUL": b"\0" * 5000,
    "space": b" " * 5000,
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"schema": 1}'.encode("utf-16"),
    "Latin": b'{"name": "\xff"}',
    "null": b"null",
    "true": b"true",
    "number": b"7",
    "text": b'"x"',
    "list": b"[]",
    "object": b"{}",
    "NaN": b"NaN",
    "infinity": b'{"created": Infinity}',
    "1e999": b'{"created": 1e999}',
    "long number": b'{"created": ' + b"9" * 5000 + b"}",
    "10^30": b'{"created": 1' + b"0" * 30 + b"}",
    "half character": b'{"name": "\\ud800"}',
    "truncated": b'{"schema": 1, "id": "',
    "two values": b"{}{}",
    "trailing": b'{"schema": 1},',
    "doubled keys": b'{"schema": 1, "schema": []}',
    "empty lists": b"[" + b"[]," * 500_000 + b"[]]",
    "wide": b'{"a":[' + b"0," * 500_000 + b"0]}",
    "long text": b'{"name": "' + b"x" * 5_000_000 + b'"}',
    "newer": b'{"schema": 999999}',
    "negative": b'{"schema": -1}',
    "float schema": b'{"schema": 1.5}',
    "300,000 lines": LINES * 300_000,
    "300,000 broken lines": b"{\n" * 300_000,
    "one line of 20 MB": b"x" * 20_000_000,
    "empty lines": b"\n" * 1_000_000,
    "lines of deep lists": (b"[" * 5000 + b"\n") * 50,
    "returns": b"\r" * 100_000,
    "escape codes": b"\x1b[2J\x1b]0;x\x07" * 100,
    "markup": b'{"name": "<script>alert(1)</script>"}',
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e300,
    10**30,
    2**63,
    "x",
    "",
    [],
    [[]],
    {},
    {"a": {"b": []}},
    [1],
    "x" * 100_000,
    "\x1b[2J",
    "../../x",
    0.1,
)
PLACES = (
    "pipe",
    "device",
    "random",
    "folder",
    "sparse",
    "own link",
    "link to /etc/passwd",
    "link to /proc/self/mem",
    "link to a folder",
    "broken link",
    "no rights",
    "socket",
)


def make_run(folder: Path) -> RunDir:
    """Return a run that waits, in a new save_dir."""
    from tests.fakes.run_fixtures import queue

    save_dir = folder / "experiments"
    save_dir.mkdir(parents=True)
    return queue(save_dir)


def folder_probes(folder: Path) -> Iterator[Probe]:
    names = (*JSON_FILES, *MORE_FILES)
    for number, (name, damage) in enumerate((name, damage) for name in names for damage in (*CONTENTS, *PLACES)):
        yield Probe("savedir", f"{name}: {damage}", partial(_read_damaged, folder / f"d{number}", name, damage))
    for number, (field, value) in enumerate((field, value) for field in FIELDS for value in VALUES):
        yield Probe(
            "savedir",
            f"{field} of every file is {value!r:.30}",
            partial(_read_field, folder / f"f{number}", field, value),
        )
    for number, event in enumerate(EVENTS):
        yield Probe("savedir", f"event {event!r:.60}", partial(_read_event, folder / f"e{number}", event))


def _read_damaged(folder: Path, name: str, damage: str) -> str:
    run = make_run(folder)
    path = run.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    place_damage(path, damage)
    return _read_all(run)


def place_damage(path: Path, damage: str) -> None:
    """Create one damaged file."""
    links = {
        "device": "/dev/zero",
        "random": "/dev/urandom",
        "own link": path.name,
        "broken link": "none/none",
        "link to a folder": "/usr",
    }
    links |= {f"link to {target}": target for target in ("/etc/passwd", "/proc/self/mem")}
    if damage in CONTENTS:
        path.write_bytes(CONTENTS[damage])
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    elif damage == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif damage == "sparse":
        with path.open("wb") as file:
            file.truncate(2**36)
    elif damage == "no rights":
        path.write_bytes(b"{}")
        path.chmod(0)
    else:
        path.symlink_to(links[damage])


def _read_field(folder: Path, field: str, value: object) -> str:
    run = make_run(folder)
    for name in JSON_FILES:
        path = run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        body: dict[str, Any] = {}
        if name == "run.json":
            body = json.loads(path.read_bytes())
        path.write_text(json.dumps({**body, field: value}))
    return _read_all(run)


def _read_event(folder: Path, event: dict[str, Any]) -> str:
    run = make_run(folder)
    started = {"kind": "started", "attempt": 1, "t": time.time()}
    for name in ("events.jsonl", "film.jsonl"):
        (run.path / name).write_text("\n".join(map(json.dumps, [started, event, started, event, ""])))
    return _read_all(run)


def _read_all(run: RunDir) -> str:
    from tests.fakes.run_fixtures import queue

    good = queue(run.save_dir)
    mute = [error for error in read_everything(run) if not error.message]
    entries, _ = read_run_entries([good])
    return "an error without words" if mute else "" if entries else "another run can't be read any more"


def key_probes(folder: Path) -> Iterator[Probe]:
    """The installation's key: used only if nobody else can have written or read it."""
    for mode in (0o644, 0o640, 0o660, 0o666, 0o604, 0o606, 0o622, 0o777, 0o700 | 0o001):
        yield Probe(
            "key files",
            f"mode {mode:o}",
            partial(_use_key, folder / f"k{mode:o}", lambda path, mode=mode: _write_key(path, mode)),
        )
    for name in PLACES[:-2]:
        yield Probe(
            "key files",
            name,
            partial(_use_key, folder / f"k-{name.replace('/', '-')}", partial(place_damage, damage=name)),
        )
    for size in (0, 1, 31, 33, 10_000_000):
        yield Probe(
            "key files",
            f"{size} bytes",
            partial(_use_key, folder / f"s{size}", lambda path, size=size: _write_key(path, 0o600, size)),
        )


def _write_key(path: Path, mode: int, size: int = durable.KEY_BYTES) -> None:
    path.write_bytes(b"k" * size)
    path.chmod(mode)


def _use_key(folder: Path, write: Any) -> str:
    folder.mkdir(parents=True)
    os.environ["FTK_STATE_DIR"] = str(folder)
    write(folder / "key")
    try:
        key = durable.load_install_key()
    except ToolkitError:
        return ""
    return f"a key of {len(key)} bytes was believed"


def address_probes(folder: Path) -> Iterator[Probe]:
    """engine.json: an address that this installation has not signed for this folder, and its lock."""
    good = {"schema": 1, "port": 1, "pid": os.getpid(), "create_time": 0.0, "token": "t", "run": "r"}
    changes: dict[str, Any] = {
        "unsigned": {},
        "empty signature": {"hmac": ""},
        "zeros": {"hmac": "0" * 64},
        "odd signature": {"hmac": ["x"]},
        "number": {"hmac": 7},
    }
    for field in good:
        for value in VALUES:
            changes[f"{field} = {value!r:.20}"] = {field: value, "hmac": "0" * 64}
            changes[f"signed, then {field} = {value!r:.20}"] = {field: value, "hmac": None}
    changes |= {"of another folder": {"hmac": "other"}, "a field more": {"x": 1, "hmac": None}}
    for number, (name, change) in enumerate(changes.items()):
        yield Probe("engine.json", name, partial(_find_forged, folder / f"a{number}", good, change))
    for number, damage in enumerate((*CONTENTS, *PLACES)):
        yield Probe("engine.json", damage, partial(_find_damaged, folder / f"b{number}", damage))


def _find_forged(folder: Path, good: dict[str, Any], change: dict[str, Any]) -> str:
    (folder / "engine").mkdir(parents=True)
    body = {**good, **change}
    if body.get("hmac", "") is None:
        body["hmac"] = sign_service_body(folder, good)
    elif body.get("hmac") == "other":
        body["hmac"] = sign_service_body(folder.parent, good)
    changed = {key: value for key, value in body.items() if key != "hmac"} != good
    (folder / "engine" / "engine.json").write_text(json.dumps(body))
    with hold_lock(folder / "engine" / "engine.lock"):
        found = find_engine(folder)
    return f"believed {found}" if isinstance(found, EngineInfo) and (changed or "hmac" in change) else ""


def _find_damaged(folder: Path, damage: str) -> str:
    (folder / "engine").mkdir(parents=True)
    place_damage(folder / "engine" / "engine.json", damage)
    return f"believed {find_engine(folder)}" if find_engine(folder) else ""


def permission_probes(save_dir: Path) -> Iterator[Probe]:
    """Everything that app, engine and a run have written is its owner's alone."""
    for path in sorted((save_dir, *save_dir.rglob("*"))):
        if not path.is_symlink():
            yield Probe(
                "permissions", str(path.relative_to(save_dir.parent)), partial(_find_open_mode, path), isolated=False
            )


def _find_open_mode(path: Path) -> str:
    try:
        mode = stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return ""
    return f"mode {mode:o}" if mode & 0o077 else ""


def sweep_probes(folder: Path) -> Iterator[Probe]:
    """Tightening and sweeping a folder changes and deletes nothing outside of it."""
    from toolkit.data.storage.uploads import remove_abandoned_uploads

    for link in (
        "uploads",
        "runs",
        "runs/x",
        "uploads/.new-1",
        "uploads/tables",
        "runs/.trash-1",
        "runs/.new-1",
        "studies",
        "engine",
    ):
        for sweep in (
            tighten_save_dir,
            remove_abandoned_uploads,
            lambda path: durable.remove_leftover_dirs(path / "runs", 0),
        ):
            yield Probe(
                "links",
                f"{link}, {getattr(sweep, '__name__', 'sweep')}",
                partial(_sweep, folder / f"w{abs(hash((link, str(sweep))))}", link, sweep),
            )


def _sweep(folder: Path, link: str, sweep: Any) -> str:
    outside, save_dir = folder / "home", folder / "experiments"
    (outside / ".new-1").mkdir(parents=True)
    (outside / ".new-1" / "kept").touch()
    (outside / ".new-2").touch()
    for path in (outside, outside / ".new-1", outside / ".new-2"):
        os.utime(path, (0, 0))
        path.chmod(0o755)
    (save_dir / link).parent.mkdir(parents=True)
    (save_dir / link).symlink_to(outside)
    sweep(save_dir)
    gone = [path.name for path in (outside / ".new-1" / "kept", outside / ".new-2") if not path.exists()]
    changed = [path.name for path in (outside, outside / ".new-1") if stat.S_IMODE(path.stat().st_mode) != 0o755]
    return f"deleted {gone}, changed {changed}" if gone or changed else ""
