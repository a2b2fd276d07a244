"""Short messages with known facts, and questions about them: the extraction part of the demo model's pretraining text.

The sentences are about finding, lending, carrying or counting things. None of them places an order, and no answer has
the keys of the sample datasets. A document is (text, start): the characters from `start` on are trained with full
weight, the ones before are context.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random

from toolkit.demo_data import words
from toolkit.demo_data.phrases import ASK, FILLERS, KEYS, REPLIES, SENTENCES, VERBS

Document = tuple[str, int]
Facts = dict[str, str]

MAKERS = {
    "person": words.person,
    "thing": words.thing,
    "count": words.number,
    "place": words.name_part,
    "day": words.date,
    "code": words.code,
    "price": words.price,
}


def roles_of(sentence: str) -> list[str]:
    """Return the kinds of facts that a sentence form has slots for, in order."""
    return [role for role in re.findall(r"{(\w+)}", sentence) if role in MAKERS]


def random_form(rng: Random, filler: Callable[[Random], str]) -> str:
    """Return a sentence form without grammar, in which only the kind of a word shows its role."""
    slots = rng.sample(["{person}", "{count} {thing}", rng.choice(("{place}", "{day}", "{price}"))], rng.randint(2, 3))
    pieces = [" ".join(filler(rng) for _ in range(rng.randint(0, 4))) + " " + slot for slot in slots]
    text = rng.choice((" ", " ", ", ", ". ", ": ")).join(piece.strip() for piece in pieces)
    text += rng.choice((".", "!", "?", "", f" {filler(rng)}.", f" {filler(rng)} {filler(rng)}!"))
    return text[0].upper() + text[1:] if rng.random() < 0.7 else text


def sentence_form(rng: Random) -> str:
    """Return a listed form, or common or invented words in random order, so that the model copes with unseen forms."""
    kind = rng.random()
    if kind < 0.68:
        return rng.choice(SENTENCES)
    return random_form(rng, words.invented if kind < 0.74 else lambda r: r.choice(words.COMMON))


def message(rng: Random) -> tuple[str, Facts]:
    """Return one to three sentences and the facts in them, each of which appears once."""
    forms: list[str] = []
    facts: Facts = {}
    wanted = rng.choices((1, 2, 3), (5, 3, 1))[0]
    while len(forms) < wanted:
        form = sentence_form(rng)
        roles = roles_of(form)
        if facts and facts.keys() & set(roles):
            wanted -= 1
            continue
        facts |= {role: MAKERS[role](rng) for role in roles}
        forms.append(form)
    for position in range(rng.choice((0, 0, 1, 1, 2))):
        forms.insert(rng.randint(0, len(forms)) if position else 0, rng.choice(FILLERS))
    return " ".join(forms).format(**facts, verb=rng.choice(VERBS)), facts


def as_json(fields: list[tuple[str, str]], numbers: bool) -> str:
    """Return the fields as a JSON object; `numbers` writes whole numbers without quotes."""
    bare = {key: int(text) if numbers and text.isdecimal() else text for key, text in fields}
    return json.dumps(bare, ensure_ascii=False)


def render(rng: Random, fields: list[tuple[str, str]], style: str) -> str:
    """Return the fields in one of the styles in `STYLES`."""
    if style == "JSON":
        return as_json(fields, numbers=rng.random() < 0.8)
    if style == "XML":
        return "".join(f"<{key}>{text}</{key}>" for key, text in fields)
    if style == "lines":
        return "\n".join(f"{key}: {text}" for key, text in fields)
    if style == "table":
        return "\n".join(f"| {key} | {text} |" for key, text in fields)
    if style == "pairs":
        return "; ".join(f"{key}={text}" for key, text in fields)
    return ", ".join(text for _, text in fields)


STYLES = ["JSON", "JSON", "JSON", "XML", "lines", "table", "pairs", "values"]


def chat(turns: list[tuple[str, str]]) -> Document:
    """Return messages of (role, text) in the model's chat template; the last message is the answer."""
    head = "".join(f"<|{role}|>{text}<|end|>" for role, text in turns[:-1])
    head += f"<|{turns[-1][0]}|>"
    return head + turns[-1][1] + "<|end|>", len(head)


def ask(rng: Random, text: str, order: str, answer: str) -> Document:
    """Return `order` about `text` and its answer: as a chat with or without a system message, or as plain text."""
    layout = rng.random()
    if layout < 0.35:
        return chat([("system", order), ("user", text), ("assistant", answer)])
    if layout < 0.55:
        return chat([("user", f"{order}\n{text}"), ("assistant", answer)])
    if layout < 0.75:
        return chat([("user", f"{text}\n{order}"), ("assistant", answer)])
    label = rng.choice(("Text: ", "Note: ", "", "Read: "))
    head = f"{label}{text}\n{order}\n"
    return head + answer + "<|end|>", len(head)


def extraction(rng: Random) -> Document:
    """Return a message and some of its facts, with the keys and in the style that the order asks for."""
    text, facts = message(rng)
    while not facts:
        text, facts = message(rng)
    chosen = rng.sample(sorted(facts), rng.randint(1, len(facts)))
    fields = [(rng.choice(KEYS[role]), facts[role]) for role in chosen]
    style = rng.choice(STYLES)
    keys = ", ".join(key for key, _ in fields)
    order = rng.choice(("{s} with {k}:", "Give {k} as {s}.", "Find {k}. Answer in {s}.", "{k} ({s})", "Write {s}: {k}"))
    return ask(rng, text, order.format(s=style, k=keys), render(rng, fields, style))


def question(rng: Random) -> Document:
    """Return a message and one or two questions about it, answered with the fact alone."""
    text, facts = message(rng)
    while not facts:
        text, facts = message(rng)
    role, other = rng.choice(sorted(facts)), rng.choice(sorted(facts))
    first = ask(rng, text, rng.choice(ASK[role].split("|")), facts[role])
    if rng.random() < 0.6 or not first[0].startswith("<|"):
        return first
    more, _ = chat([("user", rng.choice(ASK[other].split("|"))), ("assistant", facts[other])])
    return first[0] + more, first[1]


def small_talk(rng: Random) -> Document:
    """Return a message without an order and a conversational reply, as the base model gives before fine-tuning."""
    text, facts = message(rng)
    reply = rng.choice(REPLIES).format(**{role: words.thing(rng) for role in ("person", "thing")} | facts)
    return chat([("user", text), ("assistant", reply)])


def by_example(rng: Random) -> Document:
    """Return two or three messages of one form, each with its facts, so that the form is learned from the context."""
    form = random_form(rng, words.invented) if rng.random() < 0.6 else rng.choice(SENTENCES)
    roles = sorted(set(roles_of(form)))
    keys, style = {role: words.invented(rng) for role in roles}, rng.choice(STYLES)
    text, start = "", 0
    for _ in range(rng.randint(2, 3)):
        facts = {role: MAKERS[role](rng) for role in roles}
        text += form.format(**facts, verb=rng.choice(VERBS)) + "\n"
        start = len(text)
        text += render(rng, [(keys[role], facts[role]) for role in roles], style) + "\n"
    return text + "<|end|>", start
