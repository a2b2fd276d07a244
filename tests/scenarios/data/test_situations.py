"""The rows of the catalogue that are about more than reading a file: settings, splits, templates, names, links, disks.

Each goes through the real command line over a folder in which a person already has a run, a draft and a file. What they
are told is kept word for word in `golden_situations.json`; what they had is the same afterwards, byte for byte.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fakes import golden
from tests.fakes.run_fixtures import fake_command
from toolkit.cli import main
from toolkit.cli.console import out
from toolkit.cli.progress import format_run_row
from toolkit.config import Config, DataConfig
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.split import plan_split
from toolkit.data.storage.open_table import open_table
from toolkit.data.storage.uploads import store_upload
from toolkit.data.table import load_table
from toolkit.errors import DataError
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs import preflight
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import create_run, list_runs, read_run_config, read_run_meta
from toolkit.runs.status import read_run_status
from toolkit.settings.draft import default_draft
from toolkit.settings.yaml_file import dump_draft
from toolkit.system.ids import ID_PATTERN

GOLDEN = Path(__file__).with_name("golden_situations.json")
TEN = "q,a\n" + "".join(f"question {i},answer {i}\n" for i in range(10))
HEADER = "# finetuning-toolkit config, schema 1\n"


@dataclass(frozen=True)
class Case:
    """row: of the catalogue. csv: the file; settings: under `data`, over templates that fit; or `text`: the whole
    settings file. words: more of the command line."""

    row: int
    name: str
    csv: str = TEN
    settings: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    words: tuple[str, ...] = ()


def _prompts(row: int, *templates: str) -> list[Case]:
    return [Case(row, f"prompt {template[:40]!r}", settings={"prompt": template}) for template in templates]


def _sizes(row: int, *sizes: tuple[Any, Any]) -> list[Case]:
    return [Case(row, f"{row}: train {train}, test {test}", settings={"train_size": train, "test_size": test})
            for train, test in sizes]  # fmt: skip


NAMES = ("../../x", "/etc", "CON", ".", "n" * 300, "a\0b", "two\nlines", "🦊", "\u202ereversed", "-rf", "\x1b[31mred")
CASES = [
    *[Case(44, f"{count} rows", "q,a\n" + "x,y\n" * count) for count in (0, 1, 2)],
    *_sizes(45, (0.8, 0.4), (0, None), (1.0, None), (-1, None), (float("nan"), None), (11, None), (None, 10), (7, 4)),
    *_sizes(46, (0.7, 0.30000000000000004)),
    *_sizes(47, (None, 1), (None, 1.0), (None, True)),
    *_prompts(48, "{questoin}", "{Q}", "{nothing like it}"),
    *_prompts(49, "{", "}", "{}", "{0}", "{q!r}", "{q:>9}", "{q[0]}", "{q.b}", "two\nlines {q"),
    *_prompts(50, "{q.__class__}", "{q.__init__.__globals__[K]}"),
    *_prompts(51, "{q:>2000000000}"),
    *_prompts(52, "{{literal}} {q}"),
    Case(53, "braces in cells", 'q,a\n' + '"{a} {{ }} {q}","{q.__class__}"\n' * 10),
    *_prompts(54, "no column", "", "x" * 1_000_000 + "{q}"),
    Case(54, "completion without a column", settings={"prompt_stub": "yes"}),
    Case(54, "completion empty", settings={"prompt_stub": " "}),
    *[Case(56, f"named {name[:20]!r}", words=("--name", name)) for name in NAMES if "\0" not in name],
    Case(60, "unknown key", text="data: {path: rows.csv}\nlora: {rank: 8}\n"),
    Case(60, "wrong types", text="lora: {r: many}\ntraining: {training_args: {num_train_epochs: []}}\n"),
    Case(60, "1e400", text="training: {training_args: {learning_rate: 1.0e+400}}\n"),
    Case(60, "huge integer", text="lora: {r: " + "9" * 400 + "}\n"),
    Case(60, "integer of 5,000 digits", text="lora: {r: " + "9" * 5000 + "}\n"),
    Case(60, "NaN", text="training: {training_args: {learning_rate: .nan}}\n"),
    Case(60, "5 MB", text="data: {prompt: '" + "x" * 5_000_000 + "'}\n"),
    Case(60, "tags", text="data: !!python/object/apply:os.system ['id']\n"),
    Case(60, "newer schema", text="# finetuning-toolkit config, schema 99\ndata: {}\n"),
    Case(60, "not YAML", text="data: [1, 2\n"),
    Case(60, "JSON cut off", text='{"data": {"path": "rows.csv", '),
]  # fmt: skip


class Desk(NamedTuple):
    """A person's folder; `call` runs a command there: (exit code, what was printed, what was complained)."""

    folder: Path
    call: Callable[..., tuple[int, str, str]]

    @property
    def save_dir(self) -> Path:
        return self.folder / "experiments"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TEN as a process of its own read it, once."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "rows.csv").write_text(TEN)
    return open_table(DataConfig(path=str(folder / "rows.csv")), folder).path.parent


