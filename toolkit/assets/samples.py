"""The two sample datasets, made from a seed: ``python -m toolkit.assets.samples FOLDER`` writes the same bytes each time.

``orders`` asks for a JSON answer copied out of a message, ``tickets`` for one of six categories. The last sentence forms of
each kind are never in the files: held-out rows made from them measure whether a fine-tuned model learned the task or the
sentences.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from random import Random

Row = dict[str, str]

FIRST = (
    "Anna Ben Carla David Elena Felix Grace Hugo Ines Jonas Karin Liam Maria Noah Olga Peter Rosa Simon Tara Victor Wendy "
    "Yusuf Zoe Amir Bianca Chen Diego Emma Fatima George Hana Ivan Julia Kofi Leila Marco Nadia Oscar Priya Quentin Ruth "
    "Sofia Tomas Uma Vera William Ximena Yara Zane Aisha Bruno Clara Dmitri Esther Farid Greta Henry Irene Jamal Keiko"
).split()
LAST = (
    "Smith Garcia Müller Rossi Novak Silva Kowalski Jensen Okafor Patel Nguyen Tanaka Haddad Cohen Larsen Murphy Dubois "
    "Schmidt Lopez Ivanova Brown Taylor Mensah Kaya Popescu Horvath Santos Costa Weber Fischer Moreau Bianchi Andersson "
    "Virtanen Kim Singh Khan Ali Suzuki Wang Lindqvist Baker Turner Walsh Reyes Castro Mendes Petrov Duarte Keller Vogel"
).split()
SYLLABLES = (
    "ba bel bri cor da del dro e el fa fen gal gri ha hol i jor ka kel kri la lin lo lun ma mer mo na nim o or pa pel qua ra "
    "ri ru sa sel shi ta tem tor u ul va ven vi wex xan ya yor za zel zu"
).split()
ITEMS = (
    "mug/mugs lamp/lamps chair/chairs notebook/notebooks towel/towels candle/candles blanket/blankets bottle/bottles "
    "plate/plates basket/baskets pillow/pillows umbrella/umbrellas backpack/backpacks teapot/teapots clock/clocks vase/vases "
    "cushion/cushions bowl/bowls glove/gloves poster/posters mirror/mirrors spoon/spoons kettle/kettles rug/rugs "
    "headset/headsets keyboard/keyboards cable/cables tent/tents bench/benches box/boxes"
).split()
KINDS = "red blue green black white yellow small large wooden silver round striped".split()
CITIES = "Lisbon Oslo Vienna Dublin Boston Toronto Madrid Prague Sydney Geneva".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

ORDER_FORMS = """Hi, this is {name}. Could you send me {quantity} {item}?
Hello, {name} here. I would like to order {quantity} {item}, please.
Please put {quantity} {item} aside for {name}.
I need {quantity} {item} by {day}. My name is {name}.
Order from {name}: {quantity} {item}.
{name} wants {quantity} {item} delivered to {city}.
Could I get {quantity} {item}? Thanks, {name}
We are running low and need {quantity} {item} again. Regards, {name}
Good morning! {quantity} {item} for {name}, please, and no rush.
Dear shop, I want to buy {quantity} {item}. Yours, {name}
Add {quantity} {item} to the account of {name}.
This is {name} from {city}. Do you have {quantity} {item}? If so, I take them.
{quantity} {item} please. {name}, {city}
Can {name} have {quantity} {item} before {day}?
Ship {quantity} {item} to {city}, to the attention of {name}.
My order: {quantity} {item}. Name: {name}.
Hey, it's {name} again, same as last week: {quantity} {item}.
On {day} we open a new office and {name} asked me to order {quantity} {item}.
I'm {name} and I'd love {quantity} {item} for my shop in {city}.
For {name}, please reserve {quantity} {item} until {day}.
New order! Customer {name}, product {item}, {quantity} in total.
How soon can you deliver {quantity} {item} to {name} in {city}?
{name} called on {day} and ordered {quantity} {item}.
Just {quantity} {item} this time. Best, {name}
Put me down for {quantity} {item}. I am {name}.
The {item} were great, so {name} would like {quantity} {item} more.
Is it possible to have {quantity} {item} sent to {city}? The name is {name}.
Mr. or Ms. {name} requests {quantity} {item}.
Reminder: {name} is still waiting for {quantity} {item}.
Hello team, please bill {name} for {quantity} {item}.""".split("\n")
UNSEEN_ORDER_FORMS = """Good afternoon, my name is {name} and I am looking for {quantity} {item}.
Would you mind sending {quantity} {item} over to {name}?
{name} speaking. We will take {quantity} {item}, thank you.
Please deliver {quantity} {item} on {day}. Sincerely, {name}
Hi there! Me again, {name}. This time it is {quantity} {item}.
Our office in {city} is out of stock. Send {quantity} {item}, {name} will pay.
A customer called {name} came in and asked for {quantity} {item}.
Kindly book {quantity} {item} under the name {name}.
{quantity} {item} go to {name}.
Let me have {quantity} {item}, please. Cheers, {name}""".split("\n")

TICKET_FORMS = {
    "billing": """I was charged twice for the {item}.|My card was billed but I cancelled the order.|Why is there a fee of {price}
        on my bill?|The invoice {code} shows the wrong amount.|Please refund {price} to my card.|You took {price} from my account
        by mistake.|My payment of {price} went through two times.|I never got the refund for the {item}.|The total on the invoice
        is too high.|Can I pay the bill in two parts?|There is a charge of {price} that I do not know.|I need an invoice for
        my payment of {price}.|The bill for the {item} is wrong.|When will I get my money back?|My credit card was declined.
        |Please send me a receipt for {price}.|I want a refund, I was billed {price} too much.|Why was my card charged {price}?""",
    "shipping": """Where is my parcel {code}?|The {item} has not arrived yet.|My order was sent to {city} and not to my house.|The
        delivery is {count} days late.|The courier left the box at the wrong door.|When will the {item} be delivered to {city}?|The
        tracking of {code} has not moved for {count} days.|The parcel was lost on the way to {city}.|Has my order been shipped?
        |The box with the {item} arrived broken.|Nobody was at home when the courier came.|Please deliver the parcel on another
        day.|The package is stuck in {city}.|I am still waiting for the delivery of my {item}.|The tracking number {code} does
        not work.|How long does shipping to {city} take?|My parcel is {count} days late.|The courier lost my {item}.""",
    "account": """I cannot log in.|Please reset my password.|My account {code} is locked.|I forgot my password again.|Change the
        email of my account.|The login code never arrives.|I want to delete my account.|Somebody else signed in to my account.|How do
        I change my user name?|My login stopped working {count} days ago.|The password link has expired.|Please close my account.
        |I signed up twice with the same email.|My new password is not accepted.|I lost the phone that I use to log in.|How do I
        update my email?|My password does not work.|Please unlock my account {code}.""",
    "bug": """The app crashes when I open it.|I see error {code} on the screen.|The button does nothing when I press it.|The page
        stays blank after I search.|The app froze and I lost my list.|Error {code} appears each time I save.|The screen goes black on
        my phone.|The search page does not load.|After the update the app is very slow.|The website shows error {code}.|Pictures do
        not load in the app.|The menu of the app is empty.|The app closes by itself after {count} seconds.|The save button is
        broken.|The page keeps loading forever.|The website crashed {count} times today.|The app shows a blank screen.|I get error
        {code} when I press the button.""",
    "product": """Do you sell a {item} in blue?|Is the {item} still in stock?|What size is the {item}?|Does the {item} come with a
        lid?|How heavy is the {item}?|Which colors does the {item} have?|Can I use the {item} outside?|Is the {item} made of wood?|How
        tall is the {item}?|Is there a larger {item}?|Can the {item} be washed?|What is the {item} made of?|Do you have {count} pieces
        of the {item}?|Which {item} is the best for a child?|Will the {item} be back in stock?|Is the {item} heavy?|What colors of
        the {item} do you sell?|Do you have the {item} in a larger size?""",
    "praise": """Thank you, the {item} is perfect!|Great service in your shop in {city}.|{name} helped me so kindly, well done.|I love
        my new {item}.|Best shop in {city}!|Your team was fast and friendly.|The {item} is even better than I hoped.|I will tell all
        my friends about you.|What a wonderful {item}!|I am very happy with the {item}.|Thanks for the quick help, {name}!|You made my
        day, thank you.|Five stars for {name} in {city}.|Such a friendly team!|Everything was great, I will come back.|I love your
        shop, thank you!|The {item} is great, well done!|Thank you for the friendly service.""",
}
UNSEEN_PER_CATEGORY = 3


def invented_name(rng: Random) -> str:
    """Two capitalised words of random syllables, such as ``Zelmo Quatorin``."""
    return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))).capitalize() for _ in range(2))


def listed_name(rng: Random) -> str:
    """A first and a last name, or just one of them, from the lists."""
    first, last = rng.choice(FIRST), rng.choice(LAST)
    return first if rng.random() < 0.1 else f"{first} {last}"


def strange_name(rng: Random) -> str:
    """Two capitalised words spelled letter by letter, such as ``Huvgot Ylbiru``: made of no list of syllables at all."""
    consonants, vowels = "bcdfghjklmnpqrstvwxz", "aeiouy"
    parts = ["".join(rng.choice(consonants if (i + shift) % 2 else vowels) for i in range(rng.randint(4, 8)))
             for shift in (rng.randint(0, 1), rng.randint(0, 1))]
    return " ".join(part.capitalize() for part in parts)


def order(rng: Random, form: str, name: str) -> Row:
    """One order message and the JSON text with the name, the item as it is written, and the quantity."""
    quantity = rng.choice((rng.randint(2, 9), rng.randint(10, 99), rng.randint(10, 250)))
    item = rng.choice(ITEMS).split("/")[1]
    if rng.random() < 0.4:
        item = f"{rng.choice(KINDS)} {item}"
    facts = {"name": name, "item": item, "quantity": quantity}
    message = form.format(**facts, city=rng.choice(CITIES), day=rng.choice(DAYS))
    return {"message": message, "answer": json.dumps(facts, ensure_ascii=False)}


def orders(count: int = 640, seed: int = 13) -> list[Row]:
    """The rows of ``orders.csv``: half the names are listed, half invented, so that copying pays and guessing does not."""
    rng = Random(seed)
    return [
        order(rng, ORDER_FORMS[i % len(ORDER_FORMS)], rng.choice((listed_name, invented_name))(rng))
        for i in rng.sample(range(count), count)
    ]


def orders_in_unseen_forms(count: int, seed: int = 14) -> list[Row]:
    """Orders with the same kinds of names in sentence forms that ``orders`` never uses."""
    rng = Random(seed)
    return [
        order(rng, UNSEEN_ORDER_FORMS[i % len(UNSEEN_ORDER_FORMS)], rng.choice((listed_name, invented_name))(rng))
        for i in range(count)
    ]


def orders_with_invented_names(count: int, seed: int = 15) -> list[Row]:
    """Orders in the usual forms whose names are spelled at random, as no name of ``orders`` is."""
    rng = Random(seed)
    return [order(rng, ORDER_FORMS[i % len(ORDER_FORMS)], strange_name(rng)) for i in range(count)]


def ticket(rng: Random, category: str, unseen: bool) -> Row:
    """One customer message with its category, between an optional greeting and an optional closing."""
    forms = [" ".join(form.split()) for form in TICKET_FORMS[category].split("|")]
    form = rng.choice(forms[-UNSEEN_PER_CATEGORY:] if unseen else forms[:-UNSEEN_PER_CATEGORY])
    name = listed_name(rng)
    facts = {
        "item": rng.choice(ITEMS).split("/")[0], "price": f"${rng.randint(5, 300)}", "city": rng.choice(CITIES), "name": name,
        "code": f"{rng.choice('ABKRTX')}{rng.choice('DMQSZ')}-{rng.randint(1000, 9999)}", "count": rng.randint(2, 20),
    }
    before = rng.choice(("", "", "Hello, ", "Hi team. ", "Good morning. ", f"This is {name}. "))
    after = rng.choice(("", "", " Please help.", f" Regards, {name}", f" My name is {name}.", " I wait for your answer."))
    return {"ticket": before + form.format(**facts) + after, "category": category}


def tickets(count: int = 600, seed: int = 11) -> list[Row]:
    """The rows of ``tickets.json``: distinct messages, the six categories equally often."""
    rng, rows, categories = Random(seed), {}, list(TICKET_FORMS)
    while len(rows) < count:
        row = ticket(rng, categories[len(rows) % len(categories)], unseen=False)
        rows.setdefault(row["ticket"], row)
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def tickets_in_unseen_forms(count: int, seed: int = 12) -> list[Row]:
    """Tickets whose core sentences are never in ``tickets``."""
    rng, categories = Random(seed), list(TICKET_FORMS)
    return [ticket(rng, categories[i % len(categories)], unseen=True) for i in range(count)]


def orders_csv() -> str:
    """The text of ``orders.csv``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["message", "answer"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(orders())
    return text.getvalue()


def tickets_json() -> str:
    """The text of ``tickets.json``."""
    return json.dumps(tickets(), ensure_ascii=False, indent=1) + "\n"


def write(folder: Path) -> None:
    """Write both files into ``folder``."""
    (folder / "orders.csv").write_text(orders_csv(), encoding="utf-8", newline="\n")
    (folder / "tickets.json").write_text(tickets_json(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
