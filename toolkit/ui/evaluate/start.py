"""Start of an evaluation: on the run's test set with one click, or on a file or a prompt set, with other models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from toolkit.config import DataConfig
from toolkit.data.readers.formats import FORMAT_NAMES, file_type_of
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import ToolkitError
from toolkit.evaluation import evaluation_dir, progress
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec
from toolkit.evaluation.prompt_sets import PromptSet, list_prompt_sets
from toolkit.evaluation.questions import count_test_rows, templates_for
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.system.printable import format_plural
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.large_uploads import read_upload_once
from toolkit.ui.elements.words import distinguish_labels
from toolkit.ui.evaluate.prompt_set_editor import draw_prompt_set_buttons
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_entries import RunEntry

EVALUATION_SOURCES = {
    "test": ":material/fact_check: Test set",
    "file": ":material/upload: File",
    "prompts": ":material/list_alt: Prompt set",
}


@dataclass(frozen=True)
class EvaluationRequest:
    """The contents of the form. table, prompts: the rows of these two sources, None while not chosen."""

    spec: EvaluationSpec
    table: Table | None = None
    prompts: PromptSet | None = None

    @property
    def is_incomplete(self) -> bool:
        """Return whether the source needs a file or a prompt set that is not chosen yet."""
        return (self.spec.source == "file" and self.table is None) or (
            self.spec.source == "prompts" and self.prompts is None
        )


def launch_evaluation(run: RunDir, request: EvaluationRequest | None = None) -> Evaluation | None:
    """Create and start an evaluation, by default of the test set; on an error, show it and return None."""
    request = request or EvaluationRequest(EvaluationSpec())
    try:
        with st.spinner("Starting the evaluation…"):
            evaluation = evaluation_dir.create_evaluation(
                run,
                request.spec,
                evaluation_dir.read_saved_rules(run.save_dir),
                table=request.table,
                prompts=request.prompts,
            )
            claim_first_start(evaluation)
            progress.start_evaluation(evaluation)
    except ToolkitError as error:
        show_error(error)
        return None
    st.session_state["evaluation_id"] = evaluation.id
    return evaluation


def claim_first_start(evaluation: Evaluation) -> bool:
    """Record that this session starts the evaluation; return whether it is the first time."""
    started: set[str] = st.session_state.setdefault("evaluations_started", set())
    is_first = evaluation.id not in started
    started.add(evaluation.id)
    return is_first


def draw_evaluation_form(entry: RunEntry, comparable_models: Mapping[str, str]) -> EvaluationRequest:
    """Draw the options of an evaluation; return what is chosen.

    comparable_models: model name -> label.
    """
    source = st.segmented_control(
        "Rows",
        list(EVALUATION_SOURCES),
        format_func=EVALUATION_SOURCES.__getitem__,
        default="test",
        required=True,
        key="eval_source",
    )
    table, prompts, label = None, None, "test rows"
    if source == "file":
        table = _choose_file(entry.run)
        label = table.label if table else "a file"
    elif source == "prompts":
        prompts = _choose_prompt_set()
        label = prompts.name if prompts else "a prompt set"
    left, middle, right = st.columns([2, 4, 2], vertical_alignment="bottom")
    rows = left.number_input(
        "Max rows",
        1,
        1_000_000,
        value=evaluation_dir.DEFAULT_EVALUATION_ROWS,
        step=100,
        key="eval_rows",
        help=_count_test_rows(entry.run) if source == "test" else None,
    )
    compared = middle.multiselect(
        "Compare with checkpoints or other runs of the same base model",
        list(comparable_models),
        format_func=lambda model: comparable_models[model],
        key=f"eval_compare_{entry.run.id}",
        placeholder="None" if comparable_models else "No other models",
        help="All models answer the same rows, and any two of them can be compared.",
    )
    probe = right.toggle(
        "Forgetting probe",
        value=True,
        key="eval_probe",
        help="Measures the loss on short texts unrelated to the training data.",
    )
    spec = EvaluationSpec(source=source or "test", label=label, rows=int(rows), compared=tuple(compared), probe=probe)
    return EvaluationRequest(spec, table, prompts)


def _count_test_rows(run: RunDir) -> str:
    try:
        return f"The test set of this run has {format_plural(count_test_rows(run), 'row')}."
    except ToolkitError as error:
        return escape_text(error.message)


def _choose_file(run: RunDir) -> Table | None:
    uploaded = st.file_uploader(f"A {FORMAT_NAMES} file with the columns of the run's templates", key="eval_file")
    if uploaded is None:
        return None
    try:
        table = read_upload_once(uploaded, workspace.current_save_dir(), _read_table)
        _, stub = templates_for(read_run_config(run), table.columns, table.label)
    except ToolkitError as error:
        show_error(error)
        return None
    expected = "with expected answers" if stub else "without expected answers, so answers can be read, but not scored"
    st.caption(f":material/check: {escape_text(table.label)}: {format_plural(table.rows, 'row')}, {expected}.")
    return table


def _read_table(path: Path) -> Table:
    with st.spinner("Reading the file…"):
        return open_table(DataConfig(file_type=file_type_of(path), path=str(path)), workspace.current_save_dir())


def _choose_prompt_set() -> PromptSet | None:
    sets = {prompt_set.id: prompt_set for prompt_set in list_prompt_sets(workspace.current_save_dir())}
    labels = {key: f"{one.name} ({format_plural(len(one.items), 'prompt')})" for key, one in sets.items()}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        chosen = st.selectbox(
            "Prompt set",
            list(sets),
            format_func=distinguish_labels(labels).__getitem__,
            width=360,
            key=f"eval_set_{len(sets)}",
            placeholder="No prompt sets yet",
            disabled=not sets,
        )
        draw_prompt_set_buttons(sets.get(chosen) if chosen else None)
    return sets.get(chosen) if chosen else None
