"""What the name of a column says about its role: words for prompts, answers, context, labels and metadata.

A name is compared in words: case, camel case, underscores, invisible characters and outer spaces don't matter.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata

from toolkit.system.paths import ASSETS

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NOT_WORD = re.compile(r"[\W_]+")
MIN_SENTENCE_WORDS = 4
"""Words of a column name that is a sentence."""


def _read_words() -> dict[str, frozenset[str]]:
    lists = tomllib.loads((ASSETS / "column_names.toml").read_text(encoding="utf-8"))
    return {role: frozenset(word.strip() for word in words.split("|")) for role, words in lists.items()}


# the file says what is in each list
_WORDS = _read_words()
REQUESTS = _WORDS["requests"]
SPEAKERS = _WORDS["speakers"]
TEXTS = _WORDS["texts"]
ANSWERS = _WORDS["answers"]
ANSWERING_SPEAKERS = _WORDS["answering_speakers"]
DERIVED = _WORDS["derived"]
LABELS = _WORDS["labels"]
WEAK_LABELS = _WORDS["weak_labels"]
CONTEXTS = _WORDS["contexts"]
CHOICES = _WORDS["choices"]
CHOICE_KEYS = _WORDS["choice_keys"]
SUBJECTS = _WORDS["subjects"]
MAIL_TEXTS = _WORDS["mail_texts"]
THINGS = _WORDS["things"]
WRITTEN_TEXTS = _WORDS["written_texts"]
CHOSEN = _WORDS["chosen"]
REJECTED = _WORDS["rejected"]
VERDICTS = _WORDS["verdicts"]
INPUTS = _WORDS["inputs"]
SOURCES = _WORDS["sources"]
TARGETS = _WORDS["targets"]
LANGUAGES = _WORDS["languages"]
RATINGS = _WORDS["ratings"]
ROLES = _WORDS["roles"]
ROLE_VALUES = _WORDS["role_values"]
_REASONING = frozenset(word.replace(" ", "") for word in _WORDS["reasoning"])
MESSAGE_TEXTS = _WORDS["message_texts"]
OUTCOMES = ANSWERS | LABELS | WEAK_LABELS | DERIVED | TARGETS
_METADATA = _WORDS["metadata"] | RATINGS
_BAD_WORDS = _WORDS["bad_words"]
_FORMS = frozenset(("text", "body", "content", "message", "html", "markdown", "string", "texte", "texto", "testo"))
_WIDE_FORMS = ("内容", "文本", "テキスト", "文", "내용")
"""The same in writing without spaces, where they end the word."""
_PREPOSITIONS = frozenset(
    ("de", "del", "du", "des", "della", "do", "da", "dos", "van", "von", "der", "an", "aan", "of", "from")
)
"""Words after which comes whose question or answer a column holds: "pregunta del cliente"."""
_HEADS = frozenset(
    (
        *("pregunta", "respuesta", "domanda", "risposta", "pergunta", "resposta", "réponse", "antwoord", "vraag"),
        *("salida", "saída", "sortie", "uscita", "вопрос", "ответ", "текст", "отзыв", "сообщение"),
    )
)
"""Words of languages in which an adjective or a genitive follows: "respuesta sugerida"."""
_PLACEHOLDER = re.compile(r"(unnamed|column|field|index level) ?\d*|index|level \d+|x|")
_CHOICE = re.compile(r"(?:(?:option|choice|opt|op|answer) ?)?([a-f])|(?:option|choice|opt|sol|ending) ?([0-9])")


def normalize_column_name(name: str) -> str:
    """Return a name in lower-case words separated by spaces: "justAnswer " -> "just answer"."""
    seen = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    return _NOT_WORD.sub(" ", _CAMEL.sub(" ", seen)).strip().casefold()


def match_name(name: str, words: frozenset[str]) -> int:
    """Return how well a normalized name belongs to a list of words: 2 if it is in it, 1 if its last word is, else 0.

    The first word counts before a preposition, and a last word of a single letter does not.
    A word for the form of a text, as in "answer body", is ignored.
    """
    if name in words:
        return 2
    first, _, rest = name.partition(" ")
    if first in words and (rest.partition(" ")[0] in _PREPOSITIONS or first in _HEADS):
        return int(name.rpartition(" ")[2] not in _METADATA)
    before, _, last = name.rpartition(" ")
    if last in _FORMS and before not in _FORMS and match_name(before, words):
        return 1
    wide = next((name.removesuffix(form) for form in _WIDE_FORMS if name.endswith(form) and name != form), "")
    return int((last in words and len(last) > 1 and last != name) or wide in words)


def is_metadata_name(name: str) -> bool:
    """Return whether a normalized name is that of an id, an index, a date, a rating, a source or other metadata."""
    return name.rpartition(" ")[2] in _METADATA or name.partition(" ")[0] in ("is", "has", "num", "n")


def is_reasoning_name(name: str) -> bool:
    """Return whether a normalized name is that of the thoughts before an answer; "CoT" was taken for two words."""
    return name.replace(" ", "") in _REASONING


def is_placeholder_name(name: str) -> bool:
    """Return whether a normalized name is one that a program gave to a column without a name, such as an index."""
    return _PLACEHOLDER.fullmatch(name) is not None


def is_bad_answer_name(name: str) -> bool:
    """Return whether a normalized name is that of an answer which is not to be learned."""
    return not _BAD_WORDS.isdisjoint(name.split()) or name in REJECTED


def is_preference_name(name: str, words: frozenset[str]) -> bool:
    """Return whether a normalized name is one of the words, or begins or ends with one: "response chosen"."""
    return name in words or not words.isdisjoint((name.partition(" ")[0], name.rpartition(" ")[2]))


def match_sentence(name: str, words: frozenset[str]) -> bool:
    """Return whether a name that is a sentence, as the questions of a form are, has one of the words."""
    parts = name.split()
    return len(parts) >= MIN_SENTENCE_WORDS and any(len(part) > 1 and part in words for part in parts)


def read_choice_letter(name: str) -> str | None:
    """Return "a" for a normalized name such as "a" or "option a", "1" for "choice 1"; None for a name of no choice."""
    match = _CHOICE.fullmatch(name)
    return match.group(1) or match.group(2) if match else None
