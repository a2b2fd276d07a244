"""Typed text becomes the value of a setting, and text that cannot be parsed is kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import ConfigError
from toolkit.settings import import_export
from toolkit.settings.field_spec import FieldSpec, field_specs_by_path
from toolkit.settings.typed_text import (
    LIBRARY_DEFAULT,
    format_field_text,
    format_one_of_several,
    format_several_values,
    format_short_number,
    normalize_text,
    parse_field_text,
    parse_indexes,
    parse_one_of_several,
    parse_several_values,
    summarize_value,
)

RATE, RANK = "training.training_args.learning_rate", "lora.r"
SIZE, NOISE = "data.train_size", "training.sft_args.neftune_noise_alpha"


def spec(path: str) -> FieldSpec:
    return field_specs_by_path()[path]


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        (RATE, "2e-4", 2e-4),
        (RATE, " .5 ", 0.5),
        (RATE, "1", 1.0),
        (RATE, "", None),
        (RATE, "fast", "fast"),
        (RATE, "nan", "nan"),
        (RATE, "1e999", "1e999"),
        (RATE, "0,5", "0,5"),
        (RANK, "16", 16),
        (RANK, "-3", -3),
        (RANK, "1.5", "1.5"),
        (RANK, "", None),
        (RANK, "1_000", "1_000"),
        ("data.train_test_split_seed", "", ""),
        (SIZE, "0.8", 0.8),
        (SIZE, "80", 80),
        (SIZE, "80%", 0.8),
        (SIZE, "1", 1),
        (SIZE, "1.0", 1.0),
        (SIZE, "", None),
        ("model.hf_model_ckpt", "", None),
        ("data.prompt", "", ""),
        ("data.prompt", " {x}\n", " {x}\n"),
        ("lora.target_modules", "q_proj, v_proj", ["q_proj", "v_proj"]),
        ("lora.layers_to_transform", "0-2 5 x", [0, 1, 2, 5, "x"]),
        ("model.quantize", "On", True),
        ("model.quantize", "false", False),
        ("model.quantize", "maybe", "maybe"),
    ],
)
def test_parse(path: str, text: str, value: Any) -> None:
    parsed = parse_field_text(spec(path), text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e-4, "2e-4"),
        (5e-5, "5e-5"),
        (1.25e-5, "1.25e-5"),
        (0.005, "0.005"),
        (1.0, "1"),
        (0.0, "0"),
        (6.0, "6"),
        (1e9, "1e9"),
        (-3e-4, "-3e-4"),
    ],
)
def test_numbers_are_short_and_readable(value: float, text: str) -> None:
    assert format_short_number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_every_digit(value: float) -> None:
    assert parse_field_text(spec(RATE), format_field_text(spec(RATE), value)) == value


@given(st.floats(0.001, 0.999) | st.integers(1, 10**9) | st.just(1.0))
def test_shares_stay_shares_and_counts_stay_counts(value: float) -> None:
    back = parse_field_text(spec(SIZE), format_field_text(spec(SIZE), value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "values"),
    [
        (RANK, "8, 16 32;64", [8, 16, 32, 64]),
        (RANK, "8, abc,", [8, "abc"]),
        (NOISE, "none, 5", [None, 5.0]),
        (SIZE, "0.5, 100", [0.5, 100]),
        ("lora.target_modules", "q_proj, v_proj\nall-linear\n", [["q_proj", "v_proj"], ["all-linear"]]),
        ("lora.layers_to_transform", "0-1\n3\nnone", [[0, 1], [3], None]),
        ("data.prompt", "a {x}\n---\nb\n\n{x}", ["a {x}", "b\n\n{x}"]),
        (RANK, "", []),
    ],
)
def test_several_values_in_one_box(path: str, text: str, values: list[Any]) -> None:
    assert parse_several_values(spec(path), text) == values
    assert parse_several_values(spec(path), format_several_values(spec(path), values)) == values


def test_none_is_a_value_where_the_setting_has_that_value() -> None:
    bias = spec("lora.bias")
    assert parse_one_of_several(bias, "none") == "none"
    assert parse_one_of_several(bias, LIBRARY_DEFAULT) is None
    assert format_one_of_several(bias, None) == LIBRARY_DEFAULT
    assert parse_one_of_several(bias, format_one_of_several(bias, "none")) == "none"


def test_values_are_summarized_in_one_line() -> None:
    assert summarize_value(spec(RANK), None) == LIBRARY_DEFAULT
    assert summarize_value(spec("data.prompt"), "") == "empty"
    assert summarize_value(spec("data.prompt"), "a\nb") == "a b"
    assert summarize_value(spec("model.quantize"), True) == "on"
    assert len(summarize_value(spec("data.prompt"), "x" * 500)) == 48


def test_values_from_a_file_get_the_type_of_the_setting() -> None:
    assert normalize_text(spec(RATE), "1e-4") == 1e-4
    assert normalize_text(spec(RATE), 1) == 1.0
    assert type(normalize_text(spec(RATE), 1)) is float
    assert normalize_text(spec(SIZE), 1) == 1
    assert normalize_text(spec("data.prompt"), "1e-4") == "1e-4"
    assert normalize_text(spec(RANK), [8]) == [8]


def test_layer_indexes_keep_words_that_are_not_numbers() -> None:
    assert parse_indexes(["3-1", "2", ""]) == ["3-1", 2]


def test_a_number_beyond_the_range_of_floats_is_rejected_with_a_message() -> None:
    text = "ablation: {use_ablate: true}\ntraining: {training_args: {learning_rate: [1" + "0" * 400 + ", 1e-3]}}"
    with pytest.raises(ConfigError, match="number"):
        import_export.import_settings(text)


def test_several_shares_may_have_a_space_before_the_percent_sign() -> None:
    assert parse_several_values(field_specs_by_path()["data.train_size"], "80 %, 70%; 60") == [0.8, 0.7, 60]
