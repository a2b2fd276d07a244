"""The forecast counts the answers that a run gives: its copies of the worker's limits are equal to them."""

from __future__ import annotations

import ast
from typing import Any

from toolkit.export.prompt_contract import GOLDEN_PROMPTS
from toolkit.forecast.costs import other_time
from toolkit.system.paths import PROJECT_ROOT
from toolkit.ui.examples.prompt_view import PINNED_PROMPT_LIMIT


def worker_constants(module: str) -> dict[str, Any]:
    """The numbers at the top of a module of the worker, read without importing it: that needs torch."""
    tree = ast.parse((PROJECT_ROOT / "toolkit" / "worker" / f"{module}.py").read_text(encoding="utf-8"))
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }


def test_the_limits_of_answers_are_those_of_the_worker() -> None:
    greedy, golden = worker_constants("answering/greedy"), worker_constants("answering/golden_prompts")
    samples = worker_constants("training/film_strip")
    assert greedy["MAX_HELD_OUT_ROWS"] == other_time.MAX_ANSWERED_ROWS
    assert greedy["MAX_HELD_OUT_SECONDS"] == other_time.MAX_ANSWERING_SECONDS
    assert greedy["GREEDY_BATCH_ROWS"] == other_time.ANSWER_BATCH_ROWS
    assert greedy["ANSWER_SLACK_TOKENS"] == other_time.FORECAST_EXTRA_TOKENS
    assert golden["MAX_GOLDEN_ANSWER_TOKENS"] == other_time.GOLDEN_ANSWER_TOKENS
    assert other_time.GOLDEN_PROMPT_COUNT == GOLDEN_PROMPTS
    assert samples["MAX_PINNED_ANSWER_TOKENS"] == other_time.MAX_SAMPLE_OUTPUT_TOKENS
    assert other_time.MAX_SAMPLED_PROMPTS == PINNED_PROMPT_LIMIT == samples["MAX_PROMPTS_PER_SAMPLING"]
