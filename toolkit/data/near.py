"""Near duplicates: rows that say the same with another case, punctuation or spacing, or with a few letters changed.

Two rows are near when they hold the same numbers and, case and punctuation aside, both their prompts and their answers
are at least `SIMILAR` alike (indel similarity: the share of letters that stay). MinHash (rensa) over runs of `SHINGLE`
bytes proposes pairs, rapidfuzz measures each: what is reported has been compared letter by letter. Texts shorter than
`SHORTEST` letters are compared without case and punctuation alone: "yes" and "yet" are one letter apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz import process
from rapidfuzz.distance import Indel
from rensa import RMinHash

from toolkit.data.finding import Rows
from toolkit.data.keys import groups, hash_texts
from toolkit.data.table import Table

SIMILAR = 0.95
SHINGLE = 5
SHORTEST = 20
HASHES, BAND = 64, 4
ANCHORS = 3
"""A row is compared with so many others of its bucket: buckets of alike rows can be huge."""
LIMIT = 2_000_000
"""Rows that are compared letter by letter; of more, the first so many."""
COMPARED = 4_000
"""Characters of a text that are compared: what differs only after these counts as near."""

_SEED = 42
_CHUNK = 4_096
_SEPARATOR = "\x1f"
Tell = Callable[[float], None]


@dataclass(frozen=True)
class Texts:
    """Rows (ascending) with their prompts and answers, case and punctuation taken off, and their numbers in order."""

    rows: Rows
    prompts: list[str]
    answers: list[str]
    numbers: list[str]


def near_pairs(
    table: Table, prompt: Sequence[str], answer: Sequence[str], rows: Rows, tell: Tell = lambda share: None
) -> tuple[Rows, Rows]:
    """(earlier, later): pairs of near rows among `rows` (distinct in their cells), sorted by the later, then the
    earlier. Not every pair of a large group is listed, but each of its rows has one with an earlier row."""
    texts = normal_texts(table, prompt, answer, rows[:LIMIT], lambda share: tell(share * 0.4))
    equal = _by_group(_normal_keys(texts))
    tell(0.45)
    candidates = _candidates(texts, lambda share: tell(0.45 + share * 0.35))
    similar = _measured(texts, candidates, lambda share: tell(0.8 + share * 0.2))
    pairs = np.unique(np.concatenate([equal, similar]), axis=0)
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    return texts.rows[pairs[:, 0]], texts.rows[pairs[:, 1]]


def followers(earlier: Rows, later: Rows) -> Rows:
    """The rows to leave out so that no pair is left: each follows an earlier row that stays. Ascending."""
    out: set[int] = set()
    for first, second in zip(earlier.tolist(), later.tolist(), strict=True):
        if first not in out:
            out.add(second)
    return np.array(sorted(out), dtype=np.int64)


def normal_texts(table: Table, prompt: Sequence[str], answer: Sequence[str], rows: Rows, tell: Tell) -> Texts:
    """The texts of `rows`; a missing cell counts as empty."""
    wanted = np.zeros(table.rows, dtype=bool)
    wanted[rows] = True
    names = list(dict.fromkeys([*prompt, *answer]))
    prompts, answers, numbers = list[str](), list[str](), list[str]()
    start = 0
    for batch in table.batches(names) if names else ():
        part = batch.filter(pa.array(wanted[start : start + batch.num_rows]))
        start += batch.num_rows
        prompts += _normal(_joined(part, prompt)).to_pylist()
        answers += _normal(_joined(part, answer)).to_pylist()
        digits = pc.replace_substring_regex(_joined(part, names), r"[^0-9]+", " ")
        numbers += pc.utf8_trim_whitespace(digits).to_pylist()
        tell(start / max(1, table.rows))
    return Texts(np.asarray(rows, dtype=np.int64), prompts, answers, numbers)


def _joined(part: pa.RecordBatch, columns: Sequence[str]) -> Any:
    cells = [pc.fill_null(pc.utf8_slice_codeunits(part.column(name), 0, COMPARED), "") for name in columns]
    return pc.binary_join_element_wise(*cells, " ") if cells else pa.array([""] * part.num_rows)


def _normal(texts: Any) -> Any:
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"[^\p{L}\p{N}\p{M}]+", " "))


def _normal_keys(texts: Texts) -> Rows:
    whole = zip(texts.prompts, texts.answers, texts.numbers, strict=True)
    return groups([hash_texts([_SEPARATOR.join(parts).encode() for parts in whole])], len(texts.rows))


def _by_group(keys: Rows) -> Rows:
    """(first, other) for every other member of a group: positions, shape (pairs, 2)."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(keys) else np.zeros(0, int)
    firsts = np.repeat(order[starts], np.diff(np.append(starts, len(keys))))
    other = firsts != order
    return np.column_stack([firsts[other], order[other]]).astype(np.int64)


