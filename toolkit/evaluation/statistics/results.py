"""results.json: the figures of an evaluation as records, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.errors import RunError
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import MAX_LARGE_JSON_PARTS, read_foreign_json

RESULTS_SCHEMA_VERSION = 1
Verdict = Literal["better", "worse", "noise", "differs"]
RowOutcome = Literal["fixed", "broke", "same", "both wrong", "no expected answer", "seen in training"]
ROW_OUTCOMES: tuple[RowOutcome, ...] = (
    "broke",
    "fixed",
    "both wrong",
    "same",
    "no expected answer",
    "seen in training",
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FigureValue(_Record):
    """A value with its 95 % interval; None where it is not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class FigureDifference(_Record):
    """Adapter minus base on the same rows, with the 98 % interval and the sign-flip p value behind the verdict."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float = 1.0
    verdict: Verdict = "noise"


class Figure(_Record):
    """One measure over `rows` rows.

    models: value by model. differences: by adapter, from the base. between: reference -> adapter -> difference, for any
    two adapters.
    """

    measure: str
    rows: int
    models: dict[str, FigureValue]
    differences: dict[str, FigureDifference] = {}
    between: dict[str, dict[str, FigureDifference]] = {}

    def difference_from(self, reference: str, name: str) -> FigureDifference:
        """Return `name` minus `reference`. Results of the first versions have no pairs: then it is not known."""
        if reference in self.between:
            return self.between[reference].get(name, FigureDifference())
        return self.differences.get(name, FigureDifference())


class FlipCounts(_Record):
    """Rows by what became of them from one model to another, by exact match.

    same: unchanged and correct. both_wrong: unchanged and wrong. unknown: no expected answer.
    """

    fixed: int = 0
    broke: int = 0
    same: int = 0
    both_wrong: int = 0
    unknown: int = 0


class RuleFigure(_Record):
    """How often one rule was passed; a row whose check took too long does not pass.

    at_least: the share required. kept: share by model. fixed, broke: rows by adapter, compared with the base.
    """

    title: str
    at_least: float
    kept: dict[str, FigureValue]
    fixed: dict[str, int] = {}
    broke: dict[str, int] = {}


class GateFigure(_Record):
    """Whether an adapter may be promoted, and the reasons as sentences."""

    passed: bool
    reasons: tuple[str, ...]


class Confusion(_Record):
    """Expected and answered labels, as the data spells them.

    counts: by model; [i][j] is the number of rows with expected label i and answer j, the last column any other.
    """

    labels: tuple[str, ...]
    counts: dict[str, tuple[tuple[int, ...], ...]]


class EvaluationResults(_Record):
    """All figures of an evaluation.

    models: base first. asked: questions. answered: questions with an answer from every model. complete: whether these
    are all. seen: model -> answered rows that are also in its training set. excluded: answered rows that are in the
    training set of any model, and therefore in no figure; 0 if all of them are. failures: model -> reason -> rows.
    cut: model -> answers that the token limit ended. headline: name of the measure that the verdict rests on. fields:
    one figure per JSON field. probe: loss on the forgetting probe. sentences: by adapter, the verdict in words.
    seconds: duration.
    """

    schema_version: int = RESULTS_SCHEMA_VERSION
    models: tuple[str, ...]
    asked: int
    answered: int
    complete: bool
    seen: dict[str, int] = {}
    excluded: int = 0
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
        """All models but the base."""
        return self.models[1:]

    @property
    def compared_rows(self) -> int:
        """Rows behind the figures."""
        return self.answered - self.excluded

    def flips_of(self, reference: str, name: str) -> FlipCounts:
        """Return what became of the rows from `reference` to `name`."""
        if reference in self.flips_between:
            return self.flips_between[reference].get(name, FlipCounts())
        return self.flips.get(name, FlipCounts())

    def figure(self, measure: str) -> Figure | None:
        """Return the figure of that measure, None when it does not apply to these rows."""
        return next((figure for figure in self.figures if figure.measure == measure), None)


def write_evaluation_results(path: Path, results: EvaluationResults) -> None:
    """Write results.json atomically. Raises OSError."""
    durable_write(path, results.model_dump_json(indent=1))


def read_evaluation_results(path: Path) -> EvaluationResults | None:
    """Return the figures, None when there are none yet. Raises RunError: damaged, or of a newer version."""
    try:
        raw = read_foreign_json(path, parts=MAX_LARGE_JSON_PARTS)
        if int(raw["schema_version"]) > RESULTS_SCHEMA_VERSION:
            raise RunError(
                "The results were written by a newer version of the toolkit.", "Update the toolkit to see them."
            )
        return EvaluationResults.model_validate(raw)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise RunError(f"{path} can't be read.", "Start a new evaluation.") from error
