"""What another program may leave in an output folder next to its runs: studies, jobs and files of the API, notes of the
follower, the API's key, and strings that are told to people or printed."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.probing.folders import CONTENTS, PLACES, VALUES, place_damage
from benchmarks.probing.probe import Probe
from benchmarks.probing.texts import MARKUP, TERMINAL
from toolkit.api.api_process import load_api_key
from toolkit.api.files.file_store import FileStore
from toolkit.api.jobs.job_events import list_job_events
from toolkit.api.jobs.job_store import JobStore
from toolkit.api.jobs.job_view import view_job
from toolkit.api.jobs.tuned_models import find_tuned_model, list_tuned_runs
from toolkit.cli.console import PlainConsole
from toolkit.cli.progress import describe_run_end, format_run_row, show_run_progress
from toolkit.errors import ToolkitError
from toolkit.follow.announcements import describe_for_a_person
from toolkit.follow.follow_state import read_follow_state
from toolkit.follow.follower import Follower
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import read_run_status
from toolkit.studies.outcomes import list_study_names, read_study
from toolkit.studies.question import list_questions, study_folder
from toolkit.studies.report import format_study_html
from toolkit.studies.verdict import judge_study
from toolkit.studies.words import describe_verdict, format_study_csv, tabulate_study
from toolkit.ui.workspace.run_entries import read_run_entries

NAME = "ranks"
STUDY: dict[str, Any] = {
    "schema": 1,
    "name": NAME,
    "axes": {"lora.r": [4, 8]},
    "trials": [{"settings": {"lora.r": rank}, "seed": 1, "content": f"{rank}" * 12} for rank in (4, 8)],
    "settings": {},
    "datasets": ["0" * 64],
    "objective": "exact_match",
    "rules": "",
    "method": "grid",
    "budget": None,
    "repeats": [],
    "draft": {},
}
JOB: dict[str, Any] = {
    "id": "ftjob-" + "0" * 24,
    "created": 1e9,
    "model": "bundled:demo-model",
    "asked": {"model": "gpt-4.1-nano", "training_file": "file-" + "0" * 24},
    "run": "",
    "notes": [],
}
UPLOAD: dict[str, Any] = {"id": "file-" + "0" * 24, "filename": "a.jsonl", "bytes": 3, "created": 1e9}
FOLLOWED: dict[str, Any] = {"schema": 1, "since": 1.0, "written": {"x": {"y": 1}}, "told": {"x": "y"}}
RECORDS: dict[str, dict[str, Any]] = {
    str(study_folder(Path(), NAME) / "study.json"): STUDY,
    f"api/jobs/{JOB['id']}.json": JOB,
    f"api/files/{UPLOAD['id']}/record.json": UPLOAD,
    "follow/state.json": FOLLOWED,
    "api/key": {},
}
MORE_VALUES: tuple[Any, ...] = ("20200101-000000-aaaa", "\ud7ff", {"lora.r": "x"}, {"x" * 300: [1] * 300}, [{}] * 50)
_LINK = re.compile(r"(?i)https?://(?!huggingface\.co/)|www\.|@\w|[<>]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MARKED = re.compile(r"(?i)<(img|script|a|svg|iframe|details|b)\b(?! role)")


def stranger_probes(folder: Path) -> Iterator[Probe]:
    """Each record damaged as a whole, and each of its fields with odd values."""
    number = 0
    for name, record in RECORDS.items():
        for damage in (*CONTENTS, *PLACES):
            number += 1
            write = partial(_damage, name, damage)
            yield Probe("strangers", f"{name}: {damage}", partial(_read_all, folder / f"s{number}", write))
        for field in record:
            for value in (*VALUES, *MORE_VALUES):
                number += 1
                write = partial(_write, name, {**record, field: value})
                yield Probe(
                    "strangers", f"{name}: {field} = {value!r:.40}", partial(_read_all, folder / f"s{number}", write)
                )
    circle = {"start": {"run": "20200101-000000-aaaa", "step": 1}}
    yield Probe("strangers", "runs that start from themselves", partial(_read_circle, folder / "circle", circle))


def text_probes(folder: Path) -> Iterator[Probe]:
    """Names, studies, phases and reasons of foreign runs: in messages, on the terminal, and in a study's report."""
    for number, text in enumerate((*MARKUP, *TERMINAL)):
        yield Probe("told texts", repr(text[:60]), partial(_tell, folder / f"t{number}", text))


