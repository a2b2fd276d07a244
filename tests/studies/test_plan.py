"""The planned runs of a study: seeds, duplicates, and values that can't matter."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit.config import DataConfig
from toolkit.errors import ConfigError
from toolkit.settings.draft import default_draft, replace_setting
from toolkit.studies.plan import StudyPlan, choose_data_sizes, plan_study

ARGS, BNB = "training.training_args.", "model.bitsandbytes."


def plan(grid: dict[str, list[Any]], **more: Any) -> StudyPlan:
    draft = replace_setting(default_draft(), "ablation.use_ablate", True)
    for path, value in more.items():
        draft = replace_setting(draft, path.replace("__", "."), value)
    return plan_study(draft, grid)


def seeds_of(found: StudyPlan) -> list[int]:
    return [trial.config.training.training_args.seed for trial in found.trials]


def test_a_small_study_repeats_each_combination_with_the_same_three_seeds() -> None:
    found = plan({"lora.r": [4, 8]})
    assert [trial.settings for trial in found.trials] == [{"lora.r": 4}, {"lora.r": 8}] * 3, "one seed after another"
    assert seeds_of(found) == [42, 42, 43, 43, 44, 44]
    assert (found.combinations, found.seeds, found.left_out) == (2, (42, 43, 44), ())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ablation__seeds": 1}, "no effect on 3 combinations with 1 seed"),
        ({"ablation__seeds": 2, "ablation__method": "tpe"}, "no effect with TPE"),
        ({"ablation__seeds": 2}, ""),
    ],
)
def test_successive_halving_that_can_leave_nothing_out_is_named(more: dict[str, Any], words: str) -> None:
    found = plan({"lora.r": [4, 8, 16]}, ablation__prune_losers=True, **more)
    said = [one.message for one in found.left_out if one.path == "ablation.prune_losers"]
    assert (len(said), words in "".join(said)) == (bool(words), True)


def test_a_larger_study_and_a_single_run_are_trained_once() -> None:
    assert len(plan({"lora.r": [4, 8, 16, 32]}).trials) == 12
    assert len(plan({"lora.r": [4, 8, 16, 32, 64]}).trials) == 5
    assert len(plan({}).trials) == 1
    assert len(plan_study(default_draft(), {}).trials) == 1


def test_the_number_of_seeds_can_be_chosen_and_starts_at_the_seed_of_the_settings() -> None:
    found = plan({"lora.r": [4, 8]}, ablation__seeds=2, training__training_args__seed=2**32 - 1)
    assert seeds_of(found) == [2**32 - 1, 2**32 - 1, 0, 0]


@pytest.mark.parametrize("path", [ARGS + "seed", "training.training_args"])
def test_a_study_of_seeds_is_not_repeated(path: str) -> None:
    values: list[Any] = [1, 2] if path.endswith("seed") else [{"seed": 1}, {"seed": 2}]
    assert seeds_of(plan({path: values}, ablation__seeds=3)) == [1, 2]


@pytest.mark.parametrize(
    ("path", "values"),
    [("lora.r", [8, 8]), (ARGS + "learning_rate", [1e-3, "1e-3", 0.001]), ("lora.target_modules", [["q"], ["q"]])],
)
def test_a_value_that_is_listed_twice_is_trained_once(path: str, values: list[Any]) -> None:
    found = plan({path: values})
    assert found.combinations == 1
    (note,) = found.left_out
    assert (note.path, note.severity) == (path, "warning")
    assert "each value is trained once" in note.message


@pytest.mark.parametrize(
    ("path", "values", "more", "reason"),
    [
        (BNB + "bnb_4bit_quant_type", ["nf4", "fp4"], {}, "Quantize the base model is off"),
        (BNB + "llm_int8_threshold", [1, 6], {"model.quantize": True}, "Load in 8-bit is off"),
        ("num_processes", [1, 2], {}, "Accelerate"),
        ("data.train_size", [0.2, 0.4], {"data.test_path": "test.csv"}, "the test set is a file"),
        ("data.prompt", ["{message}", "Q: {message}"], {"data.messages": "chat"}, "takes the place of the templates"),
        (ARGS + "warmup_ratio", [0, 0.1], {ARGS + "lr_scheduler_type": "constant"}, "no warmup"),
        ("inference.temperature", [0.5, 1], {"inference.do_sample": True}, "does not change the training"),
        ("training.pinned_rows", [1, 2], {}, "not"),
        ("autopilot", [True, False], {}, "does not change the training"),
        (ARGS + "optim", [None, "adamw_torch_fused"], {}, "they mean the same"),
        ("training.sft_args.packing", ["grouped", None], {}, "they mean the same"),
        ("training.sft_args.neftune_noise_alpha", [None, 0], {}, "they mean the same"),
    ],
)
def test_an_axis_that_cannot_matter_is_left_out_with_the_reason(
    path: str, values: list[Any], more: dict[str, Any], reason: str
) -> None:
    if path == "training.pinned_rows":
        with pytest.raises(ConfigError):
            plan({path: values})
        return
    found = plan({path: values, "lora.r": [4, 8]}, **{key.replace(".", "__"): value for key, value in more.items()})
    assert found.combinations == 2
    (note,) = found.left_out
    assert note.path == path and "All 2 values" in note.message and reason in note.message
    assert "is trained" in note.hint


def test_combinations_in_which_an_axis_has_no_effect_are_left_out() -> None:
    found = plan({"model.quantize": [False, True], BNB + "bnb_4bit_quant_type": ["nf4", "fp4"]})
    assert found.combinations == 3
    assert "1 of 4 combinations would train the same" in found.left_out[0].message


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        ({"train_size": 0.8}, [0.2, 0.4, 0.8]),
        ({"train_size": 400}, [100, 200, 400]),
        ({"train_size": None, "test_size": 0.2}, [0.2, 0.4, 0.8]),
        ({"train_size": None, "test_size": None}, [0.1875, 0.375, 0.75]),
        ({"train_size": None, "test_size": 20}, None),
        ({"train_size": 4}, None),
        ({"test_path": "test.csv"}, None),
    ],
)
def test_the_study_of_more_data_takes_a_quarter_a_half_and_all_rows(data: dict[str, Any], sizes: list[float]) -> None:
    assert choose_data_sizes(DataConfig(**data)) == sizes


def test_too_many_runs_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"100 combinations with 6 seeds are 600 runs; the maximum is 500"):
        plan({"lora.r": list(range(1, 101))}, ablation__seeds=6)
