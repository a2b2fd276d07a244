"""How much of a grid a study trains that stops when it is decided. `python -m benchmarks.decided_studies` prints it;
with `--halving`, how often a study by successive halving errs.

Each study is a full grid of 2 to 4 settings with 2 or 3 values and 1 to 10 seeds, trained in the product's order and
judged by the product after every run. A third of the settings has an effect of 10 to 40 points on the share of correct
answers; the other settings have none. Rows are answered as in `benchmarks/verdicts.py`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus
from toolkit.studies.outcomes import Study, TrialOutcome
from toolkit.studies.question import AskedTrial, StudyQuestion
from toolkit.studies.verdict import find_losing_trials, is_study_decided, judge_study

PATHS = ("lora.r", "lora.lora_alpha", "training.training_args.num_train_epochs", "lora.lora_dropout")
FINISHED = RunStatus("finished")


def draw_study(random: np.random.Generator, share: float = 1 / 3) -> tuple[Study, int]:
    """Return a study whose trials all have a result, and how many settings have an effect; this share has one."""
    sizes = random.integers(2, 4, int(random.integers(2, 5)))
    axes = {path: list(range(1, size + 1)) for path, size in zip(PATHS, sizes, strict=False)}
    effects = {path: float(random.uniform(0.1, 0.4)) * (random.random() < share) for path in axes}
    rows, seeds = int(random.integers(100, 201)), int(random.choice([1, 3, 5, 10]))
    ability = np.clip(random.beta(1.5, 1.0, rows), 0.01, 0.99)
    by_seed, noise = random.normal(0, 0.2, seeds), random.uniform(0, 0.2)
    outcomes = []
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for seed, settings in itertools.product(range(seeds), combinations):
        logits = np.log(ability / (1 - ability)) + by_seed[seed] + random.normal(0, noise)
        chance = 1 / (1 + np.exp(-logits))
        for path, value in settings.items():
            # the best value answers as well a share of the rows that the others answer wrongly
            share = effects[path] * (value - 1) / (len(axes[path]) - 1)
            chance = chance + (1 - chance) * min(1.0, share / max(1e-9, 1 - float(chance.mean())))
        right = random.random(rows) < chance
        scores = {(row, ""): float(one) for row, one in enumerate(right)}
        asked = AskedTrial(settings, seed, f"{seed} {settings}")
        outcomes.append(TrialOutcome(asked, RunDir(Path("run")), FINISHED, scores, float(right.mean())))
    question = StudyQuestion("simulated", axes, tuple(one.asked for one in outcomes))
    return Study(question, tuple(outcomes)), sum(map(bool, effects.values()))


def count_looks_until_alarm(study: Study) -> tuple[int, int]:
    """Train a study by successive halving; return its runs, and after how many a setting matters, 0 for none."""
    seen = {one.asked.content: TrialOutcome(one.asked) for one in study.outcomes}
    question, runs, alarm = replace(study.question, prune_losers=True), 0, 0
    for one in study.outcomes:
        now = Study(question, tuple(seen.values()), study.objective)
        if one.asked.content in find_losing_trials(now):
            continue
        seen[one.asked.content] = one
        runs += 1
        verdict = judge_study(Study(question, tuple(seen.values()), study.objective))
        if not alarm and any(finding.verdict == "matters" for finding in verdict.findings):
            alarm = runs
    return runs, alarm


def print_halving(studies: int, seed: int) -> None:
    """Print how often a study without any effect is said to have one, at any look, and how many runs halving trains."""
    random = np.random.default_rng(seed)
    alarms, trained, total = 0, [], 0
    while total < studies:
        study, _ = draw_study(random, share=0.0)
        if len(study.question.seeds) in (3, 5) and len(study.outcomes) <= 60:
            runs, alarm = count_looks_until_alarm(study)
            alarms, total = alarms + bool(alarm), total + 1
            trained.append(runs / len(study.outcomes))
    print(
        f"successive halving, {total} grids of 3 or 5 seeds without effect: {100 * float(np.median(trained)):.0f} % of"
    )
    print(
        f"the runs at the median; {100 * alarms / total:.1f} % of the studies said at any look that a setting matters"
    )


def count_runs_until_decided(study: Study) -> int | None:
    """Return after how many runs every setting is decided; None if it is not after the last one."""
    waiting = [TrialOutcome(one.asked) for one in study.outcomes]
    for done in range(2, len(study.outcomes) + 1):
        seen = Study(study.question, (*study.outcomes[:done], *waiting[done:]), study.objective)
        if is_study_decided(seen):
            return done
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--halving", action="store_true", help="simulate successive halving without effects")
    chosen = parser.parse_args()
    if chosen.halving:
        print_halving(chosen.studies, chosen.seed)
        return
    random, begin = np.random.default_rng(chosen.seed), time.monotonic()
    groups: dict[str, list[float]] = {}
    for _ in range(chosen.studies):
        study, _ = draw_study(random)
        runs = len(study.outcomes)
        decided = count_runs_until_decided(study)
        limit = next((limit for limit in (20, 40, 80) if runs <= limit), math.inf)
        size = f"up to {limit} runs" if limit < math.inf else "more than 80 runs"
        for name in ("all", f"{len(study.question.seeds):>2} seeds", size):
            groups.setdefault(name, []).append(decided / runs if decided is not None else math.inf)
    print(f"{'grid':<20}{'studies':>9}{'decided':>10}{'median share of the runs':>28}{'of those decided':>20}")
    for name, shares in sorted(groups.items()):
        ended = [one for one in shares if one < math.inf]
        median = 100 * float(np.median([min(one, 1.0) for one in shares]))
        own = f"{100 * float(np.median(ended)):.0f} %" if ended else "–"
        print(f"{name:<20}{len(shares):>9}{100 * len(ended) / len(shares):>8.0f} %{median:>26.0f} %{own:>20}")
    print(f"\n{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