def _damage(name: str, damage: str, save_dir: Path) -> None:
    path = save_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    place_damage(path, damage)


def _write(name: str, body: dict[str, Any], save_dir: Path) -> None:
    path = save_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))


def _read_all(folder: Path, write: Callable[[Path], None]) -> str:
    from tests.fakes.run_fixtures import queue

    folder.mkdir(parents=True)
    run = queue(folder)
    for name, record in RECORDS.items():
        if record:
            _write(name, record, folder)
    write(folder)
    return _read_records(folder) or ("" if read_run_entries([run])[0] else "a run can't be read any more")


def _read_records(save_dir: Path) -> str:
    def read_api() -> None:
        jobs, files = JobStore(save_dir), FileStore(save_dir)
        jobs.recover_open_jobs()
        for record in jobs.list_jobs():
            view = view_job(record, save_dir)
            list_job_events(view)
        for file in files.list_files():
            files.content_path(file)
        list_tuned_runs(save_dir)
        find_tuned_model(save_dir, "ft:x:y::z")

    def read_studies() -> None:
        list_questions(save_dir)
        for name in list_study_names(save_dir)[0]:
            study = read_study(save_dir, name)
            verdict = judge_study(study)
            describe_verdict(study, verdict)
            tabulate_study(study)
            format_study_csv(study)
            format_study_html(study, verdict)

    mute = []
    for read in (
        read_studies,
        read_api,
        lambda: read_follow_state(save_dir),
        lambda: Follower(save_dir, {}, ()).poll(),
        lambda: load_api_key(save_dir),
    ):
        try:
            read()
        except ToolkitError as error:
            mute += [] if error.message and error.hint else [error.message or "an error without words"]
    return "; ".join(mute)


def _read_circle(folder: Path, circle: dict[str, Any]) -> str:
    from tests.fakes.run_fixtures import queue

    folder.mkdir(parents=True)
    run = queue(folder)
    run.path.rename(run.path.with_name("20200101-000000-aaaa"))
    meta = run.path.with_name("20200101-000000-aaaa") / "run.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), **circle}))
    return _read_records(folder) or ("" if len(read_run_entries(list_runs(folder))[0]) == 1 else "the run is lost")


def _tell(folder: Path, text: str) -> str:
    from tests.fakes.run_fixtures import queue

    folder.mkdir(parents=True)
    run = queue(folder)
    meta = json.loads(run.meta_path.read_text())
    run.meta_path.write_text(json.dumps({**meta, "name": text, "study": text, "dataset": {"label": text}}))
    with EventWriter(run.events_path) as events:
        events.append("started", pid=1)
        events.append("phase", phase=text)
        events.append("failed", reason=text, message=text, hint=text)
    return _find_steering(run) or _find_markup(run, text)


def _find_steering(run: RunDir) -> str:
    status = read_run_status(run)
    line = describe_for_a_person(run, status, status.state)
    if _LINK.search(line) or _CONTROL.search(line) or "\n" in line:
        return f"told as {line[:200]!r}"
    for terminal in (False, True):
        shown = PlainConsole(width=200)
        shown.file = io.StringIO()
        shown._force_terminal = terminal
        with show_run_progress(run, shown) as show:
            show(status, 0)
        for part in (*format_run_row(run), describe_run_end(run, status)):
            shown.print(part)
        printed = shown.file.getvalue()
        left = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed) if terminal else printed  # those of the bar itself
        if found := _CONTROL.search(left.replace("\r", "")):
            return f"printed {found[0]!r}"
    return ""


def _find_markup(run: RunDir, text: str) -> str:
    for name in list_study_names(run.save_dir)[0]:
        study = read_study(run.save_dir, name)
        page = format_study_html(study, judge_study(study))
        if _CONTROL.search(page.replace("\r", "")) or _MARKED.search(page.partition("<h1>")[2]):
            return f"the report of the study shows {text[:60]!r}"
    return ""
