"""The next combination by TPE: near the good ones, never one that was tried, the same when it is asked for again."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolkit.settings.ablation import draw_combinations
from toolkit.studies.methods.tpe import JOURNAL_NAME, TriedCombination, propose_combination
from toolkit.system.paths import PROJECT_ROOT

AXES: dict[str, list[Any]] = {
    "training.training_args.learning_rate": [3e-4, 1e-4, 1e-2, 1e-3, 3e-3, 3e-2],
    "lora.r": [2, 4, 8, 16, 32],
    "lora.bias": ["none", "all", "lora_only"],
    "lora.target_modules": [["q_proj"], ["q_proj", "v_proj"], ["all-linear"], None],
}


def score(settings: dict[str, Any]) -> float:
    rate = abs(math.log10(settings["training.training_args.learning_rate"]) + 2.5)
    return (
        -rate
        - 0.2 * abs(math.log2(settings["lora.r"]) - 3)
        - 0.3 * (settings["lora.bias"] != "all")
        - 0.1 * (settings["lora.target_modules"] != ["all-linear"])
    )


def search(folder: Path, trials: int, *, seed: int = 0) -> list[TriedCombination]:
    tried = [TriedCombination(one, score(one)) for one in itertools.islice(draw_combinations(AXES, seed), 5)]
    while len(tried) < trials:
        taken = {repr(one.settings) for one in tried}
        found = propose_combination(AXES, tried, taken, lower=False, name=f"study {seed}", folder=folder)
        assert found is not None and repr(found) not in taken
        tried.append(TriedCombination(found, score(found)))
    return tried


def test_the_search_finds_what_random_draws_of_that_number_rarely_do(tmp_path: Path) -> None:
    ranked = sorted(map(score, draw_combinations(AXES, 1)), reverse=True)
    best = sorted(max(one.value or -9.0 for one in search(tmp_path, 20, seed=seed)) for seed in range(7))
    by_chance = sorted(max(map(score, itertools.islice(draw_combinations(AXES, seed), 20))) for seed in range(31))
    assert 2 * ranked.index(best[3]) < ranked.index(by_chance[15]), "of 360; medians of studies"


def test_the_direction_is_that_of_the_objective(tmp_path: Path) -> None:
    start = [TriedCombination(one, -score(one)) for one in itertools.islice(draw_combinations(AXES, 0), 12)]
    taken = {repr(one.settings) for one in start}
    low = propose_combination(AXES, start, taken, lower=True, name="s", folder=tmp_path)
    high = propose_combination(AXES, start, taken, lower=False, name="s", folder=tmp_path)
    assert low is not None and high is not None and score(low) > score(high)


def test_a_repeated_call_proposes_the_same_whatever_is_left_of_the_journal(tmp_path: Path) -> None:
    tried = search(tmp_path, 9)
    taken = {repr(one.settings) for one in tried}
    journal = tmp_path / JOURNAL_NAME

    def propose() -> dict[str, Any] | None:
        return propose_combination(AXES, tried, taken, lower=False, name="study 0", folder=tmp_path)

    first = propose()
    text = journal.read_bytes()
    for left in (None, b"", text[: len(text) // 2], text[:-3], b"{}\n", b"\x00\xff", text + text):
        journal.unlink() if left is None else journal.write_bytes(left)
        assert propose() == first, left and left[:20]
    assert propose() == first and journal.read_bytes().count(b"\n") > 9


def test_a_failed_combination_is_no_result_and_every_one_taken_ends_the_search(tmp_path: Path) -> None:
    axes: dict[str, list[Any]] = {"lora.r": [4, 8], "lora.use_dora": [True, False]}
    tried: list[TriedCombination] = []
    for _ in range(4):
        taken = {repr(one.settings) for one in tried}
        found = propose_combination(axes, tried, taken, lower=False, name="s", folder=tmp_path)
        assert found is not None
        tried.append(TriedCombination(found, None))
    taken = {repr(one.settings) for one in tried}
    assert len(taken) == 4
    assert propose_combination(axes, tried, taken, lower=False, name="s", folder=tmp_path) is None


@pytest.mark.parametrize("total", [30, 5000])
def test_more_draws_only_add_to_the_first_ones_and_none_is_repeated(total: int) -> None:
    grid = {"lora.r": list(range(1, total // 2 + 1)), "lora.bias": ["none", "all"]}
    drawn = [repr(one) for one in draw_combinations(grid, 7)]
    assert len(set(drawn)) == total
    assert [repr(one) for one in itertools.islice(draw_combinations(grid, 7), 9)] == drawn[:9]
    assert [repr(one) for one in itertools.islice(draw_combinations(grid, 8), 9)] != drawn[:9]


def test_optuna_is_not_loaded_before_a_study_asks_for_it() -> None:
    script = "import sys, toolkit.cli.main, toolkit.ui.frame.page; print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT_ROOT, timeout=120)
    assert done.stdout.strip().endswith("False"), done.stderr
