"""The parity certificate: a comparison of an export's answers to the golden prompts with the run's prompt contract.

An export passes when every check does: the same templates and special tokens, identical token ids, log-probabilities
within a stated bound, the same greedy answers. Stored as exports/<form>.certificate.json.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from toolkit.errors import RunError
from toolkit.export.prompt_contract import FrozenModel, GoldenPrompt, PromptContract, SpecialTokens
from toolkit.system.durable import durable_write

CERTIFICATE_SCHEMA = 1
DRIFT_BOUNDS = {"float32": 0.002, "float16": 0.05, "bfloat16": 0.4}
"""The largest change of one token's log-probability (nats), by the coarser of the two precisions.

Two to three times what correct exports of the demo model show (0.016 for float16, which rounds 8 times finer than
bfloat16 with 0.20); leaving one of its four layers unmerged shows 2.4.
"""
MEAN_SHARE = 0.08
"""The mean over all tokens may be this share of the bound: rounding errors scatter, a wrong weight shifts all."""
SPREAD_SHARE = {"float32": 0.001, "float16": 0.004, "bfloat16": 0.025}
"""The mean may also be at most this share of the standard deviation of the golden log-probabilities: in a model with
flat distributions a wrong weight changes little.

Measured on random Llama, Qwen2, Mistral and Gemma2 models: correct exports at most 0.0075 (bfloat16) and 0.0011
(float16); weights rounded to eight bits at least 0.037, one layer of two left unmerged at least 0.093.
"""
TIE_SHARE = 0.25
"""Answers may diverge where the likeliest token led the second by less than this share of the bound: rounding
decides there.
"""


class ReplayedPrompt(FrozenModel):
    """An export's answer to one golden prompt; the fields are those of `GoldenPrompt`."""

    prompt: str
    text: str
    ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    answer: str
    logprobs: tuple[float, ...]
    prompt_logprobs: tuple[float, ...]


class ExportReplay(FrozenModel):
    """An export as it was replayed. dtype: of its weights on the disk. precision: the one that it promises.

    adapter_precision: of the adapter's weights, "" for an export in which it is merged.
    """

    template_sha256: str
    chat_template_sha256: str | None
    special_tokens: SpecialTokens
    base_matches: bool | None  # None for an export that contains the base model's weights
    dtype: str
    precision: str
    adapter_precision: str = ""
    played: tuple[ReplayedPrompt, ...]


class ParityCheck(FrozenModel):
    """One check. detail: what was found, with the difference when it failed."""

    name: str
    passed: bool
    detail: str


class ParityRow(FrozenModel):
    """One golden prompt. drift: largest change of a log-probability (nats). got: the export's answer.

    tie: index of the answer token at which two tokens were equally likely and the answers diverge, else None.
    """

    row: int
    split: str
    ids_equal: bool
    drift: float
    answer_equal: bool
    expected: str
    got: str
    tie: int | None


class Certificate(FrozenModel):
    """The verdict on one export.

    commit: SHA-256 of the COMMIT.json that was checked. bound: allowed drift of one token (nats). made: Unix seconds.
    """

    schema_: Annotated[int, Field(alias="schema")] = CERTIFICATE_SCHEMA
    form: str
    verdict: Literal["passed", "broken"]
    checks: tuple[ParityCheck, ...]
    rows: tuple[ParityRow, ...]
    bound: float
    drift: float
    mean_drift: float
    commit: str
    made: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.verdict == "passed"

    @property
    def failures(self) -> tuple[ParityCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)


def certify_replay(contract: PromptContract, replay: ExportReplay, *, form: str, commit: str) -> Certificate:
    """Compare the replay with the contract. Raises RunError when the contract has no golden prompts."""
    if not contract.golden:
        raise RunError(
            "The contract has no golden prompts: every prompt was longer than the model's context.",
            "Shorten the prompts.",
        )
    coarser = max(
        (contract.precision, replay.precision), key=lambda name: DRIFT_BOUNDS.get(name, DRIFT_BOUNDS["bfloat16"])
    )
    bound = DRIFT_BOUNDS.get(coarser, DRIFT_BOUNDS["bfloat16"])
    rows = tuple(
        _parity_row(golden, played, bound) for golden, played in zip(contract.golden, replay.played, strict=True)
    )
    drifts = [d for pair in zip(contract.golden, replay.played, strict=True) for d in _token_drifts(*pair)]
    mean = sum(drifts) / len(drifts) if drifts else 0.0
    allowed = min(bound * MEAN_SHARE, SPREAD_SHARE.get(coarser, SPREAD_SHARE["bfloat16"]) * _logprob_spread(contract))
    drift = _drift_check(rows, (bound, allowed), coarser, mean)
    checks = (*_identity_checks(contract, replay), *_answer_checks(contract, replay, rows, drift))
    verdict: Literal["passed", "broken"] = "passed" if all(check.passed for check in checks) else "broken"
    return Certificate(
        form=form,
        verdict=verdict,
        checks=checks,
        rows=rows,
        bound=bound,
        drift=round(max(drifts, default=0.0), 6),
        mean_drift=round(mean, 6),
        commit=commit,
        made=time.time(),
    )


def certify_damaged_export(form: str, commit: str, reason: str) -> Certificate:
    """Return the verdict on an export whose files are not those that were committed; it is not loaded."""
    check = ParityCheck(name="files as committed", passed=False, detail=reason)
    return Certificate(
        form=form,
        verdict="broken",
        checks=(check,),
        rows=(),
        bound=0.0,
        drift=0.0,
        mean_drift=0.0,
        commit=commit,
        made=time.time(),
    )


