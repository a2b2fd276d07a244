"""How often the verdict of a study errs: 10,000 simulated studies. `python -m benchmarks.verdicts` prints the tables.

A study has one axis of 2 to 4 values that is judged, 0 to 3 other axes of two values, 1 to 5 seeds and 30 to 300 test
rows. It is looked at after every run that completes a comparison. Each row has its own chance to be answered correctly
(beta distribution), on which act the other axes, a part common to all trials with the seed, one common to the trials
with this seed and value, and one of the single run. The comparison is the product's own, `statistics/paired_trials.py`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from toolkit.evaluation.statistics.intervals import FloatArray
from toolkit.evaluation.statistics.paired_trials import MIN_PAIRS, compare_paired_trials, estimate_run_noise
from toolkit.studies.objectives import SMALLEST_DIFFERENCE
from toolkit.studies.verdict import ERROR_RATE

STUDIES = 10_000
BATCH = 50
"""Studies of one design that are computed at once."""


@dataclass(frozen=True)
class Design:
    """values: of the axis that is judged; cells: combinations of the other axes."""

    values: int
    cells: int
    seeds: int
    rows: int

    @property
    def looks(self) -> list[int]:
        """Matched pairs at each look, from the first that can be judged."""
        return list(range(MIN_PAIRS, self.cells * self.seeds + 1))


@dataclass
class Tally:
    """Sums over studies: called different at any look, covered at every look and at the last, last half width."""

    studies: int = 0
    called: float = 0.0
    called_right: float = 0.0
    covered_always: float = 0.0
    covered_last: float = 0.0
    half_width: float = 0.0

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def share(self, name: str) -> float:
        return float(getattr(self, name)) / max(self.studies, 1)


def draw_design(random: np.random.Generator) -> Design:
    """Return a design with 1 to 4 axes."""
    others, values = int(random.integers(0, 4)), int(random.integers(2, 5))
    return Design(values, 2**others, int(random.integers(1, 6)), int(random.integers(30, 301)))


def draw_scores(design: Design, effect: float, random: np.random.Generator) -> tuple[list[FloatArray], float]:
    """Return the answers of BATCH studies as [studies, pairs, rows] for each value, and the last value's true gain."""
    noise = random.uniform(0, 1, 3) * (0.5, 0.5, 0.2)
    shape = (BATCH, design.seeds, design.cells)

    def draw_chances(count: int, rows: int) -> list[FloatArray]:
        ability = np.clip(random.beta(1.5, 1.0, (count, 1, 1, rows)), 0.01, 0.99)
        by_seed = random.normal(0, noise[1], (count, design.seeds, 1, 1))
        base = np.log(ability / (1 - ability)) + np.linspace(-0.5, 0.5, design.cells)[:, None] + by_seed
        one = (count, design.seeds, 1, 1)
        each = (count, design.seeds, design.cells, 1)
        return [
            1 / (1 + np.exp(-base - random.normal(0, noise[2], one) - random.normal(0, noise[0], each)))
            for _ in range(design.values)
        ]

    gain = 0.0
    chances = draw_chances(BATCH, design.rows)
    if effect:
        # the better value answers a share of the wrong rows as well, chosen so that the mean gain is `effect`
        wrong = 1 - float(np.mean(draw_chances(500, 20)[0]))
        chances[-1] = chances[-1] + (1 - chances[-1]) * min(1.0, effect / wrong)
        gain = effect
    answers = [random.random((*shape, design.rows)) < one for one in chances]
    return [one.reshape(BATCH, -1, design.rows).astype(float) for one in answers], gain


