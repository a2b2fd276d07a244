"""Near duplicates: rows that differ only in case, punctuation or spacing, or in a few characters.

Two rows are near if they contain the same numbers and, apart from case and punctuation, both their prompts and their
answers have an indel similarity (the share of characters that stay) of at least MIN_SIMILARITY. MinHash (rensa) over
runs of SHINGLE_BYTES bytes proposes pairs, and rapidfuzz measures each of them. Texts shorter than MIN_FUZZY_CHARACTERS
must be equal apart from case and punctuation, because "yes" and "yet" are one character apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz import process
from rapidfuzz.distance import Indel
from rensa import RMinHash

from toolkit.data.doctor.row_keys import Hashes, hash_texts, number_groups
from toolkit.data.progress import ShareReporter
from toolkit.data.table import RowNumbers, Table

MIN_SIMILARITY = 0.95
SHINGLE_BYTES = 5
MIN_FUZZY_CHARACTERS = 20
MINHASH_SIZE, MINHASH_BAND_SIZE = 64, 4
ROWS_COMPARED_PER_BUCKET = 3
"""Rows of its bucket that a row is compared with: buckets of similar rows can be huge."""
MAX_COMPARED_ROWS = 2_000_000
"""Rows that are compared; of a larger table only this many at its start."""
MAX_COMPARED_CHARACTERS = 4_000
"""Characters of a text that are compared; texts that differ only after these count as near."""

_SEED = 42
_CHUNK = 1_024
_PAIRS_PER_BATCH = 32_768
_RELEASE_MEMORY_ROWS = 100_000
"""Rows after which unused memory is returned to the system."""
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Sketches:
    """What is stored about each of `rows` (ascending). keys: hashes of the normalized text.

    long: positions of the texts that are long enough for a MinHash; bands: the bands of these MinHashes.
    """

    rows: RowNumbers
    keys: Hashes
    long: RowNumbers
    bands: np.ndarray[Any, np.dtype[np.uint32]]


def find_near_pairs(
    table: Table,
    prompt: Sequence[str],
    answer: Sequence[str],
    rows: RowNumbers,
    report_share: ShareReporter = lambda share: None,
) -> tuple[RowNumbers, RowNumbers]:
    """Return (earlier, later): pairs of near rows among `rows`, sorted by the later, then by the earlier row.

    `rows` are ascending and distinct in their cells. Of a large group not every pair is listed, but each of its rows
    has a pair with an earlier row.
    """
    rows = rows[:MAX_COMPARED_ROWS]
    sketches = _sketch_rows(table, prompt, answer, rows, lambda share: report_share(share * 0.7))
    equal = _group_pairs(number_groups([sketches.keys], len(rows)))
    candidates = _candidate_pairs(sketches)
    report_share(0.75)
    similar = _similar_pairs(table, prompt, answer, rows, candidates, lambda share: report_share(0.75 + share * 0.25))
    pairs = np.unique(np.concatenate([equal, similar]), axis=0)
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    return rows[pairs[:, 0]], rows[pairs[:, 1]]


def choose_rows_to_drop(earlier: RowNumbers, later: RowNumbers) -> RowNumbers:
    """Return the rows to remove, ascending, so that no pair remains; each is near an earlier row that stays."""
    dropped: set[int] = set()
    for first, second in zip(earlier.tolist(), later.tolist(), strict=True):
        if first not in dropped:
            dropped.add(second)
    return np.array(sorted(dropped), dtype=np.int64)


def _sketch_rows(
    table: Table, prompt: Sequence[str], answer: Sequence[str], rows: RowNumbers, report_share: ShareReporter
) -> Sketches:
    # arrays of full size, filled batch by batch: concatenating pieces would need twice the memory
    keys = np.empty((len(rows), 2), dtype=np.uint64)
    bands = np.empty((len(rows), MINHASH_SIZE // MINHASH_BAND_SIZE), dtype=np.uint32)
    long = np.empty(len(rows), dtype=np.int64)
    done = filled = 0
    for part in _normal_texts(table, prompt, answer, rows):
        prompts, answers, numbers = (part.column(at).to_pylist() for at in range(3))
        texts = [f"{p}{_SEPARATOR}{a}" for p, a in zip(prompts, answers, strict=True)]
        texts_with_numbers = [f"{text}{_SEPARATOR}{n}".encode() for text, n in zip(texts, numbers, strict=True)]
        keys[done : done + len(texts)] = hash_texts(texts_with_numbers)
        long_enough = [at for at, text in enumerate(texts) if len(text) >= MIN_FUZZY_CHARACTERS]
        if long_enough:
            end = filled + len(long_enough)
            long[filled:end] = np.array(long_enough, dtype=np.int64) + done
            bands[filled:end] = _bands([texts[at] for at in long_enough])
            filled = end
        done += len(texts)
        if done % _RELEASE_MEMORY_ROWS < len(texts):
            pa.default_memory_pool().release_unused()
        report_share(done / max(1, len(rows)))
    return Sketches(rows, keys, long[:filled], bands[:filled])


def _normal_texts(
    table: Table, prompt: Sequence[str], answer: Sequence[str], rows: RowNumbers
) -> Iterator[pa.RecordBatch]:
    """Yield the columns prompt, answer and numbers of `rows` (ascending) in batches; a missing cell counts as empty."""
    is_included = np.zeros(table.rows, dtype=bool)
    is_included[rows] = True
    names = list(dict.fromkeys([*prompt, *answer]))
    start = 0
    for batch in table.batches(names, _CHUNK) if names else ():
        mask = is_included[start : start + batch.num_rows]
        start += batch.num_rows
        if not mask.any():
            continue
        part = batch.filter(pa.array(mask))
        digits = pc.utf8_trim_whitespace(pc.replace_substring_regex(_join_columns(part, names), r"[^0-9]+", " "))
        columns = [_normalize_texts(_join_columns(part, prompt)), _normalize_texts(_join_columns(part, answer)), digits]
        yield pa.record_batch(columns, names=["prompt", "answer", "numbers"])


def _join_columns(part: pa.RecordBatch, columns: Sequence[str]) -> Any:
    cells = [
        pc.fill_null(pc.utf8_slice_codeunits(part.column(name), 0, MAX_COMPARED_CHARACTERS), "") for name in columns
    ]
    return pc.binary_join_element_wise(*cells, " ") if cells else pa.array([""] * part.num_rows)


def _normalize_texts(texts: Any) -> Any:
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"[^\p{L}\p{N}\p{M}]+", " "))


def _group_pairs(keys: RowNumbers) -> RowNumbers:
    """Return (first, other) for every other member of a group of equal keys: positions, shape (pairs, 2)."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(keys) else np.zeros(0, int)
    firsts = np.repeat(order[starts], np.diff(np.append(starts, len(keys))))
    other = firsts != order
    return np.column_stack([firsts[other], order[other]]).astype(np.int64)