def _identity_checks(contract: PromptContract, replay: ExportReplay) -> Iterator[ParityCheck]:
    yield _equality_check("prompt template", contract.template.sha256[:12], replay.template_sha256[:12])
    yield _equality_check(
        "chat template", _short_hash(contract.chat_template_sha256), _short_hash(replay.chat_template_sha256)
    )
    expected, found = contract.special_tokens.model_dump(), replay.special_tokens.model_dump()
    differing = [f"{name} {expected[name]} became {found[name]}" for name in expected if expected[name] != found[name]]
    yield ParityCheck(
        name="special tokens", passed=not differing, detail="; ".join(differing) or "BOS, EOS, pad and stops"
    )
    if replay.base_matches is not None:
        detail = "the base model of training" if replay.base_matches else "not the base model of training"
        yield ParityCheck(name="base model", passed=replay.base_matches, detail=detail)
    yield _equality_check("weights' precision", replay.precision, replay.dtype)
    if contract.adapter_precision and replay.adapter_precision:
        yield _equality_check("adapter's precision", contract.adapter_precision, replay.adapter_precision)


def _logprob_spread(contract: PromptContract) -> float:
    values = [value for golden in contract.golden for value in (*golden.prompt_logprobs, *golden.logprobs)]
    return statistics.pstdev(values) if len(values) > 1 else math.inf


def _drift_check(rows: Sequence[ParityRow], allowed: tuple[float, float], coarser: str, mean: float) -> ParityCheck:
    """Return the check of the drift. allowed: for one token, and on average (nats)."""
    largest = max(row.drift for row in rows)
    detail = f"at most {largest:.4g} of {allowed[0]:g} allowed for {coarser}, on average {mean:.3g} of {allowed[1]:.3g}"
    return ParityCheck(name="log-probability drift", passed=largest <= allowed[0] and mean <= allowed[1], detail=detail)


def _answer_checks(
    contract: PromptContract, replay: ExportReplay, rows: Sequence[ParityRow], drift: ParityCheck
) -> Iterator[ParityCheck]:
    wrong = [i for i, row in enumerate(rows) if not row.ids_equal]
    detail = f"{len(rows)} prompts, {sum(len(golden.ids) for golden in contract.golden):,} tokens"
    if wrong:
        detail = f"{len(wrong)} of {len(rows)} differ; {_first_difference(contract, replay, wrong[0])}"
    yield ParityCheck(name="token ids identical", passed=not wrong, detail=detail)
    yield drift
    unequal = [row for row in rows if not row.answer_equal]
    detail = f"{len(rows)} answers"
    if ties := [row for row in rows if row.tie is not None and row.answer_equal]:
        detail += f", {len(ties)} of them up to a tie between two tokens"
    if unequal:
        first = unequal[0]
        difference = f"{first.got[:80]!r} instead of {first.expected[:80]!r}"
        detail = f"{len(unequal)} of {len(rows)} differ; row {first.row}: {difference}"
    yield ParityCheck(name="greedy answers equal", passed=not unequal, detail=detail)


def _equality_check(name: str, expected: str, found: str) -> ParityCheck:
    detail = expected if expected == found else f"{expected} became {found}"
    return ParityCheck(name=name, passed=expected == found, detail=detail)


def _short_hash(value: str | None) -> str:
    return value[:12] if value else "none"


def _parity_row(golden: GoldenPrompt, played: ReplayedPrompt, bound: float) -> ParityRow:
    tie = _tie_position(golden, played, bound)
    equal = golden.answer_ids == played.answer_ids or tie is not None
    return ParityRow(
        row=golden.row,
        split=golden.split,
        ids_equal=golden.ids == played.ids,
        drift=max(_token_drifts(golden, played), default=0.0),
        answer_equal=equal,
        expected=golden.answer,
        got=played.answer,
        tie=tie,
    )


def _token_drifts(golden: GoldenPrompt, played: ReplayedPrompt) -> list[float]:
    before = (*golden.prompt_logprobs, *golden.logprobs)
    after = (*played.prompt_logprobs, *played.logprobs)
    return [abs(a - b) for a, b in zip(before, after, strict=False)]


def _tie_position(golden: GoldenPrompt, played: ReplayedPrompt, bound: float) -> int | None:
    """Return where the answers diverge, if the two likeliest tokens were so close there that rounding decides."""
    shared = min(len(golden.answer_ids), len(played.answer_ids))
    at = next((i for i in range(shared) if golden.answer_ids[i] != played.answer_ids[i]), None)
    return at if at is not None and golden.margins[at] < bound * TIE_SHARE else None


def _first_difference(contract: PromptContract, replay: ExportReplay, index: int) -> str:
    expected, found = contract.golden[index].ids, replay.played[index].ids
    shared = min(len(expected), len(found))
    at = next((i for i in range(shared) if expected[i] != found[i]), shared)
    here = [str(ids[at]) if at < len(ids) else "nothing" for ids in (expected, found)]
    return f"row {contract.golden[index].row}: token {at + 1} is {here[1]} instead of {here[0]}"


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write the certificate atomically. Raises OSError."""
    durable_write(path, json.dumps(certificate.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False))


def read_certificate(path: Path) -> Certificate | None:
    """Return the certificate, None when there is none. Raises RunError: damaged, or of a newer version."""
    try:
        body = json.loads(path.read_bytes())
        if int(body["schema"]) > CERTIFICATE_SCHEMA:
            raise RunError(f"{path} was written by a newer version of the toolkit.", "Update the toolkit to use it.")
        return Certificate.model_validate(body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"The certificate {path} can't be read: {reason}.", "Check the export again.") from error
