"""The verdict on a replay: what passes, what breaks an export, and what is only a tie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RunError
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
    assert certificate.passed and not certificate.failures and certificate.drift == 0


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
    assert not certificate.passed
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
    path.write_text("{")
    with pytest.raises(RunError, match="can't be read"):
        read_certificate(path)
