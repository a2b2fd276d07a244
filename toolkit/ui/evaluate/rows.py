"""Rows of an evaluation: a filtered list, the most damaged first, and one row in full with its differences marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from toolkit.evaluation.download import rows_as_csv, rows_as_json
from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.evaluation.row_table import compare_to_reference, read_row_table
from toolkit.evaluation.statistics.results import ROW_OUTCOMES, EvaluationResults
from toolkit.evaluation.statistics.word_diff import DiffSpan, diff_words
from toolkit.system.printable import format_count, format_figure, format_plural
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.marked_markdown import mark_changes
from toolkit.ui.elements.words import OUTCOME_LABELS
from toolkit.ui.evaluate.figures import ModelNames
from toolkit.ui.evaluate.pair import ComparedModels
from toolkit.ui.people.made_files import draw_made_download

SHOWN_EVALUATION_ROWS = 200
"""Rows shown in the list; the filter and the downloads cover all rows."""
CELL_CHARACTERS = 160
ROW_ORDERS = {"damage": "Worsened first", "gain": "Improved first", "order": "Original order"}


@dataclass(frozen=True)
class RowFilter:
    """Which rows to show, and in which order. order: a key of ROW_ORDERS."""

    outcomes: Sequence[str]
    text: str
    order: str
    only_broken_rules: bool


@dataclass(frozen=True)
class ComparedAnswers:
    """The two models whose answers are shown, the reference first: their columns in the table and their names."""

    places: tuple[int, int]
    titles: tuple[str, str]

    @property
    def model_column(self) -> int:
        return self.places[1]


def draw_evaluation_rows(
    evaluation: Evaluation, results: EvaluationResults, pair: ComparedModels, names: ModelNames
) -> None:
    """Draw the filter, the downloads, the list of rows and the chosen row."""
    stamp = evaluation.rows_path.stat().st_mtime_ns
    all_rows = _read(str(evaluation.rows_path), stamp)
    models = (pair.reference, pair.model)
    before, after = (results.models.index(model) for model in models)
    sides = ComparedAnswers((before, after), (names[pair.reference], names[pair.model]))
    table = compare_to_reference(all_rows, *sides.places)
    st.header("Rows", anchor=False)
    row_filter = _draw_filter(table, sides.model_column, bool(results.rules))
    matching = filter_evaluation_rows(table, sides.places, row_filter)
    _downloads(evaluation, all_rows, [names[model] for model in results.models])
    if not len(matching):
        st.caption(":material/filter_alt: No row matches the filter.")
        return
    position = _draw_list(
        table, matching[:SHOWN_EVALUATION_ROWS], sides, f"{evaluation.id}_{models}_{hash(str(row_filter))}"
    )
    if len(matching) > SHOWN_EVALUATION_ROWS:
        st.caption(f"The first {SHOWN_EVALUATION_ROWS} of {format_plural(len(matching), 'matching row')}.")
    _draw_row(table.slice(position, 1).to_pylist()[0], sides)


def filter_evaluation_rows(
    table: pa.Table, places: tuple[int, int], row_filter: RowFilter
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the indices of the matching rows in the chosen order.

    places: the columns of the reference and of the compared model.
    """
    reference, model = places
    matches = np.isin(table[f"outcome_{model}"].to_numpy(), list(row_filter.outcomes or ROW_OUTCOMES))
    if row_filter.text:
        columns = ("prompt", "expected", f"answer_{reference}", f"answer_{model}")
        hits = [
            pc.fill_null(pc.match_substring(table[c], row_filter.text, ignore_case=True), False).to_numpy()
            for c in columns
        ]
        matches &= np.any(hits, axis=0)
    if row_filter.only_broken_rules:
        matches &= pc.list_value_length(table[f"rules_{model}"]).to_numpy() > 0
    rows = np.flatnonzero(matches)
    damage = table[f"damage_{model}"].to_numpy()[rows]
    if row_filter.order == "damage":
        return rows[np.argsort(-damage, kind="stable")]
    return rows[np.argsort(damage, kind="stable")] if row_filter.order == "gain" else rows


@st.cache_resource(show_spinner=False, max_entries=4)
def _read(path: str, stamp: int) -> pa.Table:
    del stamp  # only part of the cache key: a rewritten file is read again
    return read_row_table(Path(path)).combine_chunks()


def _draw_filter(table: pa.Table, model: int, has_rules: bool) -> RowFilter:
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(table[f"outcome_{model}"]).to_pylist()}
    present = [kind for kind in ROW_OUTCOMES if kind in counts]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        outcomes = st.pills(
            "Outcome",
            present,
            selection_mode="multi",
            key="row_outcomes",
            width="content",
            wrap=True,
            format_func=lambda kind: f"{OUTCOME_LABELS[kind][0]} {format_count(counts[kind])}",
        )
        text = st.text_input("Search", key="row_text", placeholder="Text in a row", icon=":material/search:", width=220)
        order = st.selectbox("Order", list(ROW_ORDERS), format_func=ROW_ORDERS.__getitem__, key="row_order", width=180)
        only_broken_rules = has_rules and st.toggle("Only failed rules", key="row_rules")
    return RowFilter(tuple(outcomes or ()), text or "", order or "damage", bool(only_broken_rules))