def _candidates(texts: Texts, tell: Tell) -> Rows:
    """Pairs of positions that share a band of their MinHashes: each row with the first rows of its bucket, and with
    the one before it."""
    whole = [f"{p}{_SEPARATOR}{a}" for p, a in zip(texts.prompts, texts.answers, strict=True)]
    long = np.flatnonzero([len(text) >= SHORTEST for text in whole]).astype(np.int64)
    if long.size < 2:
        return np.zeros((0, 2), dtype=np.int64)
    bands = np.concatenate(
        [_bands([whole[i] for i in long[at : at + _CHUNK].tolist()]) for at in range(0, long.size, _CHUNK)]
    )
    found = [np.zeros((0, 2), dtype=np.int64)]
    for number in range(bands.shape[1]):
        found.append(long[_in_bucket(bands[:, number])])
        tell((number + 1) / bands.shape[1])
    pairs = np.sort(np.concatenate(found), axis=1)
    keys = np.unique(pairs[:, 0] * len(whole) + pairs[:, 1])
    return np.column_stack([keys // len(whole), keys % len(whole)])


def _in_bucket(band: np.ndarray[Any, Any]) -> Rows:
    order = np.argsort(band, kind="stable")
    ranked = band[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    sizes = np.diff(np.append(starts, len(band)))
    first = np.repeat(starts, sizes)
    at = np.arange(len(band))
    anchors = [first + step for step in range(ANCHORS)] + [at - 1]
    pairs = [np.column_stack([order[anchor[ok]], order[at[ok]]]) for anchor in anchors
             for ok in [(anchor < at) & (anchor >= first)]]  # fmt: skip
    return np.concatenate(pairs).astype(np.int64)


def _bands(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """(texts, HASHES / BAND) of uint64: equal where all hashes of a band are."""
    hashes, offsets = _shingles([text.encode() for text in texts])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, HASHES, _SEED)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(texts), -1, BAND)
    mixed = np.zeros(digests.shape[:2], dtype=np.uint64)
    for at in range(BAND):
        mixed = (mixed ^ digests[:, :, at]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _shingles(raw: Sequence[bytes]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(hashes of all runs of SHINGLE bytes, offsets of each text's): one text after the other."""
    lengths = np.array([len(text) for text in raw])
    letters = np.frombuffer(b"".join(raw), dtype=np.uint8)
    runs = len(letters) - SHINGLE + 1
    value = np.zeros(runs, dtype=np.uint64)
    for at in range(SHINGLE):
        value |= letters[at : runs + at].astype(np.uint64) << np.uint64(8 * at)
    value *= np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> np.uint64(32)
    ends = np.cumsum(lengths)
    inside = np.ones(runs, dtype=bool)
    for back in range(1, SHINGLE):  # runs that reach into the next text
        crossing = ends[:-1] - back
        inside[crossing[crossing < runs]] = False
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths - SHINGLE + 1, 0))])
    return value[inside], offsets.astype(np.uint64)


def _measured(texts: Texts, pairs: Rows, tell: Tell) -> Rows:
    """The pairs that are near, by the letters of their texts."""
    kept = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(pairs), 65_536):
        part = pairs[start : start + 65_536]
        same = np.array([texts.numbers[i] == texts.numbers[j] for i, j in part.tolist()], dtype=bool)
        for own in (texts.answers, texts.prompts):
            part = part[same]
            first, second = [own[i] for i, _ in part.tolist()], [own[j] for _, j in part.tolist()]
            same = _alike(first, second)
        kept.append(part[same])
        tell((start + 65_536) / len(pairs))
    return np.concatenate(kept)


def _alike(first: Sequence[str], second: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    scores = process.cpdist(
        first, second, scorer=Indel.normalized_similarity, score_cutoff=SIMILAR, dtype=np.float32, workers=1
    )
    return scores >= SIMILAR
