"""predictions.jsonl: the answers of base model and adapter to test rows at the end of a run, and their exact match.

One object {row, prompt, expected, base, adapter} per line, where row is 0-based in the run's table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from pydantic import TypeAdapter

from toolkit.evaluation.statistics.counting import compute_figures, mean_column
from toolkit.evaluation.statistics.measures import EXACT_MATCH_MEASURE, MEASURES_BY_NAME
from toolkit.evaluation.statistics.results import Figure
from toolkit.evaluation.statistics.text import is_exact_match
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import parse_foreign_json, read_foreign_file

ADAPTER = "adapter"
"""Name of the run's adapter in the figure; the base model is `BASE`, as in an evaluation."""


@dataclass(frozen=True)
class Prediction:
    """The answers of both models to a test row, next to the expected one."""

    row: int
    prompt: str
    expected: str
    base: str
    adapter: str


_PREDICTION = TypeAdapter(Prediction)


def write_predictions(run: RunDir, predictions: Sequence[Prediction]) -> None:
    """Replace the run's predictions.jsonl. Raises OSError."""
    run.evaluation_dir.mkdir(exist_ok=True)
    lines = (json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in predictions)
    durable_write(run.predictions_path, "".join(lines))


def read_predictions(run: RunDir) -> list[Prediction]:
    """Return the predictions, [] when the file is missing or damaged."""
    try:
        lines = read_foreign_file(run.predictions_path).split(b"\n")
        return [_PREDICTION.validate_python(parse_foreign_json(line)) for line in lines if line]
    except (OSError, ValueError):
        return []


def compute_exact_match(predictions: Sequence[Prediction]) -> Figure:
    """Return the exact match of both models with its interval, computed as in an evaluation of the same answers."""
    values = np.array(
        [[is_exact_match(answer, one.expected) for answer in (one.base, one.adapter)] for one in predictions], float
    )
    column = mean_column(MEASURES_BY_NAME[EXACT_MATCH_MEASURE], values)
    return compute_figures([column], [BASE, ADAPTER], seed=0)[0]
