"""A corpus of seeded faults with known answers: which rows the doctor must name under each kind, and look-alikes that
it must not name. The truth is worked out here, by plain Python, from what was planted.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.fakes.faulty import CLOSINGS, NAMES, clean_rows, mojibake, write_csv

FAULTS = ("missing", "empty_answer", "duplicate", "near_duplicate", "contradiction", "mojibake", "unusual",
          "lost_letters", "long")  # fmt: skip
EXACT = ("missing", "empty_answer", "duplicate", "leak", "contradiction", "mojibake", "unusual", "lost_letters", "long")
NEAR = ("near_duplicate", "near_leak")
WHOLE = ("wrong_column", "answer_in_prompt", "constant", "imbalance", "label_variants")
UNUSUAL = ("\u200b", "\ufeff", "\x07", "\u202e", "\u2060", "\ue123", "\u00ad")
# what looks unusual and is not: emoji of several parts, scripts that join letters, spaces, typographic signs
HARMLESS = (
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647",
    "\u0915\u094d\u200d\u0937", "10\u00a0€", "“yes” – no…", "tab\tbed", "two\nlines", "Ångström", "数字", "e\u0301t",
)  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """path: a CSV with columns message and reply; truth: kind -> 0-based rows; pairs: (original, copy), near."""

    path: Path
    truth: dict[str, set[int]]
    pairs: list[tuple[int, int]]
    rows: list[list[str]]


def seeded(path: Path, rows: int, seed: int, per_fault: int) -> Corpus:
    """Write the corpus: `per_fault` rows of each of FAULTS among `rows`, look-alikes besides."""
    rng = random.Random(seed)
    table = clean_rows(rows, seed)
    places = rng.sample(range(rows // 2, rows), per_fault * len(FAULTS))
    chosen = {kind: places[at * per_fault : (at + 1) * per_fault] for at, kind in enumerate(FAULTS)}
    originals = rng.sample(range(rows // 2), 3 * per_fault)
    harmless = [row for row in range(rows // 2) if row not in set(originals)]
    for row in rng.sample(harmless, len(harmless) // 4):
        table[row][rng.randrange(2)] += " " + rng.choice(HARMLESS)
    pairs = []
    for at, row in enumerate(chosen["near_duplicate"]):
        table[row] = nearly(table[originals[at]], rng)
        pairs.append((originals[at], row))
    for at, row in enumerate(chosen["duplicate"], per_fault):
        table[row] = list(table[originals[at]])
    contradicted = originals[2 * per_fault :]
    for at, row in enumerate(chosen["contradiction"]):
        other = f"Dear {rng.choice(NAMES)}, ask somebody else. {rng.choice(CLOSINGS)}"
        table[row] = [table[contradicted[at]][0], other]
    plant(table, chosen, rng)
    unlike(table, set(places) | set(originals), rng)
    write_csv(path, ("message", "reply"), table)
    truth = {kind: set(chosen[kind]) for kind in FAULTS}
    truth["contradiction"] |= set(contradicted)
    return Corpus(path, truth, pairs, table)


def plant(table: list[list[str]], chosen: dict[str, list[int]], rng: random.Random) -> None:
    """Insert faults into single cells."""
    for row in chosen["missing"]:
        table[row][rng.randrange(2)] = ""
    for row in chosen["empty_answer"]:
        table[row][1] = rng.choice((" ", "\n", "  \t ", "\u00a0"))
    for row in chosen["mojibake"]:
        column = rng.randrange(2)
        table[row][column] = mojibake(f"{table[row][column]} {rng.choice(('Zoë', 'café', '“quoted”', 'naïve', '5 €'))}")
    for row in chosen["unusual"]:
        column = rng.randrange(2)
        cell = table[row][column]
        cut = rng.randrange(1, len(cell))
        table[row][column] = cell[:cut] + rng.choice(UNUSUAL) + cell[cut:]
    for row in chosen["lost_letters"]:
        column = rng.randrange(2)
        cell = table[row][column]
        cut = rng.randrange(1, len(cell) - 1)
        table[row][column] = cell[:cut] + "\ufffd" + cell[cut + 1 :]
    for row in chosen["long"]:
        table[row][0] = " ".join([table[row][0], *(rng.choice(CLOSINGS) for _ in range(300))])


def nearly(row: list[str], rng: random.Random) -> list[str]:
    """The row with another case, punctuation or spacing, or with one or two letters changed in a cell."""
    way = rng.randrange(5)
    message, reply = row
    if way == 0:
        return [message.upper(), reply]
    if way == 1:
        return [message.replace(". ", " – "), reply.replace(",", " ,")]
    if way == 2:
        return [message.replace(" ", "  "), reply.rstrip(".") + "!"]
    letters = list(message)
    for at in rng.sample([i for i, c in enumerate(letters) if c.isalpha()], way - 2):
        letters[at] = "x" if letters[at] != "x" else "y"
    return ["".join(letters), reply]


def unlike(table: list[list[str]], taken: set[int], rng: random.Random) -> None:
    """Rows that only look alike: the same words around another number, or with another label."""
    free = [row for row in range(len(table)) if row not in taken]
    for number, row in enumerate(rng.sample(free, min(200, len(free) // 10))):
        table[row] = [f"Please tell me when order number {1000 + number} will arrive at my house in town.",
                      f"Order number {1000 + number} is on its way and arrives soon."]  # fmt: skip


def leaks(corpus: Corpus, train: np.ndarray, test: np.ndarray) -> dict[str, set[int]]:
    """The rows that stand on both sides of a split, exactly and nearly, from what was planted."""
    trained = {tuple(corpus.rows[row]) for row in train.tolist()}
    exact = {row for row in test.tolist() if tuple(corpus.rows[row]) in trained}
    side = dict.fromkeys(train.tolist(), "train") | dict.fromkeys(test.tolist(), "test")
    near = set()
    for first, second in corpus.pairs:
        if {side.get(first), side.get(second)} == {"train", "test"}:
            near.add(first if side[first] == "test" else second)
    return {"leak": exact, "near_leak": near}


def small(kind: str, faulty: bool, seed: int, path: Path) -> dict[str, str]:
    """Write a small dataset with or without a fault of the whole table; returns the data section's templates."""
    rng = random.Random(seed)
    rows = clean_rows(80, seed)
    labels = ["refund", "repair", "question"]
    shares = [60, 16, 4] if faulty and kind == "imbalance" else [30, 28, 22]
    label = [name for name, times in zip(labels, shares, strict=True) for _ in range(times)]
    rng.shuffle(label)
    if kind == "label_variants":
        label = misspelled(label, rng) if faulty else alike(label, rng)
    constant = faulty and kind == "constant"
    lines = [
        [f"C-{100 + 7 * at}", message, reply, tag, "shop" if constant else rng.choice(("shop", "phone"))]
        for at, ((message, reply), tag) in enumerate(zip(rows, label, strict=True))
    ]
    write_csv(path, ("case_no", "message", "reply", "label", "channel"), lines)
    prompt, stub = "{message}", "{reply}"
    if kind in ("imbalance", "label_variants"):
        stub = "{label}"
    elif kind == "constant":
        prompt = "{channel}: {message}"
    elif faulty and kind == "wrong_column":
        prompt, stub = rng.choice((("{message}", "Case {case_no}"), ("{case_no}", "{reply}")))
    elif faulty:
        prompt = "{message} {reply}"
    return {"prompt": prompt, "prompt_stub": stub}


