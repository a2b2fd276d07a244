"""Read and write the files of a tokenizer so that it keeps the token ids that the base model was trained with.

transformers builds the tokenizer that `tokenizer_class` names from the vocabulary of tokenizer.json alone, with its own
rules for splitting a text, and it saves fewer settings than it has read. Both change the ids without an error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolkit.errors import ToolkitError
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import MAX_LARGE_JSON_PARTS, read_foreign_json
from toolkit.worker.models.architecture import BAD_MODEL
from toolkit.worker.models.older_readers import TOKENIZER_CONFIG_FILE, write_old_tokenizer_form

_PROBES = (
    "Order 12,345 lamps: don't, WE'LL pay  3.5 % (VAT)?\n\n  ok\t\r\n",
    " begins and ends with spaces  ",
    "naïve CAFÉ Ünïcödé, Привет, 中文字符 日本語 한국어 😀👩‍👩‍👧",
    "def f(x_y):\n    return x_y[0] != None  # 1e-9\n",
)
"""Texts that the usual rules for splitting a text treat differently."""
_PROBED_TOKENS = 24
"""Added tokens that are tried between words: what follows one is treated differently, too."""
_PATH_NAMES = ("_file", "name_or_path")
"""Ends of settings that name paths of the machine on which a model was made."""


def read_tokenizer(folder: Path, name: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of `folder`, with the ids of its tokenizer.json if there is one. name: of the model.

    Raises ToolkitError if they can't be had, and what transformers raises for broken files.
    """
    found = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    path = folder / "tokenizer.json"
    if not getattr(found, "is_fast", False) or type(found) is PreTrainedTokenizerFast or not path.is_file():
        return found
    published = Tokenizer.from_file(str(path))
    added = [token.content for token in published.get_added_tokens_decoder().values()][:_PROBED_TOKENS]
    if _has_ids_of(published, found, [*_PROBES, *(f"a {token} b{token}c\n{token}" for token in added)]):
        return found
    plain: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    if not _has_ids_of(published, plain, _PROBES):
        message = f"transformers gives texts other token ids than tokenizer.json of '{name}' does."
        raise ToolkitError(message, "Download the model again, or choose another one.", BAD_MODEL)
    return plain


def _has_ids_of(published: Tokenizer, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> bool:
    ids = []
    for backend in (published, tokenizer.backend_tokenizer):
        backend.no_truncation()
        backend.no_padding()
        ids.append([item.ids for item in backend.encode_batch_fast(list(texts), add_special_tokens=False)])
    return ids[0] == ids[1]


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save the tokenizer into `folder`, with the settings that transformers read from its files and does not save."""
    tokenizer.save_pretrained(folder)
    path = Path(tokenizer.name_or_path) / TOKENIZER_CONFIG_FILE
    if path.is_file():
        settings = json.loads((folder / TOKENIZER_CONFIG_FILE).read_text(encoding="utf-8"))
        for key, value in read_foreign_json(path, parts=MAX_LARGE_JSON_PARTS).items():
            plain = value is None or isinstance(value, bool | int | float | str)
            if plain and key != "chat_template" and not key.endswith(_PATH_NAMES):
                settings.setdefault(key, value)
        durable_write(folder / TOKENIZER_CONFIG_FILE, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    write_old_tokenizer_form(folder)
