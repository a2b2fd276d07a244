"""The suggested templates: by names in several languages and by contents, and the question where two are close."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.suggestions import LAYOUTS, OPEN_LAYOUTS, outcome_of_table
from tests.data.doctor.test_checks import make_config
from toolkit.data.doctor.checks import list_findings
from toolkit.data.examples.column_contents import describe_cells
from toolkit.data.examples.column_suggestion import ColumnSuggestion, suggest_columns, suggest_for_table
from toolkit.data.examples.templates import compile_template
from toolkit.data.table import Table

THINGS = ("lamp", "blue vase", "green hat", "chair", "desk", "old rug", "clock", "mug", "kettle", "shelf")
CELLS: dict[str, Callable[[int], str]] = {
    "question": lambda i: f"Where in the shop do I find the {THINGS[i % 10]} number {i}?",
    "answer": lambda i: f"Aisle {i}, next to the {THINGS[(i + 3) % 10]}.",
    "article": lambda i: f"The {THINGS[i % 10]} is in stock. " * 12 + f"It came {i} days ago.",
    "few": lambda i: ("good", "bad", "mixed")[i % 3],
    "tags": lambda i: ("red", "amber", "teal", "white")[i % 4],
    "task": lambda i: ("Classify the text.", "Name the mood.")[i % 2],
    "count": str,
    "title": lambda i: f"Sort the {THINGS[i % 10]} by size {i}",
    "vector": lambda i: f"[{i}, 7, 12]",
    "code": lambda i: f"r-{i}",
    "hash": lambda i: f"{i * 7919:032x}",
    "date": lambda i: f"2026-01-{i % 28 + 1:02d}",
    "link": lambda i: f"https://shop.example/{i}",
    "stars": lambda i: str(i % 5 + 1),
    "bool": lambda i: ("true", "false")[i % 2],
    "flag": lambda i: str(i * 7 % 3 % 2),
    "same": lambda i: "shop",
    "role": lambda i: ("user", "assistant")[i % 2],
    "none": lambda i: "",
}


def suggest(**kinds: str) -> ColumnSuggestion:
    """Suggest for columns whose cells are of these kinds; "__" in a name is a space, "___" a colon and a space."""
    columns = {name.replace("___", ": ").replace("__", " "): CELLS[kind] for name, kind in kinds.items()}
    return suggest_columns(tuple(columns), [{name: cell(i) for name, cell in columns.items()} for i in range(40)])


@pytest.mark.parametrize(
    ("kinds", "prompt", "completion"),
    [
        ({"id": "count", "prompt": "question", "response": "answer", "category": "few", "created_at": "date"},
         "{prompt}", "{response}"),
        ({"ID": "count", "Pregunta__del__cliente": "question", "Respuesta__sugerida": "answer", "Idioma": "same"},
         "{Pregunta del cliente}", "{Respuesta sugerida}"),
        ({"Antwoord__medewerker": "answer", "Vraag__van__de__klant": "question", "Kanaal": "tags"},
         "{Vraag van de klant}", "{Antwoord medewerker}"),
        ({"Réponse__proposée": "answer", "Question__du__client": "question"},
         "{Question du client}", "{Réponse proposée}"),
        ({"definition": "same", "inputs": "question", "targets": "answer"}, "{inputs}", "{targets}"),
        ({"source_url": "link", "prompt": "question", "answer": "answer", "score": "stars"}, "{prompt}", "{answer}"),
        ({"review": "question", "stars": "stars", "sentiment": "few", "source": "same"}, "{review}", "{sentiment}"),
        ({"label": "few", "text": "question"}, "{text}", "{label}"),
        ({"label": "stars", "text": "question", "__index_level_0__": "count"}, "{text}", "{label}"),
        ({"answer": "answer", "question": "question"}, "{question}", "{answer}"),
        ({"topic": "tags", "prompt": "question", "response": "answer", "category": "few"}, "{prompt}", "{response}"),
        ({"id": "code", "context": "article", "question": "question", "answer": "answer"},
         "{context}\n\n{question}", "{answer}"),
        ({"Unnamed___0": "count", "problem": "question", "justAnswer": "count"}, "{problem}", "{justAnswer}"),
        ({"column__1": "count", "problem": "question", "justAnswer": "answer"}, "{problem}", "{justAnswer}"),
        ({"index": "count", "q": "question", "a": "answer"}, "{q}", "{a}"),
        ({"Input": "question", "Output": "answer", "Notes": "few"}, "{Input}", "{Output}"),
        ({"instruction": "question", "input": "none", "output": "answer"}, "{instruction}", "{output}"),
        ({"output": "answer", "input": "article", "instruction": "task"}, "{instruction}\n\n{input}", "{output}"),
        ({"instruction": "same", "input": "article", "output": "answer"}, "{instruction}\n\n{input}", "{output}"),
        ({"Datum": "date", "Frage": "question", "Antwort": "answer", "Bewertung": "stars"}, "{Frage}", "{Antwort}"),
        ({"pregunta": "question", "respuesta": "answer", "fecha": "date"}, "{pregunta}", "{respuesta}"),
        ({"réponse": "answer", "question": "question"}, "{question}", "{réponse}"),
        ({"id": "count", "问题": "question", "答案": "answer"}, "{问题}", "{答案}"),
        ({"subject": "question", "body": "article", "answer": "answer"}, "{subject}\n\n{body}", "{answer}"),
        ({"document": "article", "summary": "question", "id": "hash"}, "{document}", "{summary}"),
        ({"sentence1": "question", "sentence2": "answer", "label": "few"}, "{sentence1}\n\n{sentence2}", "{label}"),
        ({"source": "question", "target": "answer"}, "{source}", "{target}"),
        ({"text": "answer", "Übersetzung": "question"}, "{text}", "{Übersetzung}"),
        ({"Entrada": "question", "Salida__esperada": "answer", "Categoría": "few"}, "{Entrada}", "{Salida esperada}"),
        ({"指示": "task", "入力": "article", "出力": "answer"}, "{指示}\n\n{入力}", "{出力}"),
        ({"回答内容": "answer", "お問い合わせ内容": "question"}, "{お問い合わせ内容}", "{回答内容}"),
        ({"Ответ__оператора": "answer", "Вопрос__клиента": "question", "Оценка": "stars"},
         "{Вопрос клиента}", "{Ответ оператора}"),
        ({"客服": "answer", "用户": "question"}, "{用户}", "{客服}"),
        ({"Anfrage": "question", "Rückmeldung": "answer", "Bearbeiter": "few"}, "{Anfrage}", "{Rückmeldung}"),
        ({"Frage": "question", "Lösungsvorschlag": "answer", "Themengebiet": "few"}, "{Frage}", "{Lösungsvorschlag}"),
        ({"User__Message": "question", "Assistant__Message": "answer"}, "{User Message}", "{Assistant Message}"),
        ({"Word": "answer", "definition": "article", "example": "question"}, "{Word}", "{definition}"),
        ({"title": "answer", "text": "article", "label": "few"}, "{text}", "{label}"),
        ({"description": "article", "category": "few"}, "{description}", "{category}"),
        ({"title": "answer", "description": "article", "answer": "answer"}, "{title}\n\n{description}", "{answer}"),
        ({"user": "question", "assistant": "answer"}, "{user}", "{assistant}"),
        ({"question": "question", "correct_answer": "answer", "distractor1": "answer"},
         "{question}", "{correct_answer}"),
        ({"ref": "code", "wording": "article", "outcome": "few"}, "{wording}", "{outcome}"),
        ({"id": "code", "question_stem": "question", "choices": "article", "answerKey": "tags"},
         "{question_stem}\n\n{choices}", "{answerKey}"),
        ({"premise": "article", "choice1": "answer", "choice2": "answer", "label": "bool", "idx": "count"},
         "{premise}\n\n1. {choice1}\n2. {choice2}", "{label}"),
        ({"input_text": "question", "output_text": "answer"}, "{input_text}", "{output_text}"),
        ({"Ticket__ID": "count", "Subject": "question", "Description": "article", "Status": "same", "Priority": "same",
          "Last__comment": "answer"}, "{Subject}\n\n{Description}", "{Last comment}"),
        ({"Timestamp": "date", "What__is__your__question?__(required)": "question", "How__are__we__doing?": "few",
          "What__would__be__the__ideal__answer?": "answer"},
         "{What is your question? (required)}", "{What would be the ideal answer?}"),
        ({"annotator": "few", "sentence1": "question", "sentence2": "answer", "gold_label": "few"},
         "{sentence1}\n\n{sentence2}", "{gold_label}"),
        ({"only": "article"}, "", "{only}"),
        ({"id": "hash", "text": "article", "date": "date"}, "", "{text}"),
    ],
)  # fmt: skip
def test_the_pair_that_the_data_speaks_for_is_suggested(kinds: dict[str, str], prompt: str, completion: str) -> None:
    suggestion = suggest(**kinds)
    assert (suggestion.kind, suggestion.prompt, suggestion.completion) == ("pair", prompt, completion)
    names = [name.replace("___", ": ").replace("__", " ") for name in kinds]
    assert compile_template(suggestion.completion, names).columns


@pytest.mark.parametrize(
    ("kinds", "candidate"),
    [
        ({"a": "question", "b": "answer", "c": "article"}, None),
        ({"en": "question", "de": "answer"}, ("{en}", "{de}")),
        ({"prompt": "question", "response_a": "answer", "response_b": "answer", "winner": "few"}, None),
        ({"text": "article", "sentiment": "few", "category": "tags"}, ("{text}", "{sentiment}")),
        ({"review": "article", "response": "answer", "sentiment": "few"}, ("{review}", "{response}")),
        ({"prompt": "question", "output": "answer", "response": "answer"}, ("{prompt}", "{output}")),
        ({"question": "question", "article": "article", "answer": "answer"}, ("{article}\n\n{question}", "{answer}")),
        ({"review": "article", "rating": "stars"}, ("", "{review}")),
        ({"title": "question", "text": "article", "time": "count", "type": "same"}, ("", "{text}")),
        ({"Product__name": "question", "Features": "answer", "Description": "article", "Category": "few",
          "Price": "stars"}, ("{Product name}\n\n{Features}", "{Description}")),
        ({"product_name": "question", "description": "article", "category": "few"}, ("{description}", "{category}")),
        ({"Description": "article", "Product": "question"}, ("{Product}", "{Description}")),
        ({"Headline": "question", "Article": "article"}, ("{Headline}", "{Article}")),
        ({"document": "article", "headline": "question"}, ("{document}", "{headline}")),
        ({"title": "question", "abstract": "article"}, ("{abstract}", "{title}")),
        ({"Class__Index": "stars", "Title": "question", "Description": "article"},
         ("{Title}\n\n{Description}", "{Class Index}")),
        ({"Bezeichnung": "question", "Merkmale": "answer", "Beschreibung": "article", "Kategorie": "few"},
         ("{Bezeichnung}\n\n{Merkmale}", "{Beschreibung}")),
        ({"comment": "question", "is_toxic": "flag"}, ("{comment}", "{is_toxic}")),
        ({"comment": "question", "is_toxic": "bool", "id": "count"}, ("{comment}", "{is_toxic}")),
        ({"Anglais": "question", "Français": "answer"}, ("{Anglais}", "{Français}")),
        ({"question_id": "count", "intent": "title", "rewritten_intent": "question", "snippet": "answer"}, None),
        ({"inputs_pretokenized": "question", "targets_pretokenized": "answer", "inputs": "vector",
          "targets": "vector"}, None),
        ({"Название": "question", "Описание": "article", "Категория": "few"}, ("{Название}", "{Описание}")),
    ],
)  # fmt: skip
def test_where_choices_are_close_nothing_is_chosen(kinds: dict[str, str], candidate: tuple[str, str] | None) -> None:
    suggestion = suggest(**kinds)
    assert (suggestion.kind, suggestion.prompt, suggestion.completion) == ("ask", "", "")
    assert candidate is None or candidate in suggestion.candidates
    assert all("{rating}" not in completion for _, completion in suggestion.candidates)


def test_preference_files_train_on_the_chosen_answer_and_say_so() -> None:
    for kinds in (
        {"prompt": "question", "chosen": "answer", "rejected": "answer"},
        {"rejected": "answer", "chosen": "answer", "prompt": "question", "score_chosen": "stars"},
    ):
        suggestion = suggest(**kinds)
        assert (suggestion.kind, suggestion.prompt, suggestion.completion) == ("pair", "{prompt}", "{chosen}")
        assert "'rejected' are not used" in suggestion.notes[0]
    for name, other in (("response_chosen", "response_rejected"), ("chosen_text", "rejected_text")):
        suggestion = suggest(**{"prompt": "question", other: "answer", name: "answer", f"{name}_score": "stars"})
        assert (suggestion.kind, suggestion.completion) == ("pair", f"{{{name}}}")
        assert f"'{other}' are not used" in suggestion.notes[0]
    both = suggest_columns(("chosen", "rejected"), [], {"rejected": "", "chosen": ""})
    assert (both.kind, both.messages) == ("conversations", "chosen")


def test_reasoning_that_is_left_out_is_told(open_bytes: Callable[..., Table]) -> None:
    rows = [f"Where is lamp {at}?,It was moved {at}.,Aisle {at}." for at in range(9)]
    lines = ["question,Complex_CoT,response", *rows]
    found = suggest_for_table(open_bytes("\n".join(lines)))
    assert (found.prompt, found.completion) == ("{question}", "{response}")
    assert "The reasoning in 'Complex_CoT' is not used" in found.notes[0] and "{Complex_CoT}" in found.notes[0]


def test_answers_marked_as_bad_are_asked_about_and_found(open_bytes: Callable[..., Table]) -> None:
    rows = [f'{{"prompt": "Where is {i}?", "completion": "There {i}.", "label": {str(i % 2 == 0).lower()}}}'
            for i in range(20)]  # fmt: skip
    table = open_bytes("[" + ",".join(rows) + "]", "json")
    suggestion = suggest_for_table(table)
    assert (suggestion.kind, suggestion.candidates) == ("ask", (("{prompt}", "{completion}"),))
    assert "10 of 20" in suggestion.notes[0]
    assert "Data checks" in suggestion.notes[0]
    found = {finding.kind: finding for finding in list_findings(table, make_config("{prompt}", "{completion}"))}
    assert found["bad_answer"].rows.tolist() == list(range(1, 20, 2))
    assert found["bad_answer"].fixes[0].action == "drop"
    assert "bad_answer" not in {f.kind for f in list_findings(table, make_config("{prompt}", "{label}"))}


def test_annotations_that_were_rejected_are_asked_about_and_found(open_bytes: Callable[..., Table]) -> None:
    lines = [f"The lamp {i} is in aisle {i}.,{'ab'[i % 2]},{'accept' if i % 4 else 'reject'}" for i in range(20)]
    table = open_bytes("text,label,answer\n" + "\n".join(lines))
    suggestion = suggest_for_table(table)
    assert (suggestion.kind, suggestion.candidates) == ("ask", (("{text}", "{label}"),))
    assert "'answer' marks each answer as good or bad; 5 of 20" in suggestion.notes[0]
    found = {finding.kind: finding for finding in list_findings(table, make_config("{text}", "{label}"))}
    assert found["bad_answer"].rows.tolist() == [0, 4, 8, 12, 16]


def test_a_text_that_holds_request_and_answer_is_no_prompt() -> None:
    rows = [{"instruction": f"Where is lamp {i}?", "output": f"In aisle {i}."} for i in range(20)]
    full = [{**row, "text": f"### Asked:\n{row['instruction']}\n### Said:\n{row['output']}"} for row in rows]
    suggestion = suggest_columns(("instruction", "output", "text"), full)
    assert (suggestion.kind, suggestion.prompt, suggestion.completion) == ("pair", "{instruction}", "{output}")
    other = suggest_columns(("instruction", "output", "text"), [{**row, "text": row["output"] * 20} for row in rows])
    assert ("{text}\n\n{instruction}", "{output}") in other.candidates


def test_rows_that_are_single_messages_are_named() -> None:
    suggestion = suggest(message_id="code", parent_id="code", role="role", text="question")
    assert suggestion.kind == "ask"
    assert "'role' says who wrote it" in suggestion.notes[0]


def test_a_sorted_file_is_sampled_at_its_start_middle_and_end(open_bytes: Callable[..., Table]) -> None:
    table = open_bytes("text,mood\n" + "".join(f"the thing number {i} is here,{'ab'[i // 500]}\n" for i in range(1000)))
    assert suggest_for_table(table).completion == "{mood}"


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2", "3", "4", "5"], "id"), (["3", "1", "3", "9", "2"], "number"), (["x"] * 5, "constant"),
        (["a1", "a2", "a3", "a4", "a5"], "id"), (["2026-01-02T10:00:00Z"] * 3, "date"), (["", None], "empty"),
        (["https://a.example/x", "www.b.example"], "link"), (["no", "yes"] * 5, "values"),
        (['[{"a": 1}]'] * 2, "nested"), (["Where is it?", "Why is that so?"], "text"),
    ],
)  # fmt: skip
def test_cells_are_described(cells: list[str | None], kind: str) -> None:
    assert describe_cells(cells).kind == kind


def test_no_table_of_the_benchmark_gets_a_wrong_pair() -> None:
    rng = random.Random(7)
    counts = Counter(outcome_of_table(layout, rng) for layout in LAYOUTS | OPEN_LAYOUTS for _ in range(5))
    assert counts["wrong"] == 0
    assert counts["right"] >= 0.95 * counts.total()
