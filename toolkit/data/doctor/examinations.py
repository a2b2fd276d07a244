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
from toolkit.data.child_process import answer_of_child
from toolkit.data.findings import Report, read_report
from toolkit.data.progress import Stopped
from toolkit.data.read_options import seconds
from toolkit.data.storage.uploads import uploads_dir
from toolkit.data.table import Table
from toolkit.data.task_process import FINDINGS, PROGRESS, ExamineRequest, text_bytes
from toolkit.errors import DataError

EXAMINER_VERSION = 1
"""Part of a kept report's name: raise it when the checks change, and data are examined anew."""

KEPT = 60
"""Reports on disk; the oldest go."""
PATIENCE_S = 0.3
"""Time before a child starts: whoever types is not done yet."""

log = logging.getLogger(__name__)
_one_child = threading.Lock()
_lock = threading.Lock()
_going: dict[str, Examination] = {}


@dataclass(eq=False)
class Examination:
    """One examination; `report` or `error` is set when it is over. Threads share it: read, don't write."""

    key: str
    folder: Path
    report: Report | None = None
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
            told = json.loads((self.folder / PROGRESS).read_text())
        except (OSError, ValueError):  # not started yet, or just done
            return 0.0, "starting"
        return float(told["share"]), str(told["words"])


def examination(table: Table, data: DataConfig, save_dir: Path, watcher: str) -> Examination:
    """The examination of `table` as `data` uses it: over at once when it is known, else going on in the background.

    watcher: who waits; another examination of theirs is left, and stopped when nobody else waits for it.
    """
    key = key_of(table, data)
    with _lock:
        for other in [one for one in _going.values() if watcher in one.watchers and one.key != key]:
            other.watchers.discard(watcher)
            if not other.watchers:
                other.stop.set()
                _going.pop(other.key, None)
        known = _going.get(key)
        if known is None:
            known = _going[key] = _begin(key, table, data, save_dir)
        known.watchers.add(watcher)
        return known


def key_of(table: Table, data: DataConfig) -> str:
    """Equal for the same table used alike: other words in the templates, another path to the same rows don't count."""
    used = canonical(data).model_dump(mode="json", exclude={"file_type", "path", "use_chat_template", "accepted"})
    content = json.dumps([EXAMINER_VERSION, table.sha256, used], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def forget(key: str) -> None:
    """Examine anew at the next request, e.g. after an error."""
    with _lock:
        _going.pop(key, None)


def _begin(key: str, table: Table, data: DataConfig, save_dir: Path) -> Examination:
    kept = uploads_dir(save_dir).absolute() / "findings"
    kept.mkdir(exist_ok=True)
    one = Examination(key, kept / f".part-{key}-{os.getpid()}")
    final = kept / key
    if final.is_dir():
        try:
            one.report = read_report(final)
            return one
        except DataError:  # damaged on disk: examine again
            shutil.rmtree(final, ignore_errors=True)
    threading.Thread(target=_work, args=(one, table, data, final), name=f"examine-{key[:6]}", daemon=True).start()
    return one


def _work(one: Examination, table: Table, data: DataConfig, final: Path) -> None:
    if one.stop.wait(PATIENCE_S):
        return
    with _one_child:
        if one.stop.is_set():
            return
        try:
            one.report = _examined(one, table, data, final)
        except Stopped:
            return
        except DataError as error:
            one.error = error
        except OSError as error:
            one.error = DataError(f"{final.parent} can't be written: {error.strerror or error}.", "Free some space.")
        except Exception as error:  # whatever it is, the page must not say "checking" for ever
            log.exception("the examination %s broke off", one.key)
            one.error = DataError(f"Checking broke off: {type(error).__name__}: {error}.", "Check again.")
        finally:
            shutil.rmtree(one.folder, ignore_errors=True)


def _examined(one: Examination, table: Table, data: DataConfig, final: Path) -> Report:
    shutil.rmtree(one.folder, ignore_errors=True)
    one.folder.mkdir()
    used = canonical(data).model_copy(update={"file_type": "csv", "path": str(table.path)})
    request = ExamineRequest(str(table.path), used.model_dump(mode="json"), str(one.folder))
    limit = seconds(text_bytes(table.path))
    answer_of_child(
        "toolkit.data.doctor.examine_task", request.dump(), one.folder, limit, doing="Checking", stop=one.stop
    )
    shutil.rmtree(final, ignore_errors=True)
    (one.folder / FINDINGS).rename(final)
    for old in sorted(final.parent.glob("[0-9a-f]" * 24), key=lambda path: -path.stat().st_mtime)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return read_report(final)


def canonical(data: DataConfig) -> DataConfig:
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