@pytest.fixture
def desk(
    tmp_path: Path, tables: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tables, tmp_path / "experiments" / "uploads" / "tables")
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(
        main, "Supervisor", functools.partial(Supervisor, launcher=LocalLauncher(fake_command), poll_seconds=0.02)
    )

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["toolkit", *words])
        with pytest.raises(SystemExit) as left:
            main.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    desk = Desk(tmp_path, call)
    with EventWriter(_earlier_run(desk).events_path) as events:
        events.append("started", pid=1)
        events.append("finished", step=1, epoch=1.0)
    (desk.save_dir / "draft.json").write_text(json.dumps({"schema": 1, "draft": default_draft(), "grid": {}}))
    yield desk


def _earlier_run(desk: Desk) -> Any:
    run = create_run(Config(save_dir=str(desk.save_dir)), None, name="an earlier one")
    run.claim_path.touch()
    return run


def _settings(case: Case, desk: Desk) -> str:
    if case.text:
        return case.text
    data = {"path": "rows.csv", "prompt": "{q}", "prompt_stub": "{a}", **case.settings}
    return HEADER + dump_draft({"data": data, "save_dir": str(desk.save_dir)}).split("\n", 1)[1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}-{case.name}")
def test_what_is_told_and_what_stays(case: Case, desk: Desk) -> None:
    (desk.folder / "rows.csv").write_text(case.csv)
    (desk.folder / "config.yml").write_text(_settings(case, desk))
    before, runs = golden.state_of(desk.folder), list_runs(desk.save_dir)
    code, _, err = desk.call("run", "config.yml", *case.words)
    told = [golden.without(line, desk.folder) for line in err.splitlines()]
    new = [run for run in list_runs(desk.save_dir) if run not in runs]
    report: dict[str, Any] = {"row": case.row, "outcome": "accepted" if new else "refused", "told": told}
    if new:
        (run,) = new
        assert code == 0 and ID_PATTERN.fullmatch(run.id) and run.path.parent == desk.save_dir / "runs"
        report |= _first_example(read_run_config(run), load_table(run.source_path))
        if case.row == 56:
            with out.capture() as printed:
                out.print(format_run_row(run)[1])
            report["shown"] = printed.get().removesuffix("\n")
    else:
        assert code in (1, 2)
        assert all(line.startswith(("error: ", "warning: ")) for line in told)
    after = golden.state_of(desk.folder)
    assert {name: after.get(name) for name in before} == before, "what was there is there, byte for byte"
    golden.hold(GOLDEN, case.name, report)


def _first_example(config: Config, table: Any) -> dict[str, Any]:
    plan, example = plan_split(table, config.data), renderer_of(config.data, table.columns).example(table.row(0))
    return {
        "train": len(plan.train),
        "test": len(plan.test),
        "prompt": example.prompt,
        "completion": example.completion,
    }


def _refused(call: Callable[[], Any], desk: Desk) -> list[str]:
    with pytest.raises(DataError) as caught:
        call()
    assert caught.value.hint
    return [golden.without(str(caught.value), desk.folder)]


def test_symbolic_links_are_refused_by_their_path(desk: Desk) -> None:
    """Row 57. A link inside a model's folder is `worker/test_model.py`'s."""
    (desk.folder / "real.csv").write_text(TEN)
    (desk.folder / "rows.csv").symlink_to(desk.folder / "real.csv")
    shutil.copytree(desk.save_dir / "runs", desk.folder / "others")
    (desk.save_dir / "runs" / "20260101-000000-aaaa").symlink_to(desk.folder / "others")
    before = golden.state_of(desk.folder)
    (desk.folder / "config.yml").write_text(_settings(Case(57, ""), desk))
    told = desk.call("run", "config.yml")[2].splitlines()
    told += desk.call("serve", "20260101-000000-aaaa")[2].splitlines()
    assert {name: golden.state_of(desk.folder).get(name) for name in before} == before
    told = [golden.without(words, desk.folder) for words in told]
    golden.hold(GOLDEN, "links", {"row": 57, "outcome": "refused", "told": told})


