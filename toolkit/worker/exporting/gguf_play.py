"""python -m toolkit.worker.exporting.gguf_play: play one GGUF file in llama.cpp, on one core.

Standard input: JSON {"path", "special", "prompts": [{"text", "ids", "tokens"}], "speed_tokens"}. special: whether
llama.cpp adds the BOS that the file asks for; tokens: the length of the answer. Standard output: JSON {"played":
[{"ids", "answer"}], "tokens", "seconds"}, with the ids that llama.cpp makes of each text, and the seconds of the core
for an answer of `speed_tokens`. A process of its own, as it is native code.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import secrets
import subprocess
import sys
import time
from typing import Any

import httpx

from toolkit.export.export_forms import GGUF_FILE
from toolkit.export.export_state import commit_hash, export_folder
from toolkit.export.gguf_ladder import PLAYER, PlayedGguf, played_path
from toolkit.export.prompt_contract import PromptContract
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import durable_write
from toolkit.system.private_files import restrict_new_files

PLAY_SECONDS = 600
"""For one file; a model that takes longer has no figures."""
SPEED_TOKENS = 32
ANSWER_SECONDS = 300
CONTEXT_SPARE = 64


def play_export(run: RunDir, form: str, contract: PromptContract) -> PlayedGguf:
    """Play an exported file, write and return what llama.cpp made of it."""
    folder = export_folder(run, form)
    prompts = [{"text": one.text, "ids": one.ids, "tokens": len(one.answer_ids)} for one in contract.golden]
    asked = {"path": str(folder / GGUF_FILE), "special": not contract.chat, "prompts": prompts}
    played = PlayedGguf(commit=commit_hash(folder), asked=len(prompts))
    played = played.model_copy(update=_compare(contract, _ask_player({**asked, "speed_tokens": SPEED_TOKENS})))
    durable_write(played_path(run, form), played.model_dump_json())
    return played


def _ask_player(asked: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=PLAY_SECONDS
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except subprocess.TimeoutExpired:
        return {"problem": f"llama.cpp was stopped after {PLAY_SECONDS // 60} minutes."}
    except subprocess.CalledProcessError as error:
        sys.stderr.write(error.stderr)
        return {"problem": f"llama.cpp could not play the file: {_last_line(error.stderr)}"}
    except (ValueError, IndexError) as error:
        return {"problem": f"llama.cpp's answers can't be read: {error}"}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1][:300]


def _compare(contract: PromptContract, found: dict[str, Any]) -> dict[str, Any]:
    if "problem" in found:
        return found
    pairs = list(zip(contract.golden, found["played"], strict=True))
    return {
        "ids_equal": sum(tuple(one["ids"]) == golden.ids for golden, one in pairs),
        "equal": sum(tuple(one["answer"]) == golden.answer_ids for golden, one in pairs),
        "tokens": found["tokens"],
        "seconds": found["seconds"],
    }


def play_prompts(path: str, special: bool, prompts: list[dict[str, Any]], speed_tokens: int = 0) -> dict[str, Any]:
    """Return what llama.cpp reads and answers, and its speed."""
    longest = max((len(one["ids"]) + one["tokens"] for one in prompts), default=0)
    key = secrets.token_urlsafe(24)
    server = _start_server(path, longest + speed_tokens + CONTEXT_SPARE, key)
    to = {"base_url": server.listening_address, "headers": {"Authorization": f"Bearer {key}"}}
    with httpx.Client(**to, timeout=ANSWER_SECONDS, trust_env=False) as http:

        def ask(place: str, **body: Any) -> list[int]:
            found: list[int] = http.post(place, json=body).raise_for_status().json()["tokens"]
            return found

        def answer(ids: list[int], tokens: int, **more: Any) -> list[int]:
            greedy = {"temperature": 0, "top_k": 1, "cache_prompt": False, "return_tokens": True, **more}
            return ask("/completion", prompt=ids, n_predict=tokens, **greedy) if tokens else []

        played = [
            {
                "ids": ask("/tokenize", content=one["text"], add_special=special, parse_special=True),
                "answer": answer(one["ids"], one["tokens"]),
            }
            for one in prompts
        ]
        began = time.process_time()
        spoken = answer(prompts[0]["ids"][-1:], speed_tokens, ignore_eos=True) if prompts else []
        return {"played": played, "tokens": len(spoken), "seconds": round(time.process_time() - began, 4)}


def _start_server(path: str, context: int, key: str) -> Any:
    """Return a server of llama.cpp on 127.0.0.1 that computes on one core, which other work disturbs least."""
    llama = importlib.import_module(PLAYER)
    settings = llama.CommonParams()
    settings.model.path, settings.warmup, settings.api_keys, settings.n_ctx = path, False, [key], context
    settings.n_parallel = settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.n_gpu_layers = 0
    return llama.Server(settings)


def can_play(run: RunDir, form: str) -> bool:
    """Return whether the export holds a GGUF file, and the package that plays one is installed."""
    return (export_folder(run, form) / GGUF_FILE).is_file() and importlib.util.find_spec(PLAYER) is not None


if __name__ == "__main__":
    restrict_new_files()
    print(json.dumps(play_prompts(**json.load(sys.stdin))))
