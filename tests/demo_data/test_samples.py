"""The sample datasets: reproducible bytes, rows of the promised shape, held-out forms that are really held out."""

import csv
import io
import json
from collections import Counter
from itertools import islice
from random import Random

from toolkit.demo_data import corpus, messages, samples
from toolkit.system.paths import ASSETS


def test_the_files_are_what_the_generator_writes(tmp_path):
    samples.write(tmp_path)
    for name in ("orders.csv", "tickets.json"):
        assert (tmp_path / name).read_bytes() == (ASSETS / name).read_bytes()


def test_orders_have_answers_copied_from_their_messages():
    rows = list(csv.DictReader(io.StringIO((ASSETS / "orders.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 640
    assert len({row["message"] for row in rows}) == 640
    for row in rows:
        answer = json.loads(row["answer"])
        assert list(answer) == ["name", "item", "quantity"]
        assert isinstance(answer["quantity"], int)
        assert all(str(part) in row["message"] for part in answer.values())


def test_about_half_the_names_are_invented():
    known = {*samples.FIRST, *samples.LAST}
    listed = [set(json.loads(row["answer"])["name"].split()) <= known for row in samples.orders()]
    assert 0.4 < sum(listed) / len(listed) < 0.6


def test_tickets_are_balanced_and_distinct():
    rows = json.loads((ASSETS / "tickets.json").read_text(encoding="utf-8"))
    assert len(rows) == 600
    assert Counter(row["category"] for row in rows) == dict.fromkeys(samples.TICKET_FORMS, 100)
    assert len({row["ticket"] for row in rows}) == 600


def test_unseen_order_forms_are_not_in_the_sample():
    assert len(set(samples.ORDER_FORMS)) == 45
    assert len(set(samples.UNSEEN_ORDER_FORMS)) == 20
    assert len(set(samples.FURTHER_ORDER_FORMS)) == 45
    assert not set(samples.ORDER_FORMS) & {*samples.UNSEEN_ORDER_FORMS, *samples.FURTHER_ORDER_FORMS}
    assert not set(samples.UNSEEN_ORDER_FORMS) & set(samples.FURTHER_ORDER_FORMS)
    rows = samples.orders_in_unseen_forms(20)
    assert not {row["message"] for row in rows} & {row["message"] for row in samples.orders()}
    assert rows == samples.orders_in_unseen_forms(20)


def test_unseen_ticket_forms_are_not_in_the_sample():
    for category, forms in samples.TICKET_FORMS.items():
        assert forms.count("|") == 17, category
    seen, unseen = samples.tickets(), samples.tickets_in_unseen_forms(60)
    assert not {row["ticket"] for row in seen} & {row["ticket"] for row in unseen}
    assert Counter(row["category"] for row in unseen) == dict.fromkeys(samples.TICKET_FORMS, 10)


def test_invented_names_of_the_held_out_set_are_not_in_the_sample():
    known = {part for row in samples.orders() for part in json.loads(row["answer"])["name"].split()}
    held = {
        part for row in samples.orders_with_invented_names(100) for part in json.loads(row["answer"])["name"].split()
    }
    assert len(held) > 190
    assert not held & known


def test_pretraining_text_is_reproducible_and_does_not_contain_the_samples():
    texts = [text for text, _ in islice(corpus.documents(5), 3000)]
    assert texts == [text for text, _ in islice(corpus.documents(5), 3000)]
    assert texts != [text for text, _ in islice(corpus.documents(6), 3000)]
    assert not any("quantity" in text for text in texts)
    forms = {*samples.ORDER_FORMS, *samples.UNSEEN_ORDER_FORMS, *samples.FURTHER_ORDER_FORMS}
    assert not set(messages.SENTENCES) & forms


def test_pretraining_names_do_not_repeat():
    rng = Random(3)
    names = [messages.MAKERS["person"](rng) for _ in range(5000)]
    assert len(set(names)) > 4900


def test_a_document_marks_its_answer():
    for text, start in islice(corpus.documents(8), 500):
        assert 0 <= start < len(text)
        assert text.endswith("<|end|>")


def test_the_demo_model_is_whole_and_small():
    files = {file.name: file.stat().st_size for file in (ASSETS / "demo-model").iterdir()}
    expected = "README.md chat_template.jinja config.json generation_config.json model.safetensors tokenizer.json"
    assert {*expected.split(), "tokenizer_config.json"} == set(files)
    assert sum(files.values()) < 10_000_000
