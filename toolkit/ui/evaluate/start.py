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
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec
from toolkit.evaluation.prompt_sets import PromptSet, list_prompt_sets
from toolkit.evaluation.questions import count_test_rows, templates_for
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.large_uploads import read_upload_once
from toolkit.ui.elements.words import format_count
from toolkit.ui.evaluate.prompt_set_editor import draw_prompt_set_buttons
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_entries import RunEntry

EVALUATION_SOURCES = {
    "test": ":material/fact_check: Test rows",
    "file": ":material/upload: A file",
    "prompts": ":material/list_alt: A prompt set",
}


@dataclass(frozen=True)
class EvaluationRequest:
    """What the form holds; table and prompts for those sources, None while they are missing."""

    spec: EvaluationSpec
    table: Table | None = None
    prompts: PromptSet | None = None

    @property
    def missing(self) -> bool:
        return (self.spec.source == "file" and self.table is None) or (
            self.spec.source == "prompts" and self.prompts is None
        )


def launch_evaluation(run: RunDir, wanted: EvaluationRequest | None = None) -> Evaluation | None:
    """Create and start; an error is shown and nothing is left half done."""
    wanted = wanted or EvaluationRequest(EvaluationSpec())
    try:
        with st.spinner("Starting…"):
            made = evaluation_dir.create_evaluation(
                run,
                wanted.spec,
                evaluation_dir.read_saved_rules(run.save_dir),
                table=wanted.table,
                prompts=wanted.prompts,
            )
            claim_first_start(made)
            progress.start_evaluation(made)
    except ToolkitError as error:
        show_error(error)
        return None
    st.session_state["evaluation_id"] = made.id
    return made


def claim_first_start(evaluation: Evaluation) -> bool:
    """Whether this session has not started it yet; from now on it has."""
    started: set[str] = st.session_state.setdefault("evaluations_started", set())
    first = evaluation.id not in started
    started.add(evaluation.id)
    return first


def draw_evaluation_form(entry: RunEntry, others: Mapping[str, str]) -> EvaluationRequest:
    """Draw the options; returns what they ask for. others: name -> label of what can be compared with."""
    source = st.segmented_control(
        "Which rows?", list(EVALUATION_SOURCES), format_func=EVALUATION_SOURCES.__getitem__, default="test", required=True, key="eval_source",
    )  # fmt: skip
    table, prompts, label = None, None, "test rows"
    if source == "file":
        table = _choose_file(entry.run)
        label = table.label if table else "a file"
    elif source == "prompts":
        prompts = _choose_prompt_set()
        label = prompts.name if prompts else "a prompt set"
    left, middle, right = st.columns([2, 4, 2], vertical_alignment="bottom")
    rows = left.number_input(
        "At most so many rows", 1, 1_000_000, value=evaluation_dir.DEFAULT_EVALUATION_ROWS, step=100, key="eval_rows",
        help=_count_test_rows(entry.run) if source == "test" else None,
    )  # fmt: skip
    compared = middle.multiselect(
        "Compare with checkpoints, or other runs on the same base", list(others), format_func=lambda one: others[one],
        key=f"eval_compare_{entry.run.id}", placeholder="None" if others else "There is no other one",
        help="All answer the same rows; any two of them can be held against each other.",
    )  # fmt: skip
    probe = right.toggle("Probe for forgetting", value=True, key="eval_probe",
                         help="The loss on short texts that the training had nothing to do with.")  # fmt: skip
    spec = EvaluationSpec(source=source or "test", label=label, rows=int(rows), compared=tuple(compared), probe=probe)
    return EvaluationRequest(spec, table, prompts)


def _count_test_rows(run: RunDir) -> str:
    try:
        return f"This run holds out {format_count(count_test_rows(run))}."
    except ToolkitError as error:
        return escape_text(error.message)


def _choose_file(run: RunDir) -> Table | None:
    given = st.file_uploader(
        "A CSV or JSON file with the columns of the run's templates", type=["csv", "json", "jsonl"], key="eval_file"
    )
    if given is None:
        return None
    try:
        table = read_upload_once(given, workspace.current_save_dir(), _read_table)
        _, stub = templates_for(read_run_config(run), table.columns, table.label)
    except ToolkitError as error:
        show_error(error)
        return None
    known = "with expected answers" if stub else "without expected answers: the rows can be read, not judged"
    st.caption(f":material/check: {escape_text(table.label)}: {format_count(table.rows)} rows, {known}.")
    return table


def _read_table(path: Path) -> Table:
    kind = "csv" if path.suffix.lower() == ".csv" else "json"
    with st.spinner("Reading the file…"):
        return open_table(DataConfig(file_type=kind, path=str(path)), workspace.current_save_dir())


def _choose_prompt_set() -> PromptSet | None:
    sets = {one.id: one for one in list_prompt_sets(workspace.current_save_dir())}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        chosen = st.selectbox(
            "Prompt set", list(sets), format_func=lambda one: f"{sets[one].name} ({len(sets[one].items)})", width=360,
            key=f"eval_set_{len(sets)}", placeholder="None yet: make one", disabled=not sets,
        )  # fmt: skip
        draw_prompt_set_buttons(sets.get(chosen) if chosen else None)
    return sets.get(chosen) if chosen else None