def _downloads(evaluation: Evaluation, table: pa.Table, titles: Sequence[str]) -> None:
    with st.container(horizontal=True, gap="small"):
        for label, make, end, mime in (
            ("Download CSV", rows_as_csv, "csv", "text/csv"),
            ("Download JSON", rows_as_json, "json", "application/json"),
        ):
            draw_made_download(
                label,
                partial(_encode_download, make, table, titles),
                f"evaluation-{evaluation.id}.{end}",
                mime,
                icon=":material/download:",
                on_click="ignore",
                key=f"download_{end}",
            )


def _encode_download(make: Callable[[pa.Table, Sequence[str]], str], table: pa.Table, titles: Sequence[str]) -> bytes:
    return make(table, titles).encode()


def _draw_list(table: pa.Table, matching: np.ndarray[Any, Any], sides: ComparedAnswers, key: str) -> int:
    """Draw the list; return the index of the selected row, at first that of the first row."""
    part = table.take(pa.array(matching))
    answers = dict(zip(("Expected", *sides.titles), ("expected", *(f"answer_{i}" for i in sides.places)), strict=True))
    frame = pd.DataFrame(
        {
            "Row": [row + 1 for row in part["row"].to_pylist()],
            "Outcome": [
                f"{OUTCOME_LABELS[kind][1]} {OUTCOME_LABELS[kind][0]}"
                for kind in part[f"outcome_{sides.model_column}"].to_pylist()
            ],
            "Prompt": _shorten_cells(part["prompt"]),
            **{title: _shorten_cells(part[column]) for title, column in answers.items()},
        }
    )
    picked = st.dataframe(
        frame,
        hide_index=True,
        height=min(38 + 35 * len(frame), 353),
        on_select="rerun",
        key=f"rows_{key}",
        selection_mode="single-row",
        selection_default={"selection": {"rows": [0]}},
        alt="Rows of the evaluation",
        column_config={
            "Row": st.column_config.NumberColumn(width=60),
            "Outcome": st.column_config.TextColumn(width=170),
            **{name: st.column_config.TextColumn(width=215) for name in ("Prompt", *answers)},
        },
    )
    rows = picked["selection"]["rows"]
    return int(matching[rows[0]] if rows and rows[0] < len(matching) else matching[0])


def _shorten_cells(column: pa.ChunkedArray) -> list[str]:
    texts = (" ".join((text or "")[: 2 * CELL_CHARACTERS].split()) for text in column.to_pylist())
    return [text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…" for text in texts]


def _draw_row(row: dict[str, Any], sides: ComparedAnswers) -> None:
    """Draw one row in full: the prompt, the expected answer, and both answers with their differences marked."""
    kind = row[f"outcome_{sides.model_column}"]
    label, mark, color = OUTCOME_LABELS[kind]
    with st.container(border=True):
        st.markdown(f"**Row {row['row'] + 1}** · :{color}[{mark} {label}]")
        with st.container(height=160 if len(row["prompt"]) > 600 else "content", border=False):
            st.caption("Prompt")
            st.code(row["prompt"] or " ", language=None, wrap_lines=True)
        expected = row["expected"]
        models = list(zip(sides.titles, sides.places, strict=True))
        columns = st.columns(3 if expected is not None else 2)
        if expected is not None:
            with columns[0]:
                st.caption("Expected answer")
                with st.container(border=True):
                    st.markdown(mark_changes([DiffSpan(expected)], "red"))
        for column, (title, model) in zip(columns[-2:], models, strict=True):
            with column:
                st.caption(escape_text(title))
                _draw_answer(row, model, expected if expected is not None else row[f"answer_{sides.places[0]}"])
        if expected is not None:
            st.caption("Words that differ from the expected answer are marked.")


def _draw_answer(row: dict[str, Any], model: int, compared_text: str) -> None:
    if row[f"error_{model}"]:
        st.markdown(f":red[:material/error: {escape_text(row[f'error_{model}'], 500)}]")
        return
    with st.container(border=True):
        st.markdown(mark_changes(diff_words(row[f"answer_{model}"], compared_text)[0], "red"))
    notes = [f"loss {format_figure(row[f'loss_{model}'])}"] if row[f"loss_{model}"] is not None else []
    notes += ["truncated at the token limit"] if row[f"cut_{model}"] else []
    notes += [f"fails: {escape_text(title, 80)}" for title in row[f"rules_{model}"]]
    if notes:
        st.caption(" · ".join(notes))
