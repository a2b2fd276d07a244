"""The demo model's pretraining text: a seeded, endless stream of short documents (standard library only).

About three quarters are copy tasks with newly invented words in many formats, because copying unseen words is the skill
that fine-tuning on the samples needs. The rest is simple prose and conversation. A document is (text, start), as in
`messages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from toolkit.demo_data import words
from toolkit.demo_data.messages import (
    STYLES,
    Document,
    by_example,
    chat,
    extraction,
    message,
    question,
    render,
    small_talk,
)
from toolkit.demo_data.phrases import TOPICS


def slots(rng: Random) -> dict[str, str]:
    """Return a new value for every slot of the prose."""
    return {
        "person": words.person(rng),
        "place": words.name_part(rng),
        "day": words.date(rng),
        "count": words.number(rng),
        "price": words.price(rng),
        "code": words.code(rng),
        "thing": words.thing(rng),
        "animal": rng.choice(words.ANIMALS),
        "spot": rng.choice(words.PLACES),
        "adj": rng.choice(words.ADJECTIVES),
        "job": rng.choice(words.JOBS),
    }


def sentence(rng: Random, topic: str) -> str:
    """Return a sentence of prose about `topic`."""
    return rng.choice(TOPICS[topic]).format(**slots(rng))


def story(rng: Random) -> Document:
    """Return a few sentences about an invented person, who is named in most of them."""
    facts, name = slots(rng), words.person(rng)
    lines = [
        "{n} lived in {place}.",
        "{n} was a {job} and had a {adj} {animal}.",
        "One day {n} went to the {spot}.",
        "There {n} found {count} {thing}.",
        '"These are mine," said {o}.',
        "{n} gave the {thing} to {o}.",
        "{o} thanked {n} and went home.",
        "The {animal} was happy.",
        "And {n} never forgot {o}.",
        "{o} asked: who are you?",
        "My name is {n}.",
        "{o} came from {place} on {day}.",
    ]
    chosen = sorted(rng.sample(range(len(lines)), rng.randint(3, 7)))
    text = " ".join(lines[i] for i in chosen)
    return text.format(**facts, n=name, o=words.person(rng)) + "<|end|>", 0


def letter(rng: Random) -> Document:
    """Return a short letter with a greeting and a signature."""
    to, sender = words.person(rng), words.person(rng)
    body = " ".join(sentence(rng, rng.choice(list(TOPICS))) for _ in range(rng.randint(1, 3)))
    return f"Dear {to},\n{body}\nHow are you, {to}?\nYours,\n{sender}<|end|>", 0


def topic(rng: Random) -> Document:
    """Return sentences and their topic, with or without a list of choices, or a chat that states it in a sentence."""
    right = rng.choice(list(TOPICS))
    text = " ".join(sentence(rng, right) for _ in range(rng.randint(1, 2)))
    if rng.random() < 0.3:
        return chat([("user", text), ("assistant", f"We are talking about {right}.")])
    choices = rng.sample(list(TOPICS), rng.randint(2, 4))
    if right not in choices:
        choices[rng.randrange(len(choices))] = right
    order = rng.choice(
        ("What is it about?", "Topic?", f"Which one: {', '.join(choices)}?", f"Choose: {', '.join(choices)}")
    )
    return chat([("system", order), ("user", text), ("assistant", right)])


def repeat(rng: Random) -> Document:
    """Return a text to repeat as a whole, in part or in reverse."""
    items = [words.value(rng) if rng.random() < 0.5 else words.word(rng) for _ in range(rng.randint(1, 7))]
    joint = rng.choice((" ", ", ", "; ", "\n", " / "))
    at = rng.randrange(len(items))
    order, answer = rng.choice(
        (
            ("Repeat:", joint.join(items)),
            ("Say it again:", joint.join(items)),
            ("Copy this", joint.join(items)),
            ("In reverse:", joint.join(items[::-1])),
            ("First:", items[0]),
            ("Last:", items[-1]),
            (f"Number {at + 1}:", items[at]),
            (f"What comes after {items[at]}?", (*items, "nothing")[at + 1]),
            ("In quotes:", joint.join(f'"{item}"' for item in items)),
            ("As a list:", "\n".join(f"- {item}" for item in items)),
        )
    )
    text = joint.join(items)
    if rng.random() < 0.6:
        return chat([("user", f"{order} {text}"), ("assistant", answer)])
    head = f"{text}\n{order}\n"
    return head + answer + "<|end|>", len(head)


def echo(rng: Random) -> Document:
    """Return a line of invented words two or three times: the simplest form of copying."""
    line = " ".join(rng.choice((words.invented, words.name_part, words.word))(rng) for _ in range(rng.randint(4, 20)))
    return " ".join([line] * rng.randint(2, 3)) + "<|end|>", len(line)


def record(rng: Random) -> Document:
    """Return a record in one style, followed by the same in another style or by one of its values."""
    fields = [(words.word(rng), words.value(rng)) for _ in range(rng.randint(2, 6))]
    old, new = rng.choice(STYLES), rng.choice(STYLES)
    text = render(rng, fields, "lines" if old == "values" else old)
    if rng.random() < 0.5:
        key, answer = rng.choice(fields)
        order = rng.choice((f"What is {key}?", f"{key}?", f"Give the {key}.", f"Look up {key}."))
    else:
        again = rng.sample(fields, rng.randint(1, len(fields))) if rng.random() < 0.5 else fields
        order, answer = f"As {new}: {', '.join(key for key, _ in again)}", render(rng, again, new)
    if rng.random() < 0.6:
        return chat([("user", f"{text}\n{order}"), ("assistant", answer)])
    return f"{text}\n{order}\n{answer}<|end|>", len(text) + len(order) + 2


def roster(rng: Random) -> Document:
    """Return names with numbers or places, and a question about one pair in either direction."""
    rows = [
        (words.person(rng), rng.choice((words.number, words.name_part, words.thing))(rng))
        for _ in range(rng.randint(2, 5))
    ]
    shape = rng.choice(("{a} has {b}.", "{a}: {b}", "{b} for {a}.", "{a} ({b})", "{b} goes to {a}.", "{a} -> {b}"))
    text = rng.choice((" ", "\n")).join(shape.format(a=a, b=b) for a, b in rows)
    a, b = rng.choice(rows)
    given, answer = (a, b) if rng.random() < 0.5 else (b, a)
    return chat([("user", f"{text}\n{given}?"), ("assistant", answer)])


def conversation(rng: Random) -> Document:
    """Return a chat of several messages in which the user gives a name and later asks for it."""
    name, town = words.person(rng), words.name_part(rng)
    turns = [
        ("user", rng.choice((f"Hello, I am {name}.", f"My name is {name}.", f"{name} is my name."))),
        ("assistant", rng.choice((f"Hello {name}!", f"Nice to meet you, {name}."))),
        ("user", f"I come from {town}. {message(rng)[0]}"),
        ("assistant", f"{town} is a nice place."),
        *rng.choice(
            (
                [("user", "What is my name?"), ("assistant", f"Your name is {name}.")],
                [("user", "Where do I come from?"), ("assistant", f"You come from {town}.")],
            )
        ),
    ]
    if rng.random() < 0.3:
        turns.insert(0, ("system", "You are a friendly assistant."))
    return chat(turns)[0], 0


MIXTURE = {
    extraction: 36,
    question: 11,
    small_talk: 7,
    by_example: 4,
    repeat: 7,
    echo: 4,
    record: 11,
    roster: 5,
    conversation: 3,
    topic: 6,
    story: 3,
    letter: 2,
}


def documents(seed: int) -> Iterator[Document]:
    """Yield the endless stream of documents for `seed`."""
    rng = Random(seed)
    kinds, weights = list(MIXTURE), list(MIXTURE.values())
    while True:
        yield rng.choices(kinds, weights)[0](rng)
