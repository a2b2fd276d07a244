"""The curves in a study's report."""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus
from toolkit.studies.outcomes import Study, TrialOutcome
from toolkit.studies.question import AskedTrial, StudyQuestion
from toolkit.studies.report import format_study_html
from toolkit.studies.verdict import judge_study

RANK = "lora.r"


def make_outcome(folder: Path, rank: int, seed: int, losses: list[float]) -> TrialOutcome:
    run = RunDir(folder / f"{rank}-{seed}")
    run.path.mkdir(parents=True)
    with EventWriter(run.events_path) as writer:
        for step, loss in enumerate(losses):
            writer.append("eval", step=10 * step, eval_loss=loss)
    return TrialOutcome(AskedTrial({RANK: rank}, seed, f"{rank} {seed}"), run, RunStatus("finished"), {}, 0.5)


def test_the_report_draws_the_test_loss_of_each_trial_by_step(tmp_path: Path) -> None:
    outcomes = [make_outcome(tmp_path, rank, seed, [2.0, 1.0, 1.5 / rank]) for rank in (1, 8) for seed in (1, 2)]
    outcomes.append(make_outcome(tmp_path, 8, 3, [2.0]))  # one point is no curve
    question = StudyQuestion("s", {RANK: [1, 8]}, tuple(one.asked for one in outcomes))
    study = Study(question, tuple(outcomes))
    page = format_study_html(study, judge_study(study))
    assert page.count("<polyline") == 4 and "LoRA rank (r) 8, seed 2</title>" in page
    assert len(set(re.findall(r'stroke="(hsl[^"]+)"', page))) == 2, "the seeds of a combination have one color"
    points = [[float(one) for one in pair.split(",")] for pair in re.findall(r'points="([^"]+)"', page)[2].split()]
    (left, top), (right, bottom) = points[0], points[-1]
    assert (left, top, right, bottom) == (64.0, 12.0, 620.0, 224.0), "from the highest loss to the lowest of all"
    assert ">0.188</text>" in page and ">20</text>" in page


def test_a_study_without_curves_has_no_empty_picture() -> None:
    asked = AskedTrial({RANK: 8}, 1, "8 1")
    study = Study(StudyQuestion("s", {RANK: [8]}, (asked,)), (TrialOutcome(asked),))
    assert "<polyline" not in format_study_html(study, judge_study(study))
