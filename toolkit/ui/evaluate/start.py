"""Starting an evaluation: on the run's test rows with one press, or on a file or a prompt set, with other runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from toolkit.config import DataConfig
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import ToolkitError
from toolkit.evaluation import evaluation_dir, progress
from toolkit.evaluation.evaluation_dir import Evaluation, Spec
from toolkit.evaluation.prompt_sets import PromptSet, prompt_sets
from toolkit.evaluation.questions import templates_for, test_rows
from toolkit.runs.run_dir import RunDir, read_config
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.large_uploads import read_once
from toolkit.ui.elements.words import count
from toolkit.ui.evaluate.prompt_set_editor import editor_button
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_entries import Entry

SOURCES = {
    "test": ":material/fact_check: Test rows",
    "file": ":material/upload: A file",
    "prompts": ":material/list_alt: A prompt set",
}


@dataclass(frozen=True)
class Wanted:
    """What the form holds; table and prompts for those sources, None while they are missing."""

    spec: Spec
    table: Table | None = None
    prompts: PromptSet | None = None

    @property
    def missing(self) -> bool:
        return (self.spec.source == "file" and self.table is None) or (
            self.spec.source == "prompts" and self.prompts is None
        )


def begin(run: RunDir, wanted: Wanted | None = None) -> Evaluation | None:
    """Create and start; an error is shown and nothing is left half done."""
    wanted = wanted or Wanted(Spec())
    try:
        with st.spinner("Starting…"):
            made = evaluation_dir.create(
                run, wanted.spec, evaluation_dir.saved_rules(run.save_dir), table=wanted.table, prompts=wanted.prompts
            )
            first_start(made)
            progress.start(made)
    except ToolkitError as error:
        show_error(error)
        return None
    st.session_state["evaluation_id"] = made.id
    return made


def first_start(evaluation: Evaluation) -> bool:
    """Whether this session has not started it yet; from now on it has."""
    started: set[str] = st.session_state.setdefault("evaluations_started", set())
    first = evaluation.id not in started
    started.add(evaluation.id)
    return first


def form(entry: Entry, others: Mapping[str, str]) -> Wanted:
    """Draw the options; returns what they ask for. others: name -> label of what can be compared with."""
    source = st.segmented_control(
        "Which rows?", list(SOURCES), format_func=SOURCES.__getitem__, default="test", required=True, key="eval_source",
    )  # fmt: skip
    table, prompts, label = None, None, "test rows"
    if source == "file":
        table = _file(entry.run)
        label = table.label if table else "a file"
    elif source == "prompts":
        prompts = _prompts()
        label = prompts.name if prompts else "a prompt set"
    left, middle, right = st.columns([2, 4, 2], vertical_alignment="bottom")
    rows = left.number_input(
        "At most so many rows", 1, 1_000_000, value=evaluation_dir.DEFAULT_ROWS, step=100, key="eval_rows",
        help=_how_many(entry.run) if source == "test" else None,
    )  # fmt: skip
    compared = middle.multiselect(
        "Compare with checkpoints, or other runs on the same base", list(others), format_func=lambda one: others[one],
        key=f"eval_compare_{entry.run.id}", placeholder="None" if others else "There is no other one",
        help="All answer the same rows; any two of them can be held against each other.",
    )  # fmt: skip
    probe = right.toggle("Probe for forgetting", value=True, key="eval_probe",
                         help="The loss on short texts that the training had nothing to do with.")  # fmt: skip
    spec = Spec(source=source or "test", label=label, rows=int(rows), compared=tuple(compared), probe=probe)
    return Wanted(spec, table, prompts)


def _how_many(run: RunDir) -> str:
    try:
        return f"This run holds out {count(test_rows(run))}."
    except ToolkitError as error:
        return plain(error.message)


def _file(run: RunDir) -> Table | None:
    given = st.file_uploader(
        "A CSV or JSON file with the columns of the run's templates", type=["csv", "json", "jsonl"], key="eval_file"
    )
    if given is None:
        return None
    try:
        table = read_once(given, workspace.save_dir(), _read)
        _, stub = templates_for(read_config(run), table.columns, table.label)
    except ToolkitError as error:
        show_error(error)
        return None
    known = "with expected answers" if stub else "without expected answers: the rows can be read, not judged"
    st.caption(f":material/check: {plain(table.label)}: {count(table.rows)} rows, {known}.")
    return table


def _read(path: Path) -> Table:
    kind = "csv" if path.suffix.lower() == ".csv" else "json"
    with st.spinner("Reading the file…"):
        return open_table(DataConfig(file_type=kind, path=str(path)), workspace.save_dir())


def _prompts() -> PromptSet | None:
    sets = {one.id: one for one in prompt_sets(workspace.save_dir())}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        chosen = st.selectbox(
            "Prompt set", list(sets), format_func=lambda one: f"{sets[one].name} ({len(sets[one].items)})", width=360,
            key=f"eval_set_{len(sets)}", placeholder="None yet: make one", disabled=not sets,
        )  # fmt: skip
        editor_button(sets.get(chosen) if chosen else None)
    return sets.get(chosen) if chosen else None
