"""Examinations in the background: one for each dataset and use of it, in a child process, its findings kept on disk.

`save_dir/uploads/findings/<key>/`: looked up again at once after a refresh or a restart. One child at a time; an
examination that nobody waits for any more is stopped. Knows no screen and no tokenizer.
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
from toolkit.data.task_process import EXAMINE_PROGRESS_FILE, FINDINGS_FOLDER, ExamineRequest, parquet_content_bytes
from toolkit.errors import DataError

EXAMINER_VERSION = 1
"""Part of a kept report's name: raise it when the checks change, and data are examined anew."""

MAX_KEPT_REPORTS = 60
"""Reports on disk; the oldest go."""
EXAMINE_DELAY_S = 0.3
"""Time before a child starts: whoever types is not done yet."""

logger = logging.getLogger(__name__)
_child_lock = threading.Lock()
_lock = threading.Lock()
_running: dict[str, Examination] = {}


@dataclass(eq=False)
class Examination:
    """One examination; `report` or `error` is set when it is over. Threads share it: read, don't write."""

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
        """(share done, at what)."""
        try:
            told = json.loads((self.folder / EXAMINE_PROGRESS_FILE).read_text())
        except (OSError, ValueError):  # not started yet, or just done
            return 0.0, "starting"
        return float(told["share"]), str(told["words"])


def request_examination(table: Table, data: DataConfig, save_dir: Path, watcher: str) -> Examination:
    """The examination of `table` as `data` uses it: over at once when it is known, else going on in the background.

    watcher: who waits; another examination of theirs is left, and stopped when nobody else waits for it.
    """
    key = examination_key(table, data)
    with _lock:
        for other in [one for one in _running.values() if watcher in one.watchers and one.key != key]:
            other.watchers.discard(watcher)
            if not other.watchers:
                other.stop.set()
                _running.pop(other.key, None)
        known = _running.get(key)
        if known is None:
            known = _running[key] = _start_examination(key, table, data, save_dir)
        known.watchers.add(watcher)
        return known


def examination_key(table: Table, data: DataConfig) -> str:
    """Equal for the same table used alike: other words in the templates, another path to the same rows don't count."""
    used = remove_template_wording(data).model_dump(
        mode="json", exclude={"file_type", "path", "use_chat_template", "accepted"}
    )
    content = json.dumps([EXAMINER_VERSION, table.sha256, used], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def forget_examination(key: str) -> None:
    """Examine anew at the next request, e.g. after an error."""
    with _lock:
        _running.pop(key, None)


def _start_examination(key: str, table: Table, data: DataConfig, save_dir: Path) -> Examination:
    kept = uploads_dir(save_dir).absolute() / "findings"
    kept.mkdir(exist_ok=True)
    one = Examination(key, kept / f".part-{key}-{os.getpid()}")
    final = kept / key
    if final.is_dir():
        try:
            one.report = read_findings_report(final)
            return one
        except DataError:  # damaged on disk: examine again
            shutil.rmtree(final, ignore_errors=True)
    threading.Thread(
        target=_run_examination, args=(one, table, data, final), name=f"examine-{key[:6]}", daemon=True
    ).start()
    return one


def _run_examination(one: Examination, table: Table, data: DataConfig, final: Path) -> None:
    if one.stop.wait(EXAMINE_DELAY_S):
        return
    with _child_lock:
        if one.stop.is_set():
            return
        try:
            one.report = _examine_in_child(one, table, data, final)
        except DataWorkStopped:
            return
        except DataError as error:
            one.error = error
        except OSError as error:
            one.error = DataError(f"{final.parent} can't be written: {error.strerror or error}.", "Free some space.")
        except Exception as error:  # whatever it is, the page must not say "checking" for ever
            logger.exception("the examination %s broke off", one.key)
            one.error = DataError(f"Checking broke off: {type(error).__name__}: {error}.", "Check again.")
        finally:
            shutil.rmtree(one.folder, ignore_errors=True)


def _examine_in_child(one: Examination, table: Table, data: DataConfig, final: Path) -> FindingsReport:
    shutil.rmtree(one.folder, ignore_errors=True)
    one.folder.mkdir()
    used = remove_template_wording(data).model_copy(update={"file_type": "csv", "path": str(table.path)})
    request = ExamineRequest(str(table.path), used.model_dump(mode="json"), str(one.folder))
    limit = time_limit_seconds(parquet_content_bytes(table.path))
    run_in_child("toolkit.data.doctor.examine_task", request.dump(), one.folder, limit, doing="Checking", stop=one.stop)
    shutil.rmtree(final, ignore_errors=True)
    (one.folder / FINDINGS_FOLDER).rename(final)
    for old in sorted(final.parent.glob("[0-9a-f]" * 24), key=lambda path: -path.stat().st_mtime)[MAX_KEPT_REPORTS:]:
        shutil.rmtree(old, ignore_errors=True)
    return read_findings_report(final)


def remove_template_wording(data: DataConfig) -> DataConfig:
    """The same settings with all words of the templates but their columns left out: what the checks depend on.

    A change of wording keeps it, so that findings are kept too.
    """
    return data.model_copy(
        update={"prompt": _columns_alone(data.prompt), "prompt_stub": _columns_alone(data.prompt_stub)}
    )


def _columns_alone(text: str) -> str:
    """ "Say {a} or {b}!" -> "-{a}{b}", where "-" stands for words."""
    literal, names = [], []
    rest = text.replace("{{", "\0").replace("}}", "\1")
    while "{" in rest and "}" in rest:
        before, _, after = rest.partition("{")
        name, _, rest = after.partition("}")
        literal.append(before)
        names.append("{" + name + "}")
    words = "".join([*literal, rest]).strip()
    return ("-" if words else "") + "".join(dict.fromkeys(names))
