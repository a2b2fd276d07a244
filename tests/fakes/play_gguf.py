"""python play_gguf.py: plays GGUF files in llama.cpp, from the package xllamacpp, and answers greedily.

Standard input: a JSON list of {"path", "special", "prompts": [{"text", "ids", "tokens"}]}. special: whether llama.cpp
adds the BOS that the file asks for; tokens: the length of the answer. Standard output: a JSON list of
[{"ids", "answer"}], with the ids that llama.cpp makes of each text. A process of its own, as it is native code.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

import xllamacpp


def play(path: str, special: bool, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what llama.cpp reads and answers."""
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.warmup = path, 1024, False
    server = xllamacpp.Server(settings)

    def post(place: str, body: dict[str, Any]) -> dict[str, Any]:
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(server.listening_address + place, data=data, headers=kind)
        with urllib.request.urlopen(request, timeout=120) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    greedy = {"temperature": 0, "top_k": 1, "cache_prompt": False, "return_tokens": True}
    return [
        {
            "ids": post("/tokenize", {"content": one["text"], "add_special": special, "parse_special": True})["tokens"],
            "answer": post("/completion", {"prompt": one["ids"], "n_predict": one["tokens"], **greedy})["tokens"],
        }
        for one in prompts
    ]


if __name__ == "__main__":
    print(json.dumps([play(**file) for file in json.load(sys.stdin)]))