class Broken(io.BytesIO):
    """An upload whose connection closes half-way."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError("the connection was closed")
        return super().read(4)


def test_uploads_that_break_off_meet_or_come_twice(desk: Desk) -> None:
    """Row 62."""
    first = store_upload(TEN.encode(), "mine.csv", desk.save_dir)
    before = golden.state_of(desk.folder)
    told = _refused(lambda: store_upload(Broken(b"q,a\n1,2\n"), "mine.csv", desk.save_dir), desk)
    assert golden.state_of(desk.folder) == before, "half an upload leaves nothing behind"
    golden.hold(GOLDEN, "upload broken off", {"row": 62, "outcome": "refused", "told": told})
    contents = [TEN.replace("answer", f"{i}") for i in range(4)] * 2
    found: dict[int, str | None] = {}

    def upload(at: int) -> None:
        path = store_upload(contents[at].encode(), "same name.csv", desk.save_dir)
        found[at] = open_table(DataConfig(path=str(path)), desk.save_dir).row(0)["a"]

    threads = [threading.Thread(target=upload, args=(at,)) for at in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {at: f"{at % 4} 0" for at in range(len(contents))}, "nobody gets another's rows"
    assert store_upload(TEN.encode(), "mine.csv", desk.save_dir) == first, "the same file is kept once"
    count = len(list((desk.save_dir / "uploads").glob("*same-name.csv")))
    report = {"row": 62, "outcome": "accepted", "told": [], "files": count, "uploads": len(contents)}
    golden.hold(GOLDEN, "uploads at once", report)


def test_a_file_that_changes_or_goes_between_upload_and_start(desk: Desk) -> None:
    """Row 63."""
    file = desk.folder / "rows.csv"
    file.write_text(TEN)
    config = Config.model_validate(
        {"data": {"path": str(file), "prompt": "{q}", "prompt_stub": "{a}"}, "save_dir": str(desk.save_dir)}
    )
    table = open_table(config.data, desk.save_dir)
    file.write_text("q,a\nother,rows\n" * 3)
    run = create_run(config, table)
    table.path.unlink()
    report = {"row": 63, "outcome": "accepted", "told": [], **_first_example(config, load_table(run.source_path))}
    golden.hold(GOLDEN, "file edited after it was chosen", report)
    file.unlink()
    told = _refused(lambda: open_table(config.data, desk.save_dir), desk)
    golden.hold(GOLDEN, "file gone before start", {"row": 63, "outcome": "refused", "told": told})


class Disk(NamedTuple):
    f_files: int
    f_favail: int


def _of_disk(save_dir: Path) -> list[str]:
    found = preflight.preflight_problems(Config(save_dir=str(save_dir)), None, None)
    return [str(problem) for problem in found if problem.path == "save_dir"]


def test_disks_folders_and_clocks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 64."""
    told: dict[str, list[str]] = {}
    (desk.folder / "file").write_text("")
    told["save_dir below a file"] = _of_disk(desk.folder / "file" / "x")
    usage = type("Usage", (), {"free": 10**6})
    with monkeypatch.context() as patch:
        patch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
        told["disk full"] = _of_disk(desk.save_dir)
    with monkeypatch.context() as patch:
        patch.setattr(preflight.os, "access", lambda path, mode: False)
        told["folder that can only be read"] = _of_disk(desk.save_dir)
    with monkeypatch.context() as patch:
        patch.setattr(preflight.os, "statvfs", lambda path: Disk(10_000_000, 3))
        told["no inodes"] = _of_disk(desk.save_dir)
    for name, words in told.items():
        told_here = [golden.without(line, desk.folder) for line in words]
        golden.hold(GOLDEN, name, {"row": 64, "outcome": "refused", "told": told_here})
    there = desk.folder / "my données 数据"
    there.mkdir()
    (there / "rows file.csv").write_text(TEN)
    data = {"path": str(there / "rows file.csv"), "prompt": "{q}", "prompt_stub": "{a}"}
    (desk.folder / "config.yml").write_text(json.dumps({"data": data, "save_dir": str(there / "runs of mine")}))
    code, _, err = desk.call("run", "config.yml")
    (run,) = list_runs(there / "runs of mine")
    assert (code, read_run_meta(run)["dataset"]["rows"]) == (0, 10)
    golden.hold(GOLDEN, "spaces and letters in paths", {"row": 64, "outcome": "accepted", "told": err.splitlines()})


def test_a_clock_that_jumps_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 64: an hour back in the middle of a run, and a run made before the one that is there."""
    run = _earlier_run(desk)
    lines = [{"n": n, "attempt": 1, "t": t, "kind": kind, **more} for n, (t, kind, more) in enumerate((
        (2_000_000_000.0, "started", {"pid": 1}), (2_000_000_001.0, "plan", {"total_steps": 2, "epochs": 1}),
        (1_999_996_400.0, "log", {"step": 1, "loss": 1.0, "epoch": 0.5}),
        (1_999_996_401.0, "finished", {"step": 2, "epoch": 1.0}),
    ), start=1)]  # fmt: skip
    run.events_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status = read_run_status(run)
    assert status.elapsed_s >= 0
    code, out, err = desk.call("list")
    assert code == 0 and run.id in out
    report = {"row": 64, "outcome": "accepted", "told": err.splitlines(), "state": status.state, "step": status.step}
    golden.hold(GOLDEN, "clock jumps", report)


OTHERS = ("links", "upload broken off", "uploads at once", "file edited after it was chosen", "file gone before start",
          "save_dir below a file", "disk full", "folder that can only be read", "no inodes",
          "spaces and letters in paths", "clock jumps")  # fmt: skip


def test_the_file_of_reports_is_whole() -> None:
    names = [*(case.name for case in CASES), *OTHERS]
    assert len(names) == len(set(names))
    golden.check(GOLDEN, names)