def _candidate_pairs(sketches: Sketches) -> RowNumbers:
    """Return pairs of positions that share a band of their MinHashes, shape (pairs, 2).

    Each row is paired with the first rows of its bucket and with the one before it.
    """
    bands, long, total = sketches.bands, sketches.long, len(sketches.rows)
    keys = np.zeros(0, dtype=np.int64)
    for number in range(bands.shape[1] if long.size > 1 else 0):
        pairs = np.sort(long[_bucket_pairs(bands[:, number])], axis=1)
        keys = np.unique(np.concatenate([keys, pairs[:, 0] * total + pairs[:, 1]]))
    return np.column_stack([keys // max(total, 1), keys % max(total, 1)])


def _bucket_pairs(band: np.ndarray[Any, Any]) -> RowNumbers:
    order = np.argsort(band, kind="stable")
    ranked = band[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    sizes = np.diff(np.append(starts, len(band)))
    shared = sizes > 1  # nearly every row is alone in its bucket
    order, sizes = order[np.repeat(shared, sizes)], sizes[shared]
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    at = np.arange(len(order))
    anchors = [first + step for step in range(ROWS_COMPARED_PER_BUCKET)] + [at - 1]
    pairs = []
    for anchor in anchors:
        is_pair = (anchor < at) & (anchor >= first)
        pairs.append(np.column_stack([order[anchor[is_pair]], order[at[is_pair]]]))
    return np.concatenate(pairs).astype(np.int64)


def _bands(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return the mixed bands of each text's MinHash: uint32, shape (texts, MINHASH_SIZE / MINHASH_BAND_SIZE).

    Two are equal if all hashes of the band are, and by chance once in billions.
    """
    hashes, offsets = _shingles([text.encode() for text in texts])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, MINHASH_SIZE, _SEED)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(texts), -1, MINHASH_BAND_SIZE)
    mixed = np.zeros(digests.shape[:2], dtype=np.uint64)
    for at in range(MINHASH_BAND_SIZE):
        mixed = (mixed ^ digests[:, :, at]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _shingles(raw: Sequence[bytes]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (hashes of all runs of SHINGLE_BYTES bytes, text after text; offsets of each text's first hash)."""
    lengths = np.array([len(text) for text in raw])
    letters = np.frombuffer(b"".join(raw), dtype=np.uint8)
    runs = len(letters) - SHINGLE_BYTES + 1
    value = np.zeros(runs, dtype=np.uint64)
    for at in range(SHINGLE_BYTES):
        value |= letters[at : runs + at].astype(np.uint64) << np.uint64(8 * at)
    value *= np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> np.uint64(32)
    ends = np.cumsum(lengths)
    inside = np.ones(runs, dtype=bool)
    for back in range(1, SHINGLE_BYTES):  # exclude runs that reach into the next text
        crossing = ends[:-1] - back
        inside[crossing[crossing < runs]] = False
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths - SHINGLE_BYTES + 1, 0))])
    return value[inside], offsets.astype(np.uint64)


def _similar_pairs(
    table: Table,
    prompt: Sequence[str],
    answer: Sequence[str],
    rows: RowNumbers,
    pairs: RowNumbers,
    report_share: ShareReporter,
) -> RowNumbers:
    """Return those of `pairs` (positions in `rows`) whose texts are near when compared character by character."""
    kept = [np.zeros((0, 2), dtype=np.int64)]
    if not len(pairs):
        return kept[0]
    involved = np.unique(pairs)
    texts = pa.Table.from_batches(_normal_texts(table, prompt, answer, rows[involved]))
    for start in range(0, len(pairs), _PAIRS_PER_BATCH):
        part = pairs[start : start + _PAIRS_PER_BATCH]
        for column in ("numbers", "answer", "prompt"):
            first, second = (
                texts[column].take(pa.array(np.searchsorted(involved, part[:, side]))).to_pylist() for side in (0, 1)
            )
            same = _are_equal(first, second) if column == "numbers" else _are_similar(first, second)
            part = part[same]
        kept.append(part)
        report_share(min(1.0, (start + _PAIRS_PER_BATCH) / len(pairs)))
    return np.concatenate(kept)


def _are_equal(first: Sequence[str], second: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array([one == other for one, other in zip(first, second, strict=True)], dtype=bool)


def _are_similar(first: Sequence[str], second: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    scores = process.cpdist(
        first, second, scorer=Indel.normalized_similarity, score_cutoff=MIN_SIMILARITY, dtype=np.float32, workers=1
    )
    return scores >= MIN_SIMILARITY
