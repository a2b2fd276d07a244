"""Words, names and values for the demo model's pretraining text (seeded, standard library only).

Almost every name and value is invented: a model that never sees the same name twice can't memorize a list of names and
has to learn to copy. Every function takes the caller's `random.Random` and returns text.
"""

from __future__ import annotations

from random import Random


def listed(text: str) -> list[str]:
    """Return the words of `text`: a list of words is easier to read without quotes around each of them."""
    return text.split()


ONSETS = [
    *listed(
        "b c d f g h j k l m n p r s t v w z b c d f g h j k l m n p r s t v w z b d g k l m n r s t br ch cr dr fl fr "
        "gl gr kl kr pl pr sh sk sl sm sn sp st str th tr tw wh y qu x"
    ),
    *[""] * 4,
]
VOWELS = listed("a e i o u a e i o u a e i o u a e i o u ai au ea ee ei ie oa oo ou y")
CODAS = [""] * 20 + listed("n n n r r l l s s t m k d x b g p z ck ng nd rt st ld sh ll ss nt rn tt")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
RARE_LETTERS = "áéíóúäöüåæøçñšžćłëêàèőğýďřωλжшдя"

NOUNS = listed(
    "apple bag ball basket bed bell belt bench bicycle blanket boat book boot bottle bowl box bread brush bucket "
    "button cable cake camera candle card carpet chair cheese clock cloth coat coin comb cup curtain desk dish door "
    "drawer dress drum egg fan fence flag flower fork frame glass glove guitar hammer hat heater helmet hook horse "
    "jacket jar jug kettle key kite knife ladder lamp lamb lemon letter lid lock map mask mat match mirror mug nail "
    "napkin needle notebook oven page paint pan paper parcel pen pencil phone piano picture pillow pin pipe plate "
    "pot printer pump radio ring rope rug ruler saw scarf screen seed sheet shelf shirt shoe soap sock sofa spoon "
    "stamp stool stove suitcase table tape tent ticket tile towel toy tray umbrella vase wallet watch wheel whistle "
    "window"
)
ADJECTIVES = listed(
    "red blue green black white yellow brown grey small large old new warm cold heavy light long short round flat "
    "soft hard clean plain wooden paper metal silver golden cheap good wide thin thick bright dark quiet sharp "
    "sweet strong wet dry"
)
COMMON = listed(
    "a about after again all also always an and answer any are as ask at away back be because been before begin "
    "best better between book both bring but buy by call can cannot change close come cost could day deliver did do "
    "does done down each early easy end enough even every fast few find first for friend from full get give glad go "
    "good great had half happy has have he hello help her here hi him his home hope hour how i if in into is it "
    "just keep kind know last late later leave let like list little long look make many me mine minute more most "
    "much must my name near need never new next nice no not now of off old on once one only open or order other our "
    "out over own pay people pick place please put quick ready receive regards right same say see sell send service "
    "set she shop should show sincerely small so some soon start stay still stop such take team tell than thank "
    "thanks that the their them then there these they think this those time to today together tomorrow too two "
    "under until up us use very visit wait want was watch way we week well were what when where which who why will "
    "wish with without work would write year yes yesterday you your"
)
PLACES = listed(
    "kitchen garden market office station school library museum harbour bridge river forest hotel bakery farm hall"
)
ANIMALS = listed("dog cat bird cow goat sheep duck hen fox wolf bear mouse rabbit fish owl bee pig frog snake horse")
JOBS = listed("teacher doctor baker driver farmer nurse painter singer cook pilot writer clerk builder sailor tailor")
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed("January February March April May June July August September October November December")
PARTICLES = ["van ", "de ", "da ", "von ", "del ", "al-", "O'", "Mc", "Ben ", "el ", "di "]


def syllables(rng: Random) -> str:
    """Return an invented lower-case word of one to four syllables, such as `trinovek`."""
    count = rng.choices((1, 2, 3, 4), (3, 6, 3, 1))[0]
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(count))


def random_letters(rng: Random) -> str:
    """Return random letters, sometimes with one outside ASCII."""
    word = [rng.choice(LETTERS) for _ in range(rng.randint(2, 8))]
    if rng.random() < 0.2:
        word[rng.randrange(len(word))] = rng.choice(RARE_LETTERS)
    return "".join(word)


def invented(rng: Random) -> str:
    """Return a lower-case word that very likely exists nowhere."""
    return syllables(rng) if rng.random() < 0.8 else random_letters(rng)


def word(rng: Random) -> str:
    """Return a lower-case word, invented six times out of ten."""
    return invented(rng) if rng.random() < 0.6 else rng.choice(rng.choice((NOUNS, ADJECTIVES, COMMON, COMMON)))


def name_part(rng: Random) -> str:
    """Return a capitalized invented word of at least two letters."""
    part = invented(rng)
    while len(part) < 2:
        part = invented(rng)
    return part[0].upper() + part[1:]


def person(rng: Random) -> str:
    """Return a name of one to three parts, sometimes with a particle, an initial or a hyphen."""
    parts = [name_part(rng) for _ in range(rng.choices((1, 2, 3), (2, 9, 2))[0])]
    twist = rng.random()
    if twist < 0.05:
        parts[-1] = rng.choice(PARTICLES) + parts[-1]
    elif twist < 0.09:
        parts.insert(1, rng.choice(LETTERS).upper() + ".")
    elif twist < 0.13:
        parts[-1] += "-" + name_part(rng)
    full = " ".join(parts)
    return full.upper() if twist > 0.98 else full.lower() if twist > 0.95 else full


def plural(noun: str) -> str:
    """Return the regular English plural of `noun`."""
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    return noun + "s"


def thing(rng: Random) -> str:
    """Return a plural thing of one or two words, such as `blue mugs` or `trinoveks`."""
    noun = plural(rng.choice(NOUNS) if rng.random() < 0.5 else syllables(rng))
    kind = rng.random()
    if kind < 0.5:
        return noun
    first = rng.choice(ADJECTIVES) if kind < 0.75 else (rng.choice(NOUNS) if kind < 0.88 else invented(rng))
    return f"{first} {noun}"


def number(rng: Random) -> str:
    """Return a whole number of one to four digits, most often two."""
    digits = rng.choices((1, 2, 3, 4), (3, 5, 3, 1))[0]
    return str(rng.randint(10 ** (digits - 1), 10**digits - 1))


def code(rng: Random) -> str:
    """Return a code such as `KR-4071`."""
    head = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 3))).upper()
    return head + rng.choice(("-", "", "/", " ")) + str(rng.randint(10, 99999))


def date(rng: Random) -> str:
    """Return a day in one of a few common spellings."""
    day, month = rng.randint(1, 28), rng.choice(MONTHS)
    return rng.choice(
        (f"{day} {month}", f"{month} {day}", rng.choice(DAYS), f"{day}.{rng.randint(1, 12)}.20{day + 1:02d}")
    )


def price(rng: Random) -> str:
    """Return a price such as `$18` or `7.50 euros`."""
    amount = str(rng.randint(1, 400)) + rng.choice(("", "", ".50", ".99"))
    return rng.choice((f"${amount}", f"{amount} euros", f"{amount} dollars"))


def value(rng: Random) -> str:
    """Return any kind of value, for tables and records whose fields have no fixed meaning."""
    makers = (person, thing, number, code, date, price, word, lambda r: f"{word(r)} {word(r)}")
    return rng.choices(makers, (4, 2, 3, 1, 1, 1, 3, 2))[0](rng)
