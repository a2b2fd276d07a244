"""The parity certificate: a comparison of an export's answers to the golden prompts with the run's prompt contract.

An export passes when every check does: the same templates and special tokens, identical token ids, log-probabilities
within a measured bound (`drift_bounds.py`), the same greedy answers. Stored as exports/<form>.certificate.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from toolkit.errors import RunError
from toolkit.export.drift_bounds import SAME_DRIFT, SAME_MEAN, DriftBounds, RoundingNoise, bound_drift
from toolkit.export.prompt_contract import FrozenModel, GoldenPrompt, PromptContract, SpecialTokens
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import read_foreign_json

CERTIFICATE_SCHEMA = 2
"""Schema 1 knew the verdicts "passed" and "broken" only."""
Verdict = Literal["same", "close", "different"]
"""same: equal but for the order of additions. close: as near as rounding lets a correct export be."""
VERDICT_WORDS: dict[Verdict, str] = {
    "same": "verified, the same as in training",
    "close": "verified, as close as its precision allows",
    "different": "verification failed, it differs from the trained model",
}


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

    adapter_precision: of the adapter's weights, "" for an export in which it is merged. noise: None if not measured.
    """

    template_sha256: str
    chat_template_sha256: str | None
    special_tokens: SpecialTokens
    base_matches: bool | None  # None for an export that contains the base model's weights
    dtype: str
    precision: str
    adapter_precision: str = ""
    noise: RoundingNoise | None = None
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

    compared: what was compared with what, as the begin of a sentence. commit: SHA-256 of the COMMIT.json that was
    checked. bound, mean_bound: allowed drift of one token and on average (nats). made: Unix seconds.
    """

    schema_: Annotated[int, Field(alias="schema")] = CERTIFICATE_SCHEMA
    form: str
    verdict: Verdict
    compared: str = ""
    checks: tuple[ParityCheck, ...]
    rows: tuple[ParityRow, ...]
    bound: float
    mean_bound: float = 0.0
    noise: RoundingNoise | None = None
    drift: float
    mean_drift: float
    commit: str
    made: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.verdict != "different"

    @property
    def failures(self) -> tuple[ParityCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def summary(self) -> str:
        """What was compared with what, and how far they are apart; "" if nothing was."""
        if not self.rows:
            return ""
        equal = sum(row.answer_equal for row in self.rows)
        apart = f"differs by {self.mean_drift:.2g} on average" if self.mean_drift else "is identical"
        return f"{self.compared or 'The export'} {apart}; greedy answers equal: {equal} of {len(self.rows)}"


def certify_replay(contract: PromptContract, replay: ExportReplay, *, form: str, commit: str) -> Certificate:
    """Compare the replay with the contract. Raises RunError when the contract has no golden prompts."""
    if not contract.golden:
        raise RunError(
            "The contract has no golden prompts: every prompt was longer than the model's context.",
            "Shorten the prompts.",
        )
    bounds = bound_drift(contract, replay.precision, replay.noise)
    pairs = list(zip(contract.golden, replay.played, strict=True))
    rows = tuple(_parity_row(golden, played, bounds.tie) for golden, played in pairs)
    drifts = [d for pair in pairs for d in _token_drifts(*pair)]
    largest, mean = max(drifts, default=0.0), sum(drifts) / len(drifts) if drifts else 0.0
    drift = _drift_check(largest, mean, bounds)
    checks = (*_identity_checks(contract, replay), *_answer_checks(contract, replay, rows, drift))
    equal = largest <= SAME_DRIFT and mean <= SAME_MEAN and all(row.tie is None for row in rows)
    verdict: Verdict = "same" if equal else "close"
    return Certificate(
        form=form,
        verdict=verdict if all(check.passed for check in checks) else "different",
        compared=_describe_comparison(contract, replay),
        checks=checks,
        rows=rows,
        bound=round(bounds.largest, 6),
        mean_bound=round(bounds.mean, 6),
        noise=replay.noise,
        drift=round(largest, 6),
        mean_drift=round(mean, 6),
        commit=commit,
        made=time.time(),
    )


def _describe_comparison(contract: PromptContract, replay: ExportReplay) -> str:
    base = "quantized base" if contract.quantized else f"{contract.precision} base"
    if replay.base_matches is not None:
        return f"The adapter on the {base} that it was trained on, compared with the end of training,"
    full = "full precision, " if contract.quantized else ""
    return f"The model merged into {full}{replay.precision}, compared with adapter and {base} of training,"


def certify_damaged_export(form: str, commit: str, reason: str) -> Certificate:
    """Return the verdict on an export whose files are not those that were committed; it is not loaded."""
    check = ParityCheck(name="files as committed", passed=False, detail=reason)
    return Certificate(
        form=form,
        verdict="different",
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


def _drift_check(largest: float, mean: float, bounds: DriftBounds) -> ParityCheck:
    detail = (
        f"at most {largest:.4g} of {bounds.largest:.3g} allowed, on average {mean:.3g} of {bounds.mean:.3g}; the "
        f"limits are {bounds.said}"
    )
    passed = largest <= bounds.largest and mean <= bounds.mean
    return ParityCheck(name="log-probability drift", passed=passed, detail=detail)


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


def _parity_row(golden: GoldenPrompt, played: ReplayedPrompt, tied_below: float) -> ParityRow:
    tie = _tie_position(golden, played, tied_below)
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


def _tie_position(golden: GoldenPrompt, played: ReplayedPrompt, tied_below: float) -> int | None:
    """Return where the answers diverge, if the two likeliest tokens were so close there that rounding decides."""
    shared = min(len(golden.answer_ids), len(played.answer_ids))
    at = next((i for i in range(shared) if golden.answer_ids[i] != played.answer_ids[i]), None)
    return at if at is not None and golden.margins[at] < tied_below else None


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
        body = read_foreign_json(path)
        if int(body["schema"]) > CERTIFICATE_SCHEMA:
            raise RunError(f"{path} was written by a newer version of the toolkit.", "Update the toolkit to use it.")
        if int(body["schema"]) < 2:
            near = "same" if body["drift"] <= SAME_DRIFT else "close"
            body["verdict"] = near if body["verdict"] == "passed" else "different"
        return Certificate.model_validate(body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"The certificate {path} can't be read: {reason}.", "Check the export again.") from error
