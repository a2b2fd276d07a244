"""The verdict on a replay: what passes, what breaks an export, and what is only a tie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RunError
from toolkit.export.drift_bounds import RoundingNoise, measure_rounding_noise
from toolkit.export.parity_certificate import (
    Certificate,
    ExportReplay,
    ReplayedPrompt,
    certify_replay,
    read_certificate,
    write_certificate,
)
from toolkit.export.prompt_contract import BaseIdentity, GoldenPrompt, PromptContract, PromptTemplates, SpecialTokens

SPECIAL = SpecialTokens(bos=1, eos=2, pad=2, stops=(2,), bos_added=True, eos_added=False)
GOLDEN = GoldenPrompt(
    row=7, split="test", cells={"q": "a"}, prompt="a", text="a", expected="b", ids=(1, 5, 6), answer_ids=(8, 9, 2),
    answer="b", logprobs=(-0.1, -0.2, -0.3), margins=(3.0, 0.001, 2.0), prompt_logprobs=(-4.0, -5.0),
)  # fmt: skip


def contract(**changed: Any) -> PromptContract:
    fields: dict[str, Any] = {
        "run": "r", "template": PromptTemplates(prompt="{q}", completion="{a}", sha256="t"), "chat": False,
        "chat_template_sha256": None, "special_tokens": SPECIAL, "generation": {}, "versions": {},
        "base": BaseIdentity(name="m", config_sha256="c", weights_sha256="w"), "precision": "float32",
        "quantized": False, "golden": (GOLDEN,) * 4,
    }  # fmt: skip
    return PromptContract(**{**fields, **changed})


def replay(played: dict[str, Any] | None = None, **changed: Any) -> ExportReplay:
    shared = {name: getattr(GOLDEN, name) for name in ReplayedPrompt.model_fields}
    one = ReplayedPrompt(**{**shared, **(played or {})})
    fields: dict[str, Any] = {
        "template_sha256": "t", "chat_template_sha256": None, "special_tokens": SPECIAL, "base_matches": True,
        "dtype": "float32", "precision": "float32", "played": (one,) * 4,
    }  # fmt: skip
    return ExportReplay(**{**fields, **changed})


def verdict(found: ExportReplay) -> Certificate:
    return certify_replay(contract(), found, form="adapter", commit="c")


def test_an_identical_replay_passes() -> None:
    certificate = verdict(replay())
    assert certificate.verdict == "same" and not certificate.failures and certificate.drift == 0
    assert certificate.summary == (
        "The adapter on the float32 base that it was trained on, compared with the end of training, is identical; "
        "greedy answers equal: 4 of 4"
    )


@pytest.mark.parametrize(
    ("found", "name", "says"),
    [
        (replay(template_sha256="x"), "prompt template", "t became x"),
        (replay(chat_template_sha256="x"), "chat template", "none became x"),
        (replay(special_tokens=SPECIAL.model_copy(update={"bos_added": False})), "special tokens", "bos_added True"),
        (replay(base_matches=False), "base model", "not the base model of training"),
        (replay(dtype="bfloat16"), "weights' precision", "float32 became bfloat16"),
        (replay({"ids": (5, 6)}), "token ids identical", "token 1 is 5 instead of 1"),
        (replay({"ids": (1, 5, 6, 4)}), "token ids identical", "token 4 is 4 instead of nothing"),
        (replay({"logprobs": (-0.1, -0.2, -0.31)}), "log-probability drift", "at most 0.01 of 0.002"),
        (replay({"prompt_logprobs": (-4.0015, -5.0015)}), "log-probability drift", "on average"),
        (replay({"answer_ids": (7, 9, 2), "answer": "c"}), "greedy answers equal", "'c' instead of 'b'"),
        (replay({"answer_ids": (8,)}), "greedy answers equal", "4 of 4 differ"),
    ],
)
def test_each_difference_breaks_the_export_and_is_named(found: ExportReplay, name: str, says: str) -> None:
    certificate = verdict(found)
    assert certificate.verdict == "different" and not certificate.passed
    assert [check.name for check in certificate.failures] == [name]
    assert says in certificate.failures[0].detail


def test_flat_distributions_allow_less_drift() -> None:
    """The same drift is harmless when log-probabilities differ by whole nats, and a wrong weight when by tenths."""
    flat = GOLDEN.model_copy(update={"logprobs": (-5.0, -5.1, -5.2), "prompt_logprobs": (-5.0, -5.1)})
    for golden, passes in ((GOLDEN, True), (flat, False)):
        moved = {
            "logprobs": tuple(value - 0.02 for value in golden.logprobs),
            "prompt_logprobs": golden.prompt_logprobs,
        }
        held = contract(precision="bfloat16", golden=(golden,) * 4)
        found = certify_replay(
            held, replay(moved, dtype="bfloat16", precision="bfloat16"), form="merged-bf16", commit="c"
        )
        assert found.passed is passes, [check.detail for check in found.checks]


def merged(noise: RoundingNoise | None, drift: float, **played: Any) -> Certificate:
    """Return the verdict on a model merged from 4 bits, all of whose log-probabilities moved by `drift`."""
    moved = {name: tuple(value - drift for value in getattr(GOLDEN, name)) for name in ("logprobs", "prompt_logprobs")}
    found = replay({**moved, **played}, dtype="bfloat16", precision="bfloat16", base_matches=None, noise=noise)
    return certify_replay(contract(quantized=True), found, form="merged-bf16", commit="c")


def test_a_merge_is_judged_by_what_rounding_does_to_this_model() -> None:
    """A 135 M model in bf16 moves by 0.7 on single tokens, a tiny one by 0.01: one bound for both fits neither."""
    assert not merged(None, 0.1).passed, "without a measurement, what is usual applies"
    noisy, quiet = RoundingNoise(largest=0.7, mean=0.08), RoundingNoise(largest=0.02, mean=0.004)
    found = merged(noisy, 0.1)
    assert found.verdict == "close" and found.noise == noisy and found.bound == 4.2 and found.mean_bound == 0.16
    assert "differs by 0.1 on average; greedy answers equal: 4 of 4" in found.summary
    assert "merged into full precision, bfloat16, compared with adapter and quantized base" in found.summary
    assert merged(noisy, 0.2).verdict == "different", "every token moved by more than twice the mean noise"
    assert [check.name for check in merged(quiet, 0.02).failures] == ["log-probability drift"]
    assert merged(noisy, 0.0).verdict == "same"
    assert merged(noisy, 0.0, answer_ids=(8, 4, 4)).verdict == "close", "it diverges where two tokens tie"
    assert merged(noisy, 0.1, answer_ids=(7, 9, 2)).verdict == "different", "where the lead was 3 nats"
    routed = noisy.model_copy(update={"answers": 0.8})
    assert merged(routed, 0.1, answer_ids=(7, 9, 2)).verdict == "close", "rounding moves answers by nearly as much"


def test_the_noise_has_the_rounding_of_training_and_of_the_export() -> None:
    exact = tuple(value + 0.01 for value in (*GOLDEN.prompt_logprobs, *GOLDEN.logprobs))
    rounded = tuple(value - 0.02 for value in exact)
    noise = measure_rounding_noise(contract(), [exact] * 4, [rounded] * 4)
    assert noise == RoundingNoise(largest=0.03, mean=0.03, answers=0.03)


def test_a_tie_between_two_tokens_is_not_a_difference() -> None:
    certificate = certify_replay(contract(), replay({"answer_ids": (8, 4, 4)}), form="adapter", commit="c")
    assert not certificate.passed, "in float32 a lead of 0.001 is no tie"
    coarse = replay({"answer_ids": (8, 4, 4)}, precision="bfloat16", dtype="bfloat16")
    certificate = certify_replay(contract(), coarse, form="merged-bf16", commit="c")
    assert certificate.passed and certificate.rows[0].tie == 1 and "tie" in certificate.checks[-1].detail


def test_without_golden_prompts_there_is_no_verdict() -> None:
    with pytest.raises(RunError, match="no golden prompt"):
        certify_replay(contract(golden=()), replay(played=None), form="adapter", commit="c")


def test_a_certificate_is_read_as_written_and_a_damaged_one_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "adapter.certificate.json"
    assert read_certificate(path) is None
    certificate = verdict(replay())
    write_certificate(path, certificate)
    assert read_certificate(path) == certificate
    old = certificate.model_dump(mode="json", by_alias=True)
    for written, drift, expected in (("passed", 0.0, "same"), ("passed", 0.2, "close"), ("broken", 0.9, "different")):
        path.write_text(json.dumps({**old, "schema": 1, "verdict": written, "drift": drift}))
        found = read_certificate(path)
        assert found is not None and found.verdict == expected, "written by an earlier version"
    path.write_text("{")
    with pytest.raises(RunError, match="can't be read"):
        read_certificate(path)
