"""Run the data checks in the background, in a child process, and store their findings on disk.

`save_dir/uploads/findings/<key>/` has the report for a table and the settings that the checks depend on; it is found
again after a refresh or a restart. One child runs at a time, and checks that no session waits for are stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.config import DataConfig
from toolkit.data.child_process import run_in_child
from toolkit.data.findings import FindingsReport, read_findings_report
from toolkit.data.progress import DataWorkStopped
from toolkit.data.read_options import time_limit_seconds
from toolkit.data.storage.uploads import uploads_dir
from toolkit.data.table import Table
from toolkit.data.task_process import FINDINGS_FOLDER, TASK_PROGRESS_FILE, ExamineRequest, parquet_content_bytes
from toolkit.errors import DataError

EXAMINER_VERSION = 5
"""Part of a report's key. Raise it when the checks change: all data is checked again."""

MAX_KEPT_REPORTS = 60
"""Reports that stay on disk; older ones are deleted."""
EXAMINE_DELAY_S = 0.3
"""Seconds before a child starts: while the user types in a template, each keystroke asks for another report."""

logger = logging.getLogger(__name__)
_child_lock = threading.Lock()
_lock = threading.Lock()
_running: dict[tuple[str, Path], Examination] = {}
"""By key and save_dir: nobody waits for the checks of another folder, or learns from them what is in it."""


@dataclass(eq=False)
class Examination:
    """Running or finished checks. `report` or `error` is set when they are over. Shared by threads: don't write.

    watchers: sessions that wait for the report; stop: set it to cancel.
    """

    key: str
    folder: Path
    report: FindingsReport | None = None
    error: DataError | None = None
    watchers: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        return self.report is not None or self.error is not None

    @property
    def progress(self) -> tuple[float, str]:
        """(share done, current step)."""
        try:
            progress = json.loads((self.folder / TASK_PROGRESS_FILE).read_text())
        except (OSError, ValueError):  # not started yet, or just finished
            return 0.0, "starting"
        return float(progress["share"]), str(progress["words"])


def request_examination(table: Table, data: DataConfig, save_dir: Path, watcher: str) -> Examination:
    """Return the checks of `table` as `data` uses it: finished if their report is stored, otherwise in progress.

    watcher: the session that waits. Its other checks are stopped if no other session waits for them.
    """
    key = examination_key(table, data)
    with _lock:
        for place, other in [(at, each) for at, each in _running.items() if watcher in each.watchers and at[0] != key]:
            other.watchers.discard(watcher)
            if not other.watchers:
                other.stop.set()
                _running.pop(place, None)
        known = _running.get((key, save_dir))
        if known is None:
            known = _running[key, save_dir] = _start_examination(key, table, data, save_dir)
        known.watchers.add(watcher)
        return known


def examination_key(table: Table, data: DataConfig) -> str:
    """Return a key that is equal for the same table and settings, apart from the path and the templates' wording."""
    used = remove_template_wording(data).model_dump(
        mode="json", exclude={"file_type", "path", "use_chat_template", "accepted"}
    )
    content = json.dumps([EXAMINER_VERSION, table.sha256, used], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def forget_examination(key: str) -> None:
    """Run the checks again at the next request, for example after an error."""
    with _lock:
        for place in [at for at in _running if at[0] == key]:
            _running.pop(place)


def _start_examination(key: str, table: Table, data: DataConfig, save_dir: Path) -> Examination:
    kept = uploads_dir(save_dir).absolute() / "findings"
    kept.mkdir(exist_ok=True)
    examination = Examination(key, kept / f".part-{key}-{os.getpid()}")
    final = kept / key
    if final.is_dir():
        try:
            examination.report = read_findings_report(final)
            return examination
        except DataError:  # damaged on disk: check again
            shutil.rmtree(final, ignore_errors=True)
    threading.Thread(
        target=_run_examination, args=(examination, table, data, final), name=f"examine-{key[:6]}", daemon=True
    ).start()
    return examination


def _run_examination(examination: Examination, table: Table, data: DataConfig, final: Path) -> None:
    if examination.stop.wait(EXAMINE_DELAY_S):
        return
    with _child_lock:
        if examination.stop.is_set():
            return
        try:
            examination.report = _examine_in_child(examination, table, data, final)
        except DataWorkStopped:
            return
        except DataError as error:
            examination.error = error
        except OSError as error:
            examination.error = DataError(
                f"{final.parent} can't be written: {error.strerror or error}.", "Free some disk space."
            )
        except Exception as error:  # nothing above a thread would show it: the page that waits does
            logger.exception("data checks %s failed", examination.key)
            examination.error = DataError(f"Checking the data failed: {type(error).__name__}: {error}.", "Check again.")
        finally:
            shutil.rmtree(examination.folder, ignore_errors=True)


def _examine_in_child(examination: Examination, table: Table, data: DataConfig, final: Path) -> FindingsReport:
    shutil.rmtree(examination.folder, ignore_errors=True)
    examination.folder.mkdir()
    used = remove_template_wording(data).model_copy(update={"file_type": "csv", "path": str(table.path)})
    request = ExamineRequest(str(table.path), used.model_dump(mode="json"), str(examination.folder))
    limit = time_limit_seconds(parquet_content_bytes(table.path))
    run_in_child(
        "toolkit.data.doctor.examine_task",
        request.dump(),
        examination.folder,
        limit,
        doing="Checking",
        stop=examination.stop,
    )
    shutil.rmtree(final, ignore_errors=True)
    (examination.folder / FINDINGS_FOLDER).rename(final)
    for old in sorted(final.parent.glob("[0-9a-f]" * 24), key=lambda path: -path.stat().st_mtime)[MAX_KEPT_REPORTS:]:
        shutil.rmtree(old, ignore_errors=True)
    return read_findings_report(final)


def remove_template_wording(data: DataConfig) -> DataConfig:
    """Return the settings with templates reduced to their columns, which is all that the checks depend on.

    After a change of the wording alone the stored findings stay valid.
    """
    return data.model_copy(
        update={"prompt": _columns_alone(data.prompt), "prompt_stub": _columns_alone(data.prompt_stub)}
    )


def _columns_alone(text: str) -> str:
    """Return "-{a}{b}" for "Say {a} or {b}!", where "-" stands for any words."""
    literal, names = [], []
    rest = text.replace("{{", "\0").replace("}}", "\1")
    while "{" in rest and "}" in rest:
        before, _, after = rest.partition("{")
        name, _, rest = after.partition("}")
        literal.append(before)
        names.append("{" + name + "}")
    words = "".join([*literal, rest]).strip()
    return ("-" if words else "") + "".join(dict.fromkeys(names))
