"""Help-desk rows made from a seed, clean or with faults whose rows are known: for tests, benchmarks and a look."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

NAMES = ("Zoë", "José", "Anke", "Björn", "Chloé", "Dmitri", "Eva", "Farid", "Grace", "Håkon", "Imani", "Jürgen",
         "Kenji", "Lucía", "Małgorzata", "Niamh", "Olu", "Priya", "Renée", "Søren")  # fmt: skip
ITEMS = ("lamp", "bookshelf", "garden chair", "coffee grinder", "winter coat", "bicycle helmet", "wall clock",
         "keyboard", "backpack", "teapot", "carpet", "camera bag", "fountain pen", "mirror", "tent")  # fmt: skip
COLOURS = ("green", "dark blue", "crimson", "yellow", "white", "copper", "striped", "grey", "violet", "black")
TROUBLES = (
    "arrived with a crack along its side", "never came although the tracking says delivered",
    "stopped working after one week", "has the wrong size for our room", "smells of paint even after airing it",
    "lacks the screws that the manual lists", "was sent to my former address", "is not the one in the picture",
    "came twice and I paid for both", "makes a grinding noise whenever it is used",
)  # fmt: skip
WISHES = (
    "Please send a new one", "I would like my money back", "Can somebody collect it", "Tell me how to repair it",
    "I need an invoice for my employer", "Please check where it is", "Could you exchange it for another colour",
    "I want to speak to a person", "Please cancel the rest of my order", "How long will a repair take",
)  # fmt: skip
DETAILS = (
    "My neighbour saw the driver leave", "The box itself was fine", "It is a birthday present", "I am away in August",
    "The shop in town could not help", "I have kept the receipt", "Your form shows an error", "We moved in spring",
    "My son opened the parcel", "It was on sale last month", "I wrote to you before", "The label was torn",
)  # fmt: skip
REPLIES = (
    "we are sorry about that and send a replacement at no cost", "your money will be returned within a few days",
    "a driver will collect it on the day that suits you", "please loosen both screws and turn the plate around",
    "the invoice is attached to this message", "the parcel waits for you at the depot near the station",
    "we exchange it as soon as the first one is back", "a colleague will call you this afternoon",
    "the remaining part of your order has been cancelled", "a repair usually takes about ten working days",
)  # fmt: skip
CLOSINGS = (
    "Thank you for your patience", "We apologise for the trouble", "Write to us again if anything is unclear",
    "We hope that you will enjoy it after all", "A label for the way back lies in the box", "Have a good weekend",
    "You will get a message once it is on its way", "Our shop is open until seven", "Nothing more is needed from you",
)  # fmt: skip

Row = list[str]


def clean_rows(count: int, seed: int) -> list[Row]:
    """[message, reply] of `count` rows, no two of them near each other: each has its own mix of sentences."""
    rng = random.Random(seed)
    seen: set[tuple[str, ...]] = set()
    rows: list[Row] = []
    while len(rows) < count:
        name, colour, item, trouble, wish, closing = (
            rng.choice(part) for part in (NAMES, COLOURS, ITEMS, TROUBLES, WISHES, CLOSINGS)
        )
        details = rng.sample(DETAILS, 3)
        # another mix in the long parts: names, colours and things alone would be a few letters
        core = (trouble, wish, *sorted(details))
        if core in seen:
            continue
        seen.add(core)
        message = f"The {colour} {item} {trouble}. {details[0]}. {wish}. {details[1]}. {details[2]}. {name}"
        reply = f"Dear {name}, {REPLIES[WISHES.index(wish)]}. {closing}."
        rows.append([message, reply])
    return rows


def mojibake(text: str) -> str:
    """The text as it looks after UTF-8 was read as Windows-1252 or, where that has no letter, as Latin-1."""
    raw = text.encode()
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def support_csv(path: Path, seed: int = 7) -> dict[str, int]:
    """A 500-row CSV with five faults, and how many rows have each. The completion that fits is `reply`; the last column
    numbers the rows, as a wrong choice of the completion."""
    rng = random.Random(seed)
    rows = clean_rows(500, seed)
    places = rng.sample(range(250, 500), 100)
    copied, empty, garbled, long = places[:40], places[40:55], places[55:80], places[80:92]
    for place in copied:
        rows[place] = list(rows[place - 250])
    for place in empty:
        rows[place][1] = " "
    for place in garbled:
        rows[place][0] = rows[place][0].rsplit(" ", 1)[0] + " Zoë"
        rows[place] = [mojibake(cell) for cell in rows[place]]
    for place in long:
        rows[place][1] += " " + " ".join(f"{reply.capitalize()}." for reply in rng.sample(REPLIES, 10) * 2)
    write_csv(path, ("message", "product", "reply", "ticket_id"),
              [[m, rng.choice(ITEMS), r, f"T-{10_000 + 3 * at}"] for at, (m, r) in enumerate(rows)])  # fmt: skip
    return {"copied": len(copied), "empty": len(empty), "garbled": len(garbled), "long": len(long)}


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