def judge(design: Design, scores: list[FloatArray], gain: float) -> Tally:
    """Return how the verdicts of these studies err, looked at again and again."""
    seeds = [seed for seed in range(design.seeds) for _ in range(design.cells)]
    others = [cell for _ in range(design.seeds) for cell in range(design.cells)]
    alpha = ERROR_RATE / math.comb(design.values, 2)
    called, right, covered = np.zeros(BATCH, bool), np.zeros(BATCH, bool), np.ones(BATCH, bool)
    settings = [
        (value, *map(bool, [cell & 4, cell & 2, cell & 1])) for value in range(design.values) for cell in others
    ]
    means = np.stack([one.mean(axis=-1) for one in scores], axis=-2)
    for pairs in design.looks:
        seen = [at for at in range(len(settings)) if at % len(seeds) < pairs]
        noise = estimate_run_noise(
            means[..., :pairs].reshape(BATCH, -1), [settings[at] for at in seen], seeds[:pairs] * design.values
        )
        last, width = np.ones(BATCH, bool), np.zeros(BATCH)
        for first, second in itertools.combinations(range(design.values), 2):
            found = compare_paired_trials(
                scores[first][:, :pairs],
                scores[second][:, :pairs],
                seeds[:pairs],
                others[:pairs],
                alpha,
                share=True,
                noise=noise,
            )
            truth = gain if second == design.values - 1 else 0.0
            called |= (found.low > 0) | (found.high < 0)
            right |= (found.low > 0) & (truth > 0)
            last &= (found.low <= truth) & (truth <= found.high)
            width = np.maximum(width, found.half_width)
        covered &= last
    return Tally(BATCH, called.sum(), right.sum(), covered.sum(), last.sum(), np.minimum(width, 1).sum())


def run_simulation(studies: int, effect: float, seed: int) -> dict[Design, Tally]:
    """Return the tallies of as many studies, by design; designs without a matched pair of runs are drawn again."""
    random = np.random.default_rng(seed)
    found: dict[Design, Tally] = {}
    while sum(tally.studies for tally in found.values()) < studies:
        design = draw_design(random)
        if design.looks:
            found.setdefault(design, Tally()).add(judge(design, *draw_scores(design, effect, random)))
    return found


def print_table(title: str, groups: dict[str, Tally], columns: dict[str, str]) -> None:
    """Print one line for each group. columns: title by the name of the share."""
    print(f"\n{title}\n{'':<26}{'studies':>9}" + "".join(f"{name:>22}" for name in columns.values()))
    for label, tally in groups.items():
        print(f"{label:<26}{tally.studies:>9,}" + "".join(f"{100 * tally.share(name):>20.1f} %" for name in columns))


def group_tallies(found: dict[Design, Tally], key: Callable[[Design, Tally], str]) -> dict[str, Tally]:
    """Return the sums of the tallies by label, sorted, after the sum of all."""
    groups: dict[str, Tally] = {"all": Tally()}
    for design, tally in sorted(found.items(), key=lambda entry: key(*entry)):
        groups["all"].add(tally)
        groups.setdefault(key(design, tally), Tally()).add(tally)
    return groups


def describe_width(design: Design, tally: Tally) -> str:
    """Return the class of designs by their interval at the last look."""
    del design
    points = 100 * tally.share("half_width")
    limit = next((limit for limit in (5, 7, 10, 15, 25) if points <= limit), None)
    return f"interval over ±{25} points" if limit is None else f"interval up to ±{limit:>2} points"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    begin = time.monotonic()
    null = run_simulation(chosen.studies, 0.0, chosen.seed)
    real = run_simulation(chosen.studies, SMALLEST_DIFFERENCE, chosen.seed + 1)
    coverage = {"covered_always": "covered at all looks", "covered_last": "at the last look"}
    errors, power = {"called": "called at any look", **coverage}, {"called_right": "found at any look", **coverage}
    print_table("No value differs", group_tallies(null, lambda d, _: f"{d.seeds} seeds"), errors)
    print_table("No value differs", group_tallies(null, lambda d, _: f"{d.values} values"), errors)
    print_table("One value is 10 points better", group_tallies(real, lambda d, _: f"{d.seeds} seeds"), power)
    print_table("The same, by the interval at the last look", group_tallies(real, describe_width), power)
    print(f"\n{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
