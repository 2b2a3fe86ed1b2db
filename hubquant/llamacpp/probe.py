"""Asks llama.cpp about one file; run as a script in a process of its own, because a bad file may take the process down.

Reads {"path", "texts", "parse_special", "prompts", "plain_token", "n_probs", "n_ctx", "threads"} as JSON on stdin.
Answers on stdout with {"ids": token ids of each text, "top": for each prompt of ids the ids of the most probable next
tokens} or {"error"}.
llama.cpp's log goes to stderr. Uses only the public API of xllamacpp: its server and that server's HTTP endpoints.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any


def main() -> None:
    request = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        reply = probe(request)
    except Exception as error:  # whatever the binding raises belongs into the answer
        reply = {"error": f"{type(error).__name__}: {error}"}
    json.dump(reply, answer)
    answer.flush()
    # Without the server's own shutdown, which may wait for connections.
    os._exit(0)


def probe(request: dict[str, Any]) -> dict[str, Any]:
    server = start_server(request["path"], request["n_ctx"], request["threads"])
    options = {"add_special": True, "parse_special": request["parse_special"]}
    # The server keeps back the probabilities of a token that ends within a UTF-8 sequence; they are those before
    # sampling, so that another token may be forced without changing them.
    forced = {"n_predict": 1, "logit_bias": [[request["plain_token"], 1e4]]}
    sampling = {**forced, "n_probs": request["n_probs"], "temperature": 0, "cache_prompt": True}
    completions = [post(server, "/completion", {"prompt": ids, **sampling}) for ids in request["prompts"]]
    return {
        "ids": [post(server, "/tokenize", {"content": text, **options})["tokens"] for text in request["texts"]],
        "top": [[t["id"] for t in c["completion_probabilities"][0]["top_logprobs"]] for c in completions],
    }


def start_server(path: str, n_ctx: int, threads: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_gpu_layers = 0
    params.n_ctx = params.n_batch = n_ctx
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.warmup = False
    return xllamacpp.Server(params)


def post(server: Any, endpoint: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        server.listening_address + endpoint, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with local.open(request) as response:
        return json.load(response)


if __name__ == "__main__":
    main()
