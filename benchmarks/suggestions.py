"""How often the suggested columns are right, asked about, or wrong.

    python -m benchmarks.suggestions [--seed 1] [--tables 20] [--out FILE]

Each named layout is written `--tables` times with its columns shuffled, up to four distracting columns beside them
(ids, dates, links, ratings, sources, constants and few-valued notes) and other texts. A table whose suggestion is
another pair than the layout's is wrong. In OPEN_LAYOUTS a text may be read or written, so that a pair is wrong, and
right is the question with the layout's pair among the candidates. Exits with 1 if any table is wrong, or if fewer
than 98 % are right or asked about.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

from toolkit.data.examples.column_suggestion import ColumnSuggestion, suggest_columns

ROWS = 60
WORDS = ("lamp", "chair", "rug", "clock", "shelf", "mug", "kettle", "desk", "vase", "hat", "door", "window", "garden")
Cell = Callable[[random.Random, int], str]


def _sentence(words: int) -> Cell:
    return lambda rng, row: " ".join(rng.choice(WORDS) for _ in range(rng.randint(words // 2, words))) + f" {row}."


def _one_of(*values: str) -> Cell:
    return lambda rng, row: rng.choice(values)


KINDS: dict[str, Cell] = {
    "question": lambda rng, row: f"Where does the {rng.choice(WORDS)} of house {row} stand now, and why?",
    "answer": _sentence(14), "long": _sentence(80), "short": _sentence(4), "mood": _one_of("good", "bad", "mixed"),
    "label": _one_of("0", "1", "2"), "task": _one_of("Summarize the text.", "Name its mood.", "Translate it."),
    "number": lambda rng, row: str(rng.randint(0, 900)), "price": lambda rng, row: f"{rng.randint(1, 90)}.99",
    "name": lambda rng, row: f"{rng.choice(WORDS).title()} {rng.choice(WORDS)} {row}",
}  # fmt: skip
DISTRACTORS: dict[str, Cell] = {
    "id": lambda rng, row: str(row), "uuid": lambda rng, row: f"{rng.getrandbits(128):032x}",
    "Unnamed: 0": lambda rng, row: str(row), "ticket_id": lambda rng, row: f"T-{row}",
    "created_at": lambda rng, row: f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
    "url": lambda rng, row: f"https://shop.example/{row}", "score": lambda rng, row: f"{rng.random():.2f}",
    "rating": lambda rng, row: str(rng.randint(1, 5)), "source": _one_of("web", "mail", "shop"),
    "split": _one_of("train", "test"), "model_name": _one_of("m-1", "m-2"), "author": _one_of("Ann", "Bo", "Cy"),
    "topic": _one_of("home", "yard"), "lang": _one_of("en", "de"), "difficulty": _one_of("easy", "hard"),
    "title": _sentence(4), "comment_count": lambda rng, row: str(rng.randint(0, 40)), "user_name": _one_of("ann", "bo"),
    "tags": _one_of("a;b", "b", "c"), "is_public": _one_of("true", "false"), "notes": _sentence(6),
    "version": lambda rng, row: "1", "num_tokens": lambda rng, row: str(rng.randint(3, 90)),
}  # fmt: skip
LAYOUTS: dict[str, tuple[dict[str, str], str, str]] = {
    "question, answer": ({"question": "question", "answer": "answer"}, "{question}", "{answer}"),
    "Question, short answer": ({"Question": "question", "Answer": "short"}, "{Question}", "{Answer}"),
    "prompt, completion": ({"prompt": "question", "completion": "answer"}, "{prompt}", "{completion}"),
    "prompt, response, category": ({"prompt": "question", "response": "answer", "category": "mood"},
                                   "{prompt}", "{response}"),
    "input, output": ({"input": "long", "output": "answer"}, "{input}", "{output}"),
    "instruction, output": ({"instruction": "question", "output": "long"}, "{instruction}", "{output}"),
    "instruction, response": ({"instruction": "question", "response": "long"}, "{instruction}", "{response}"),
    "alpaca": ({"instruction": "task", "input": "long", "output": "answer"},
               "{instruction}\n\n{input}", "{output}"),
    "context, question, answer": ({"context": "long", "question": "question", "answer": "short"},
                                  "{context}\n\n{question}", "{answer}"),
    "dolly": ({"instruction": "question", "context": "long", "response": "answer", "category": "mood"},
              "{context}\n\n{instruction}", "{response}"),
    "review, sentiment": ({"review": "long", "sentiment": "mood"}, "{review}", "{sentiment}"),
    "text, label": ({"text": "answer", "label": "label"}, "{text}", "{label}"),
    "sentence, label": ({"sentence": "answer", "label": "mood"}, "{sentence}", "{label}"),
    "text, category": ({"text": "long", "category": "mood"}, "{text}", "{category}"),
    "utterance, intent": ({"utterance": "question", "intent": "mood"}, "{utterance}", "{intent}"),
    "tweet, emotion": ({"tweet": "answer", "emotion": "mood"}, "{tweet}", "{emotion}"),
    "preference": ({"prompt": "question", "chosen": "answer", "rejected": "answer"}, "{prompt}", "{chosen}"),
    "preference of questions": ({"question": "question", "chosen": "long", "rejected": "long"},
                                "{question}", "{chosen}"),
    "article, summary": ({"article": "long", "summary": "answer"}, "{article}", "{summary}"),
    "article, highlights": ({"article": "long", "highlights": "answer"}, "{article}", "{highlights}"),
    "user, assistant": ({"user": "question", "assistant": "answer"}, "{user}", "{assistant}"),
    "problem, solution": ({"problem": "question", "solution": "long"}, "{problem}", "{solution}"),
    "problem, number": ({"problem": "question", "answer": "number"}, "{problem}", "{answer}"),
    "question, correct answer": ({"question": "question", "correct_answer": "short", "distractor1": "short"},
                                 "{question}", "{correct_answer}"),
    "two sentences": ({"sentence1": "answer", "sentence2": "answer", "label": "label"},
                      "{sentence1}\n\n{sentence2}", "{label}"),
    "subject, body, answer": ({"subject": "short", "body": "long", "answer": "answer"},
                              "{subject}\n\n{body}", "{answer}"),
    "q, a": ({"q": "question", "a": "answer"}, "{q}", "{a}"),
    "Frage, Antwort": ({"Frage": "question", "Antwort": "answer"}, "{Frage}", "{Antwort}"),
    "Eingabe, Ausgabe": ({"Eingabe": "long", "Ausgabe": "answer"}, "{Eingabe}", "{Ausgabe}"),
    "question, réponse": ({"question": "question", "réponse": "answer"}, "{question}", "{réponse}"),
    "pregunta, respuesta": ({"pregunta": "question", "respuesta": "answer"}, "{pregunta}", "{respuesta}"),
    "domanda, risposta": ({"domanda": "question", "risposta": "answer"}, "{domanda}", "{risposta}"),
    "问题, 答案": ({"问题": "question", "答案": "answer"}, "{问题}", "{答案}"),
    "customer_message, agent_response": ({"customer_message": "long", "agent_response": "answer"},
                                         "{customer_message}", "{agent_response}"),
    "вопрос, ответ": ({"вопрос": "question", "ответ": "answer"}, "{вопрос}", "{ответ}"),
    "質問, 回答": ({"質問": "question", "回答": "answer"}, "{質問}", "{回答}"),
    "pergunta, resposta": ({"pergunta": "question", "resposta": "answer"}, "{pergunta}", "{resposta}"),
    "отзыв, категория": ({"отзыв": "long", "категория": "mood"}, "{отзыв}", "{категория}"),
    "text, class index": ({"text": "long", "class_index": "label"}, "{text}", "{class_index}"),
    "names without meaning": ({"field_x": "long", "outcome": "mood"}, "{field_x}", "{outcome}"),
}  # fmt: skip

OPEN_LAYOUTS: dict[str, tuple[dict[str, str], str, str]] = {
    "product name, features, description, category": (
        {"Product name": "name", "Features": "answer", "Description": "long", "Category": "mood", "Price": "price"},
        "{Product name}\n\n{Features}", "{Description}"),
    "product, description": ({"product": "name", "description": "long"}, "{product}", "{description}"),
    "Produktname, Merkmale, Beschreibung": (
        {"Produktname": "name", "Merkmale": "answer", "Beschreibung": "long", "Kategorie": "mood", "Preis": "price"},
        "{Produktname}\n\n{Merkmale}", "{Beschreibung}"),
    "nom du produit, description": ({"Nom du produit": "name", "Description": "long", "Catégorie": "mood"},
                                    "{Nom du produit}", "{Description}"),
    "название, описание": ({"название": "name", "описание": "long", "категория": "mood"},
                           "{название}", "{описание}"),
    "商品名, 特点, 描述": ({"商品名": "name", "特点": "answer", "描述": "long", "分类": "mood"},
                       "{商品名}\n\n{特点}", "{描述}"),
    "Title, Body": ({"Title": "short", "Body": "long"}, "{Title}", "{Body}"),
    "Headline, Article": ({"Headline": "short", "Article": "long"}, "{Headline}", "{Article}"),
    "document, headline": ({"document": "long", "headline": "short"}, "{document}", "{headline}"),
    "name, bio": ({"Name": "name", "Bio": "answer"}, "{Name}", "{Bio}"),
    "keywords, text": ({"keywords": "short", "text": "long"}, "{keywords}", "{text}"),
    "title, abstract": ({"title": "short", "abstract": "long"}, "{title}", "{abstract}"),
}  # fmt: skip
"""Layouts in which the pair is one of several that are as likely."""


def outcome_of_table(layout: str, rng: random.Random) -> str:
    """Return "right", "asked" or "wrong" for one table of the layout."""
    kinds, prompt, completion = (LAYOUTS | OPEN_LAYOUTS)[layout]
    cells = {name: KINDS[kind] for name, kind in kinds.items()}
    for name in rng.sample(sorted(DISTRACTORS), rng.randint(0, 4)):
        cells.setdefault(name, DISTRACTORS[name])
    columns = list(cells)
    rng.shuffle(columns)
    rows = [{name: cells[name](rng, row) for name in columns} for row in range(ROWS)]
    found = suggest_columns(columns, rows)
    if layout in OPEN_LAYOUTS:
        return "wrong" if found.kind != "ask" else "right" if _is_offered(found, prompt, completion) else "asked"
    if found.kind == "ask":
        return "asked"
    # sentences that are compared with each other may stand in any order
    parts = sorted(found.prompt.split("\n\n")) if layout == "two sentences" else found.prompt.split("\n\n")
    return "right" if (parts, found.completion) == (prompt.split("\n\n"), completion) else "wrong"


def _is_offered(found: ColumnSuggestion, prompt: str, completion: str) -> bool:
    """Return whether the pair is a candidate, whatever the order of its columns, also with further columns."""
    wanted = set(prompt.split("\n\n"))
    return any(said == completion and wanted <= set(asked.split("\n\n")) for asked, said in found.candidates)


def main() -> int:
    """Measure and print a line for each layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tables", type=int, default=20, help="tables of each layout")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rng, total, lines = random.Random(asked.seed), Counter[str](), {}
    for layout in LAYOUTS | OPEN_LAYOUTS:
        counts = Counter(outcome_of_table(layout, rng) for _ in range(asked.tables))
        lines[layout] = {name: counts[name] for name in ("right", "asked", "wrong")}
        total += counts
        print(f"{layout:48}" + "".join(f"{name} {count:4}   " for name, count in lines[layout].items()))
    tables = total.total()
    safe = (total["right"] + total["asked"]) / tables
    print(f"{tables} tables: right {total['right']}, asked {total['asked']}, wrong {total['wrong']} ({safe:.1%} safe)")
    if asked.out:
        content = {"date": date.today().isoformat(), "seed": asked.seed, "tables": tables, **total, "layouts": lines}
        asked.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if total["wrong"] == 0 and safe >= 0.98 else 1


if __name__ == "__main__":
    sys.exit(main())
