"""The two sample datasets, made from a seed: `python -m toolkit.demo_data.samples FOLDER` always writes the same bytes.

`orders` asks for a JSON answer with words copied from a message, `tickets` for one of six categories. The last sentence
forms of each kind are not in the files: test rows made from them measure whether a fine-tuned model has learned the
task or only the sentences.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from random import Random

from toolkit.demo_data.sample_forms import (
    CLOSERS,
    FURTHER_ORDER_FORMS,
    OPENERS,
    ORDER_FORMS,
    TICKET_FORMS,
    UNSEEN_ORDER_FORMS,
)
from toolkit.demo_data.words import listed

Row = dict[str, str]

FIRST = listed(
    "Anna Ben Carla David Elena Felix Grace Hugo Ines Jonas Karin Liam Maria Noah Olga Peter Rosa Simon Tara Victor "
    "Wendy Yusuf Zoe Amir Bianca Chen Diego Emma Fatima George Hana Ivan Julia Kofi Leila Marco Nadia Oscar Priya "
    "Quentin Ruth Sofia Tomas Uma Vera William Ximena Yara Zane Aisha Bruno Clara Dmitri Esther Farid Greta Henry "
    "Irene Jamal Keiko"
)
LAST = listed(
    "Smith Garcia Müller Rossi Novak Silva Kowalski Jensen Okafor Patel Nguyen Tanaka Haddad Cohen Larsen Murphy "
    "Dubois Schmidt Lopez Ivanova Brown Taylor Mensah Kaya Popescu Horvath Santos Costa Weber Fischer Moreau "
    "Bianchi Andersson Virtanen Kim Singh Khan Ali Suzuki Wang Lindqvist Baker Turner Walsh Reyes Castro Mendes "
    "Petrov Duarte Keller Vogel"
)
SYLLABLES = listed(
    "ba bel bri cor da del dro e el fa fen gal gri ha hol i jor ka kel kri la lin lo lun ma mer mo na nim o or pa "
    "pel qua ra ri ru sa sel shi ta tem tor u ul va ven vi wex xan ya yor za zel zu"
)
ITEMS = listed(
    "mug/mugs lamp/lamps chair/chairs notebook/notebooks towel/towels candle/candles blanket/blankets "
    "bottle/bottles plate/plates basket/baskets pillow/pillows umbrella/umbrellas backpack/backpacks teapot/teapots "
    "clock/clocks vase/vases cushion/cushions bowl/bowls glove/gloves poster/posters mirror/mirrors spoon/spoons "
    "kettle/kettles rug/rugs headset/headsets keyboard/keyboards cable/cables tent/tents bench/benches box/boxes"
)
KINDS = listed("red blue green black white yellow small large wooden silver round striped")
CITIES = listed("Lisbon Oslo Vienna Dublin Boston Toronto Madrid Prague Sydney Geneva")
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

UNSEEN_PER_CATEGORY = 3
"""Sentence forms at the end of each category that are kept for unseen tickets."""


def invented_name(rng: Random) -> str:
    """Return two capitalized words of random syllables, such as `Zelmo Quatorin`."""
    return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))).capitalize() for _ in range(2))


def listed_name(rng: Random) -> str:
    """Return a first and a last name from the lists, or one time in ten the first name alone."""
    first, last = rng.choice(FIRST), rng.choice(LAST)
    return first if rng.random() < 0.1 else f"{first} {last}"


def strange_name(rng: Random) -> str:
    """Return two capitalized words of random letters, such as `Huvgot Ylbiru`."""
    consonants, vowels = "bcdfghjklmnpqrstvwxz", "aeiouy"
    parts = [
        "".join(rng.choice(consonants if (i + shift) % 2 else vowels) for i in range(rng.randint(4, 8)))
        for shift in (rng.randint(0, 1), rng.randint(0, 1))
    ]
    return " ".join(part.capitalize() for part in parts)


def order(rng: Random, form: str, name: str) -> Row:
    """Return an order message and the JSON text of its name, its item as written, and its quantity."""
    quantity = rng.choice((rng.randint(2, 9), rng.randint(10, 99), rng.randint(10, 250)))
    item = rng.choice(ITEMS).split("/")[1]
    if rng.random() < 0.4:
        item = f"{rng.choice(KINDS)} {item}"
    facts = {"name": name, "item": item, "quantity": quantity}
    message = form.format(**facts, city=rng.choice(CITIES), day=rng.choice(DAYS))
    return {"message": message, "answer": json.dumps(facts, ensure_ascii=False)}


def decorated(rng: Random, form: str) -> str:
    """Return the form, sometimes with a sentence before or after it, so that not every capital letter starts a name."""
    before = f"{rng.choice(OPENERS)} " if rng.random() < 0.25 else ""
    after = f" {rng.choice(CLOSERS)}" if rng.random() < 0.25 else ""
    return before + form + after


def orders(count: int = 640, seed: int = 13) -> list[Row]:
    """Return the rows of `orders.csv`. Half of the names are invented, so that the model must copy and not guess."""
    rng = Random(seed)
    return [
        order(rng, decorated(rng, ORDER_FORMS[i % len(ORDER_FORMS)]), rng.choice((listed_name, invented_name))(rng))
        for i in rng.sample(range(count), count)
    ]


def orders_in_unseen_forms(count: int, seed: int = 14, *, further: bool = False) -> list[Row]:
    """Return orders with the same kinds of names in sentence forms that `orders` never uses.

    further: use the forms that were written last, after all choices based on results had been made.
    """
    rng, forms = Random(seed), FURTHER_ORDER_FORMS if further else UNSEEN_ORDER_FORMS
    return [order(rng, forms[i % len(forms)], rng.choice((listed_name, invented_name))(rng)) for i in range(count)]


def orders_with_invented_names(count: int, seed: int = 15) -> list[Row]:
    """Return orders in the usual forms with names of random letters, which `orders` does not contain."""
    rng = Random(seed)
    return [order(rng, ORDER_FORMS[i % len(ORDER_FORMS)], strange_name(rng)) for i in range(count)]


def ticket(rng: Random, category: str, unseen: bool) -> Row:
    """Return a customer message with its category, sometimes with a greeting or a closing."""
    forms = [" ".join(form.split()) for form in TICKET_FORMS[category].split("|")]
    form = rng.choice(forms[-UNSEEN_PER_CATEGORY:] if unseen else forms[:-UNSEEN_PER_CATEGORY])
    name = listed_name(rng)
    facts = {
        "item": rng.choice(ITEMS).split("/")[0],
        "price": f"${rng.randint(5, 300)}",
        "city": rng.choice(CITIES),
        "name": name,
        "code": f"{rng.choice('ABKRTX')}{rng.choice('DMQSZ')}-{rng.randint(1000, 9999)}",
        "count": rng.randint(2, 20),
    }
    before = rng.choice(("", "", "Hello, ", "Hi team. ", "Good morning. ", f"This is {name}. "))
    after = rng.choice(
        ("", "", " Please help.", f" Regards, {name}", f" My name is {name}.", " I wait for your answer.")
    )
    return {"ticket": before + form.format(**facts) + after, "category": category}


def tickets(count: int = 600, seed: int = 11) -> list[Row]:
    """Return the rows of `tickets.json`: distinct messages, equally many of each category."""
    rng, categories = Random(seed), list(TICKET_FORMS)
    rows: dict[str, Row] = {}
    while len(rows) < count:
        row = ticket(rng, categories[len(rows) % len(categories)], unseen=False)
        rows.setdefault(row["ticket"], row)
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def tickets_in_unseen_forms(count: int, seed: int = 12) -> list[Row]:
    """Return tickets whose main sentences are never in `tickets`."""
    rng, categories = Random(seed), list(TICKET_FORMS)
    return [ticket(rng, categories[i % len(categories)], unseen=True) for i in range(count)]


def orders_csv() -> str:
    """Return the text of `orders.csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["message", "answer"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(orders())
    return text.getvalue()


def tickets_json() -> str:
    """Return the text of `tickets.json`."""
    return json.dumps(tickets(), ensure_ascii=False, indent=1) + "\n"


def write(folder: Path) -> None:
    """Write both files into `folder`."""
    (folder / "orders.csv").write_text(orders_csv(), encoding="utf-8", newline="\n")
    (folder / "tickets.json").write_text(tickets_json(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
