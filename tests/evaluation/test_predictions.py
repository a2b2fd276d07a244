"""The score at the end of a run is that of an evaluation, and equal to what earlier versions logged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.evaluation.planted import known_flips, make_run, plant
from toolkit.evaluation.predictions import (
    ADAPTER,
    Prediction,
    compute_exact_match,
    read_predictions,
    write_predictions,
)
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir

BEFORE = Path(__file__).parents[1] / "fixtures" / "run_before_predictions_moved"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    return run


def old_score(found: list[Prediction]) -> tuple[int, float, float]:
    """The worker's own scoring of commit 3ce84f2."""
    adapter = sum(item.adapter.strip() == item.expected.strip() for item in found)
    base = sum(item.base.strip() == item.expected.strip() for item in found)
    return len(found), adapter / len(found), base / len(found)


def new_score(found: list[Prediction]) -> tuple[int, float | None, float | None]:
    figure = compute_exact_match(found)
    return figure.rows, figure.models[ADAPTER].value, figure.models[BASE].value


def test_an_earlier_run_is_read_and_scores_the_same_to_the_digit(run: RunDir) -> None:
    run.evaluation_dir.mkdir()
    shutil.copy(BEFORE / "predictions.jsonl", run.predictions_path)
    logged = json.loads((BEFORE / "scores.jsonl").read_text())
    found = read_predictions(run)
    assert len(found) == logged["rows"] == 40
    assert new_score(found) == (logged["rows"], logged["exact_match"], logged["exact_match_base"]) == old_score(found)
    before = run.predictions_path.read_bytes()
    write_predictions(run, found)
    assert run.predictions_path.read_bytes() == before, "the format is unchanged"


@pytest.mark.parametrize("rows", [1, 3, 7, 49, 128, 199])
def test_every_share_is_the_one_that_was_logged_before(rows: int) -> None:
    for correct in range(0, rows + 1, max(1, rows // 9)):
        found = [Prediction(i, "q", "a", "b" if i % 3 else "a", " a\n" if i < correct else "A") for i in range(rows)]
        assert new_score(found) == old_score(found)


def test_the_figure_is_that_of_an_evaluation_of_the_same_answers(tmp_path: Path) -> None:
    said = known_flips(fixed=21, broke=3, same=7, both_wrong=9)
    planted = make_run(tmp_path, list(said))
    _, results = plant(planted, said)
    figure = results.figure("exact_match")
    assert figure is not None
    found = [Prediction(i, f"question {i}", text, *texts) for i, (text, texts) in enumerate(said.items())]
    ended = compute_exact_match(found)
    assert (ended.models[BASE], ended.models[ADAPTER]) == (figure.models[BASE], figure.models[planted.id])


def test_predictions_are_written_as_json_lines_and_read_back(run: RunDir) -> None:
    assert read_predictions(run) == []
    found = [Prediction(3, "line\nbreak", "ü", "", "\u2028"), Prediction(4, "\x85", "\x0c", "\r", "\u2029")]
    write_predictions(run, found)
    first, second = run.predictions_path.read_bytes().decode().split("\n")[:-1]
    assert json.loads(first) == {"row": 3, "prompt": "line\nbreak", "expected": "ü", "base": "", "adapter": "\u2028"}
    assert read_predictions(run) == found
    run.predictions_path.write_text(first + "\n" + second[:20])
    assert read_predictions(run) == []


def test_an_exact_match_ignores_outer_white_space_only() -> None:
    def made(base: str, adapter: str) -> Prediction:
        return Prediction(0, "q", "the answer", base, adapter)

    found = [
        made("no", " the answer\n"),
        made("the answer", "the  answer"),
        made("", "the answer"),
        made("", "The answer"),
    ]
    assert new_score(found) == (4, 0.5, 0.25)