def misspelled(labels: list[str], rng: random.Random) -> list[str]:
    """A few cells of one label in another spelling."""
    label = rng.choice(labels)
    ways = (
        label.upper(), label.capitalize(), f"{label}\u00a0", f"  {label}", f"{label}\u200b", label[:2] + label[3:],
        label[:3] + label[4] + label[3] + label[5:], "".join(chr(ord(c) + 0xFEE0) for c in label),
    )  # fmt: skip
    other = rng.choice(ways)
    places = rng.sample([at for at, each in enumerate(labels) if each == label], 3)
    return [other if at in places else each for at, each in enumerate(labels)]


LOOK_ALIKES = (
    ("plan 1", "plan 2", "plan 3"), ("legal", "illegal", "unclear"), ("typical", "atypical", "unknown"),
    ("increase", "decrease", "the same"), ("C", "C++", "C#"), ("-1", "1", "0"), ("cat", "car", "cart"),
    ("Iran", "Iraq", "Ireland"), ("hypertension", "hypotension", "none"), ("inbound", "outbound", "unbound"),
    ("A+", "A", "A-"), ("v1.0", "v1.1", "v11"), ("café", "cargo", "cab"), ("martial", "marital", "neither"),
)  # fmt: skip


def alike(labels: list[str], rng: random.Random) -> list[str]:
    """Other labels in place of the labels: ones that look alike and are different."""
    return list(map(dict(zip(dict.fromkeys(labels), rng.choice(LOOK_ALIKES), strict=True)).__getitem__, labels))


def score(found: set[int], truth: set[int]) -> tuple[float, float]:
    """Return (precision, recall); 1 where there was nothing to find, or nothing was found."""
    hit = len(found & truth)
    return (hit / len(found) if found else 1.0), (hit / len(truth) if truth else 1.0)


def totals() -> defaultdict[str, list[int]]:
    """Return [hits, found, true] by kind."""
    return defaultdict(lambda: [0, 0, 0])
