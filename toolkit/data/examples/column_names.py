"""What the name of a column says about its role: words for prompts, answers, context, labels and metadata.

A name is compared in words: case, camel case, underscores, invisible characters and outer spaces don't matter.
"""

from __future__ import annotations

import re
import unicodedata

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NOT_WORD = re.compile(r"[\W_]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.replace("_", " ").split("|"))


REQUESTS = _words(
    "question|questions|query|prompt|instruction|problem|request|q|user prompt|user input|user query|user question|"
    "user message|customer question|task|frage|fragen|aufgabe|anfrage|eingabeaufforderung|question posée|requête|"
    "consigne|pregunta|preguntas|consulta|instrucción|instruccion|instrução|instrucao|pergunta|domanda|richiesta|"
    "istruzione|vraag|opdracht|pytanie|polecenie|вопрос|запрос|инструкция|问题|問題|提问|指令|質問|질문|soru|fråga|"
    "otázka|spørgsmål|spørsmål|kysymys|ερώτηση|întrebare|kérdés|питання|سؤال|שאלה|प्रश्न|câu hỏi|pertanyaan"
)
"""What is asked of the model, in the languages whose files are common."""

SPEAKERS = _words("user|human|customer|client|kunde|usuario|utilisateur|utente|cliente|пользователь|用户")
"""Columns of what a person says, next to a column of ANSWERING_SPEAKERS."""

TEXTS = _words(
    "input|inputs|message|text|texts|review|reviews|review text|sentence|sentences|comment|comments|tweet|tweets|"
    "ticket|email|e mail|mail|body|content|post|article|document|utterance|description|complaint|transcript|dialogue|"
    "news|clean text|eingabe|nachricht|rezension|bewertungstext|satz|kommentar|beschreibung|entrée|texte|"
    "message client|avis|phrase|commentaire|entrada|texto|mensaje|reseña|resena|frase|oración|comentario|mensagem|"
    "comentário|ingresso|testo|messaggio|recensione|commento|invoer|tekst|bericht|recensie|zin|wejście|recenzja|"
    "wiadomość|текст|сообщение|отзыв|文本|输入|评论|テキスト|入力|レビュー|텍스트|입력|리뷰|metin|"
    "yorum|source text|hypothesis"
)
"""Texts that are classified, summarized or answered."""

ANSWERS = _words(
    "answer|answers|response|responses|completion|output|outputs|reply|solution|target|a|expected|expected answer|"
    "expected output|tgt|ground truth|reference answer|gold answer|correct answer|best answer|target text|result|"
    "antwort|antworten|ausgabe|lösung|loesung|réponse|reponse|sortie|respuesta|respuestas|salida|resposta|saída|saida|"
    "risposta|soluzione|antwoord|uitvoer|odpowiedź|odpowiedz|ответ|решение|回答|答案|输出|応答|出力|답변|대답|응답|cevap|"
    "yanıt|svar|odpověď|vastaus|απάντηση|răspuns|válasz|відповідь|جواب|إجابة|תשובה|उत्तर|câu trả lời|jawaban"
)
ANSWERING_SPEAKERS = _words("assistant|bot|gpt|chatbot|agent reply|assistent|asistente|assistente|助手")

DERIVED = _words(
    "summary|translation|highlights|headline|tldr|tl dr|abstract|zusammenfassung|übersetzung|résumé|resume|traduction|"
    "resumen|traducción|resumo|tradução|riassunto|traduzione|samenvatting|vertaling|streszczenie|tłumaczenie|"
    "перевод|резюме|摘要|翻译|翻訳|要約|번역|요약|özet|çeviri"
)
"""Texts that are made from another text."""

LABELS = _words(
    "label|labels|label text|sentiment|category|class|intent|emotion|classification|polarity|topic label|toxicity|spam|"
    "stimmung|kategorie|klasse|etikett|absicht|étiquette|catégorie|classe|sentimiento|etiqueta|categoría|categoria|"
    "clase|sentimento|rótulo|sentimento label|etichetta|categorie|etykieta|kategoria|категория|метка|тональность|"
    "标签|类别|情感|ラベル|カテゴリ|感情|라벨|카테고리|감정|kategori|etiket|duygu"
)
WEAK_LABELS = _words(
    "topic|type|tag|tags|priority|queue|department|product|genre|thema|typ|priorität|abteilung|sujet|tema|tipo|тип|"
    "主题|difficulty|level|language|lang|sprache|langue|idioma|lingua|domain|subject area|status|task type"
)
"""Often metadata, sometimes what is to be predicted."""

CONTEXTS = _words(
    "context|contexts|passage|background|paragraph|story|support|evidence|reference text|knowledge|kontext|"
    "hintergrund|textstelle|abschnitt|contexte|contexto|contesto|контекст|上下文|背景|文脈|コンテキスト|문맥|지문|bağlam|"
    "schema|sql context|table schema|premise|instruction input"
)
"""What the answer is found in: it belongs to the prompt."""

CHOICES = _words("choices|options|option|endings|antwortmöglichkeiten|optionen|opciones|opções|options de réponse|选项")
SUBJECTS = _words(
    "subject|title|betreff|titel|objet|titre|asunto|título|titulo|assunto|oggetto|titolo|тема|标题|件名|제목"
)
MAIL_TEXTS = _words("body|message|email|mail|content|post|ticket|nachricht|mensaje|mensagem|messaggio|description")
CHOSEN = _words("chosen|preferred|chosen response|preferred response|chosen answer|preferred answer|accepted response")
REJECTED = _words("rejected|dispreferred|rejected response|rejected answer|non preferred|less preferred")
VERDICTS = _words(
    "label|labels|is correct|correct|good|is good|helpful|is helpful|thumbs up|accepted|preferred|desirable|kto tag|"
    "kto label|feedback|is accepted|positive|richtig|korrekt|approved"
)
"""Names of a true/false column that says whether the answer of the row is a good one."""

INPUTS = _words("input|inputs|instruction input|eingabe|entrada|entrée|ingresso|invoer|输入|入力|입력|wejście")
"""The optional second part of an instruction."""
SOURCES = _words("source|src|source text|original|quelle")
"""Metadata, unless the table has a target next to it."""
TARGETS = _words("target|tgt|target text|translation|ziel")
LANGUAGES = _words(
    "en|de|fr|es|it|pt|nl|pl|ru|zh|ja|ko|tr|sv|cs|uk|ar|english|german|french|spanish|italian|portuguese|dutch|polish|"
    "russian|chinese|japanese|korean|turkish|deutsch|englisch|français|español"
)

RATINGS = _words("rating|ratings|stars|score|bewertung|sterne|puntuación|calificación|оценка|评分|評価|평점|puan")
"""Never the answer, but a reason to ask what a text beside it is for."""

ROLES = _words("role|from|speaker|sender|author role|author|rolle|rol|rôle|ruolo|turn role|message role")
ROLE_VALUES = _words("user|assistant|system|human|gpt|prompter|bot|model|tool|chatgpt|agent|customer|ai|developer")
MESSAGE_TEXTS = _words("text|content|message|value|body|utterance|nachricht|texto|texte|msg")

_META_LAST = _words(
    "id|ids|uuid|guid|key|no|nr|num|number|index|idx|row|hash|sha|md5|score|scores|rating|ratings|stars|votes|upvotes|"
    "likes|views|rank|weight|confidence|probability|date|time|timestamp|datetime|created|updated|at|year|month|day|url|"
    "urls|link|links|href|uri|path|file|filename|source|sources|split|subset|fold|set|author|username|annotator|"
    "reviewer|worker|agent|model|version|license|licence|length|len|tokens|count|words|cost|latency|duration|"
    "temperature|country|city|region|currency|price|amount|age|gender|email address|phone|bewertung|punkte|sterne|"
    "datum|uhrzeit|zeit|quelle|autor|verfasser|punktzahl|note|notes|remark|remarks|bemerkung|fecha|fuente|puntuación|"
    "calificación|fonte|punteggio|dato|дата|оценка|источник|日期|评分|来源|日付|評価|날짜|평점|tarih|puan|name|"
    "checksum|page|position|order|offset|session|thread|conversation id|platform|channel|device|ip|"
    "winner|judge|preference|margin|quality|explanation score|helpfulness|verified|flag|zuverlässigkeit|unnamed|"
    "metadata|meta|info|extra|logprob|perplexity|loss|seed|batch|shard|upvote|downvotes|karma|helpful"
)
"""Last words of the names of metadata: never a prompt, never an answer."""
_BAD_WORDS = _words(
    "rejected|incorrect|wrong|bad|negative|worse|worst|distractor|distractors|prediction|predicted|pred|falsch|"
    "dispreferred|generated|baseline|losing|discarded"
)
"""A name with one of these words is no answer to train on."""
_PLACEHOLDER = re.compile(r"(unnamed|column|field|index level) ?\d*|index|level \d+|x|")
_CHOICE = re.compile(r"((?:option|choice|opt|answer) ?)?([a-f])")


def normalize_column_name(name: str) -> str:
    """Return a name in lower-case words separated by spaces: "justAnswer " -> "just answer"."""
    seen = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    return _NOT_WORD.sub(" ", _CAMEL.sub(" ", seen)).strip().casefold()


def match_name(name: str, words: frozenset[str]) -> int:
    """Return how well a normalized name belongs to a list of words: 2 if it is in it, 1 if its last word is, else 0.

    A last word of a single letter does not count.
    """
    if name in words:
        return 2
    last = name.rpartition(" ")[2]
    return int(last in words and len(last) > 1 and last != name)


def is_metadata_name(name: str) -> bool:
    """Return whether a normalized name is that of an id, an index, a date, a rating, a source or other metadata."""
    return name.rpartition(" ")[2] in _META_LAST or name.partition(" ")[0] in ("is", "has", "num", "n")


def is_placeholder_name(name: str) -> bool:
    """Return whether a normalized name is one that a program gave to a column without a name, such as an index."""
    return _PLACEHOLDER.fullmatch(name) is not None


def is_bad_answer_name(name: str) -> bool:
    """Return whether a normalized name is that of an answer which is not to be learned."""
    return not _BAD_WORDS.isdisjoint(name.split()) or name in REJECTED


def read_choice_letter(name: str) -> str | None:
    """Return "a" for a normalized name such as "a", "option a" or "answer a"; None for a name of no choice."""
    match = _CHOICE.fullmatch(name)
    return match.group(2) if match else None
