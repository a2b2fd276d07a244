"""What Start trains, in one sentence: model, dataset, training rows and time."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.runs.model_names import short_model_name
from toolkit.settings.ablation import StudyTrial
from toolkit.system.printable import about_duration, format_plural
from toolkit.ui.configure.forecast_view import RunForecasts, forecast_seconds
from toolkit.ui.data.split_view import count_split_rows
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import DraftReview, varies_table


def describe_start(reviewed: DraftReview, found: RunForecasts) -> str:
    """Return "Train **model** on **dataset**, 301 training rows, about 2 min"; "" while the settings have errors.

    What is not known is left out; a study names the number of its models and datasets if it varies them.
    """
    table = workspace.current_table()
    if not reviewed.trials or reviewed.errors:
        return ""
    models = [short_model_name(str(trial.config.model.hf_model_ckpt)) for trial in reviewed.trials]
    several_tables = any(varies_table(trial.settings) for trial in reviewed.trials)
    if table is None and not several_tables:
        return ""
    label = "several datasets" if several_tables or table is None else f"**{escape_text(describe_table(table), 100)}**"
    runs = reviewed.runs_to_start
    if not runs:
        return ""
    what = f"{format_plural(runs, 'run')} of " if runs > 1 else ""
    parts = [f"Train {what}{_name_or_count(models, 'model')} on {label}"]
    rows = _training_rows(reviewed.trials, None if several_tables else table)
    if rows is not None:
        parts.append(format_plural(rows, "training row"))
    seconds = forecast_seconds(reviewed, found)
    if seconds is not None:
        parts.append(about_duration(seconds))
    return ", ".join(parts)


def describe_table(table: Table) -> str:
    """Return a dataset's label, with its version if it was repaired: "tickets.csv (version 3)"."""
    return f"{table.label} (version {len(table.version.steps) + 1})" if table.version else table.label


def _name_or_count(names: Iterable[str], noun: str) -> str:
    distinct = list(dict.fromkeys(names))
    return f"**{escape_text(distinct[0], 80)}**" if len(distinct) == 1 else format_plural(len(distinct), noun)


def _training_rows(trials: Iterable[StudyTrial], table: Table | None) -> int | None:
    """Return the training rows of every trial; None if they differ or the split is not possible."""
    if table is None:
        return None
    configs = {trial.config.data.model_dump_json(): trial.config for trial in trials}
    try:
        counts = {count_split_rows(table, config)[0] for config in configs.values()}
    except DataError:
        return None  # the problems below Start say why the rows can't be split
    return counts.pop() if len(counts) == 1 else None
