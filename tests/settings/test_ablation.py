"""Studies: which lists in a file mean several values, and the trials that follow, in order."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import ConfigError
from toolkit.settings import ablation
from toolkit.settings.ablation import check_value_grid, expand_trials, merge_grid, split_grid
from toolkit.settings.draft import default_draft, get_setting, replace_setting
from toolkit.settings.import_export import export_settings, import_settings

ON = {"ablation": {"use_ablate": True, "study_name": "s"}}


def study(text: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    return split_grid({**ON, **yaml.safe_load(text)})


def on() -> dict[str, Any]:
    return replace_setting(default_draft(), "ablation.use_ablate", True)


def test_the_last_path_changes_fastest_as_in_the_original() -> None:
    draft, grid = study("""
        model: {hf_model_ckpt: [a, b]}
        lora: {r: [8, 16, 32], lora_dropout: [.1, .2]}
    """)
    runs = [tuple(variant.settings.values()) for variant in expand_trials(draft, grid)]
    assert len(runs) == ablation.count_trials(grid) == 12
    assert runs[:4] == [("a", 8, 0.1), ("a", 8, 0.2), ("a", 16, 0.1), ("a", 16, 0.2)]
    assert runs[-1] == ("b", 32, 0.2)


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        ("lora: {r: [8, 16]}", "lora.r", [8, 16]),
        ("lora: {r: [8]}", "lora.r", [8]),
        ("data: {prompt: ['a {x}', 'b {x}']}", "data.prompt", ["a {x}", "b {x}"]),
        ("data: {file_type: [csv, json]}", "data.file_type", ["csv", "json"]),
        ("lora: {target_modules: [[q], [v]]}", "lora.target_modules", [["q"], ["v"]]),
        ("lora: {target_modules: [[q], all-linear]}", "lora.target_modules", [["q"], "all-linear"]),
        ("lora: {target_modules: [all-linear, [q]]}", "lora.target_modules", ["all-linear", ["q"]]),
        ("lora: {layers_to_transform: [[0], [1]]}", "lora.layers_to_transform", [[0], [1]]),
        (
            "training: {training_args: {learning_rate: [1e-4, 2e-4]}}",
            "training.training_args.learning_rate",
            [1e-4, 2e-4],
        ),
        (
            "training: {sft_args: {neftune_noise_alpha: [null, 5]}}",
            "training.sft_args.neftune_noise_alpha",
            [None, 5.0],
        ),
        (
            "model: {bitsandbytes: [{load_in_4bit: true}, {load_in_8bit: true, load_in_4bit: false}]}",
            "model.bitsandbytes",
            [{"load_in_4bit": True}, {"load_in_8bit": True, "load_in_4bit": False}],
        ),
    ],
)
def test_lists_that_mean_several_values(text: str, path: str, values: list[Any]) -> None:
    draft, grid = study(text)
    assert grid == {path: values}
    assert not isinstance(get_setting(draft, path), list) or path in ("lora.target_modules", "lora.layers_to_transform")


@pytest.mark.parametrize("text", ["lora: {target_modules: [q, v]}", "lora: {layers_to_transform: [0, 1]}"])
def test_a_flat_list_of_a_list_setting_is_one_value(text: str) -> None:
    assert study(text)[1] == {}


def test_a_section_with_several_values_becomes_whole_configs() -> None:
    draft, grid = study(
        "model: {quantize: true, bitsandbytes: [{bnb_4bit_quant_type: fp4}, {load_in_8bit: true, load_in_4bit: false}]}"
    )
    first, second = (variant.config.model.bitsandbytes for variant in expand_trials(draft, grid))
    assert (first.load_in_4bit, first.bnb_4bit_quant_type) == (True, "fp4")
    assert (second.load_in_8bit, second.load_in_4bit) == (True, False)


def test_without_use_ablate_a_list_is_an_error_with_a_hint() -> None:
    draft, grid = split_grid({"lora": {"r": [8, 16]}})
    assert grid == {}
    with pytest.raises(ConfigError) as caught:
        expand_trials(draft, grid)
    assert caught.value.problems[0].path == "lora.r"
    assert "use_ablate" in caught.value.problems[0].hint


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("lora: {r: []}", "lora.r", "empty"),
        ("save_dir: [a, b]", "save_dir", "cannot have several values"),
    ],
)
def test_lists_that_cannot_be_a_study(text: str, path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(text)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert words in problem.message


def test_one_row_and_the_share_one_are_two_values() -> None:
    assert check_value_grid(on(), {"data.train_size": [0.5, 1]}) == []
    assert ablation.find_value_list_problem("data.train_size", [1, 1.0]) is None


def test_a_contradiction_names_the_affected_trials() -> None:
    draft = replace_setting(on(), "training.training_args.fp16", True)
    problems = check_value_grid(draft, {"training.training_args.bf16": [True, False], "lora.r": [8, 16]})
    assert {problem.path for problem in problems} == {"training.training_args.bf16", "training.training_args.fp16"}
    assert all("In 2 of 4 trials: bf16 on." in problem.message for problem in problems)


def test_each_value_is_checked() -> None:
    (problem,) = check_value_grid(on(), {"lora.r": [8, "abc", 16]})
    assert problem.path == "lora.r"
    assert "abc" in problem.message


def test_too_many_trials_are_rejected_before_they_are_expanded() -> None:
    grid = {"lora.r": list(range(1, 101)), "lora.lora_alpha": list(range(1, 101))}
    (problem,) = check_value_grid(on(), grid)
    assert "10,000 trials" in problem.message
    assert "500" in problem.message
    with pytest.raises(ConfigError):
        expand_trials(on(), grid)
    assert len(expand_trials(on(), {"lora.r": list(range(1, 501))})) == 500


def test_the_grid_is_ignored_while_ablation_is_off() -> None:
    (variant,) = expand_trials(default_draft(), {"lora.r": [8, 16]})
    assert variant.settings == {}
    assert variant.config.lora.r == 16


def test_splitting_does_not_change_its_input() -> None:
    raw = {**ON, "lora": {"r": [8, 16]}}
    assert split_grid(raw) == split_grid(raw)
    assert raw["lora"] == {"r": [8, 16]}


def test_an_exported_study_imports_unchanged() -> None:
    text = """
