"""The figures of an evaluation as records: what results.json holds. Reads and writes it, counts nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.errors import RunError
from toolkit.system.durable import durable_write

RESULTS_SCHEMA_VERSION = 1
Verdict = Literal["better", "worse", "noise", "differs"]
RowOutcome = Literal["fixed", "broke", "same", "both wrong", "no expected answer"]
ROW_OUTCOMES: tuple[RowOutcome, ...] = ("fixed", "broke", "same", "both wrong", "no expected answer")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FigureValue(_Record):
    """A figure with its 95 % bootstrap interval; None where it can't be known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class FigureDifference(_Record):
    """Adapter minus base on the same rows, with the 98 % interval and the sign-flip p that the verdict rests on."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float = 1.0
    verdict: Verdict = "noise"


class Figure(_Record):
    """One measure over `rows` rows. models: by name; differences: by adapter, against the base.

    between: reference -> adapter -> its difference to that reference, for any two adapters.
    """

    measure: str
    rows: int
    models: dict[str, FigureValue]
    differences: dict[str, FigureDifference] = {}
    between: dict[str, dict[str, FigureDifference]] = {}

    def difference_from(self, reference: str, name: str) -> FigureDifference:
        """`name` minus `reference`; of what was counted before pairs were, nothing is known."""
        if reference in self.between:
            return self.between[reference].get(name, FigureDifference())
        return self.differences.get(name, FigureDifference())


class FlipCounts(_Record):
    """Rows by what became of them from one model to another, by exact match. same: both right."""

    fixed: int = 0
    broke: int = 0
    same: int = 0
    both_wrong: int = 0
    unknown: int = 0


class RuleFigure(_Record):
    """How one rule was kept; a row that took too long does not keep it. fixed, broke: rows by adapter, to its base."""

    title: str
    at_least: float
    kept: dict[str, FigureValue]
    fixed: dict[str, int] = {}
    broke: dict[str, int] = {}


class GateFigure(_Record):
    """Whether an adapter may be promoted, and every reason in words."""

    passed: bool
    reasons: tuple[str, ...]


class Confusion(_Record):
    """counts[i][j]: rows whose expected label is i and that were answered j; the last column is anything else."""

    labels: tuple[str, ...]
    counts: dict[str, tuple[tuple[int, ...], ...]]


class EvaluationResults(_Record):
    """All that was counted. models: base first. asked: questions; answered: those with an answer of every model.

    failures: model -> reason -> rows. complete: every question was asked; else it was stopped.
    """

    schema_version: int = RESULTS_SCHEMA_VERSION
    models: tuple[str, ...]
    asked: int
    answered: int
    complete: bool
    failures: dict[str, dict[str, int]] = {}
    cut: dict[str, int] = {}
    headline: str | None = None
    figures: tuple[Figure, ...] = ()
    fields: tuple[Figure, ...] = ()
    confusion: Confusion | None = None
    flips: dict[str, FlipCounts] = {}
    flips_between: dict[str, dict[str, FlipCounts]] = {}
    rules: tuple[RuleFigure, ...] = ()
    gate: dict[str, GateFigure] = {}
    probe: Figure | None = None
    sentences: dict[str, tuple[str, ...]] = {}
    seconds: float = 0.0

    @property
    def adapters(self) -> tuple[str, ...]:
        return self.models[1:]

    def flips_of(self, reference: str, name: str) -> FlipCounts:
        """What became of the rows from `reference` to `name`."""
        if reference in self.flips_between:
            return self.flips_between[reference].get(name, FlipCounts())
        return self.flips.get(name, FlipCounts())

    def figure(self, measure: str) -> Figure | None:
        return next((one for one in self.figures if one.measure == measure), None)


def write_evaluation_results(path: Path, results: EvaluationResults) -> None:
    durable_write(path, results.model_dump_json(indent=1))


def read_evaluation_results(path: Path) -> EvaluationResults | None:
    """None when there are none yet. Raises RunError: damaged, or of a newer version."""
    try:
        raw = json.loads(path.read_bytes())
        if int(raw["schema_version"]) > RESULTS_SCHEMA_VERSION:
            raise RunError("The figures were made by a newer version.", "Update the toolkit to see them.")
        return EvaluationResults.model_validate(raw)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise RunError(f"{path} can't be read.", "Evaluate again.") from error