ablation: {use_ablate: true, study_name: ranks}
lora: {r: [8, 16], target_modules: [[q_proj], [q_proj, v_proj]], layers_to_transform: [0, 1]}
training: {training_args: {learning_rate: [1e-4, 2e-4]}}
"""
    first = import_settings(text)
    again = import_settings(export_settings(first.draft, first.grid))
    assert (again.draft, again.grid) == (first.draft, first.grid)


VALUES = {
    "lora.r": st.integers(1, 64),
    "lora.lora_dropout": st.floats(0, 0.9),
    "lora.target_modules": st.lists(st.sampled_from(["q_proj", "v_proj"]), min_size=1, max_size=2, unique=True),
    "training.training_args.learning_rate": st.floats(1e-8, 1),
    "training.sft_args.neftune_noise_alpha": st.none() | st.floats(0, 50),
    "data.prompt": st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20),
    "inference.use_cache": st.booleans(),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_split_grid_inverts_merge_grid(data: st.DataObject) -> None:
    paths = data.draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=3))
    grid = {path: data.draw(st.lists(VALUES[path], min_size=1, max_size=3, unique_by=repr)) for path in paths}
    draft = on()
    for path, values in grid.items():
        draft = replace_setting(draft, path, values[0])
    split_draft, split = split_grid(merge_grid(draft, grid))
    assert split_draft == draft
    assert {path: repr(values) for path, values in split.items()} == {p: repr(v) for p, v in grid.items()}
