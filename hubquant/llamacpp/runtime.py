"""Load a written file in llama.cpp itself, where xllamacpp is installed, and see that it works there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hubquant.errors import VerificationError
from hubquant.evaluate.runner import Runner
from hubquant.llamacpp.process import (
    NOT_INSTALLED,
    LlamaCppFailure,
    NoAnswerError,
    ask,
    installed_version,
    is_installed,
)
from hubquant.llamacpp.texts import texts_without
from hubquant.llamacpp.vocabulary import first_difference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

N_PROMPTS = 8
N_CTX = 512
TOP = 10
LEAST_AGREEMENT = 0.5
TIMEOUT = 900.0  # seconds

NextTokens = Callable[[Sequence[torch.Tensor]], Sequence[int]]
"""The most probable token after each of some prompts, ids [n] each."""


@dataclass(frozen=True)
class RuntimeCheck:
    """``skipped`` tells why nothing was checked. Of ``n_prompts`` prompts, the model's most probable next token was
    among the first ``TOP`` of llama.cpp ``n_agreeing`` times, and the first ``n_same_top`` times. ``version`` is
    xllamacpp's, whose last part is llama.cpp's build."""

    skipped: str | None = None
    n_prompts: int = 0
    n_agreeing: int = 0
    n_same_top: int = 0
    version: str | None = None

    def __str__(self) -> str:
        if self.skipped:
            return f"skipped: {self.skipped}"
        return f"passed: same tokens, same next token for {self.n_same_top} of {self.n_prompts} prompts"


def runtime_check(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    next_tokens: NextTokens,
    *,
    without: Collection[str] = (),
    add_special: bool = True,
    threads: int = 1,
    timeout: float = TIMEOUT,
    least_agreement: float = LEAST_AGREEMENT,
) -> RuntimeCheck:
    """Load ``path`` (the first shard of several) in llama.cpp and compare it with the source's tokenizer and with what
    a model predicts.

    The ids of a multilingual text must be the tokenizer's, with what it puts around a text if ``add_special`` says so
    (``without`` names parts that llama.cpp is known to split otherwise). For at least ``least_agreement`` of the
    prompts the model's most probable next token must be among the ``TOP`` most probable of the file. The model may
    be the source or the file's own weights restored in transformers; the latter agree far better at two bits, so that
    what is left is what llama.cpp makes of the file. llama.cpp runs in a process of its own without output. What it has
    not answered in ``timeout`` seconds is not checked. Raises VerificationError when it cannot load the file, crashes,
    or disagrees.
    """
    if not is_installed():
        return RuntimeCheck(skipped=NOT_INSTALLED)
    text = texts_without(without)
    ids: list[int] = tokenizer(text, add_special_tokens=add_special, verbose=False)["input_ids"]
    prompts = [ids[: len(ids) * (i + 1) // N_PROMPTS][: N_CTX - 2] for i in range(N_PROMPTS)]
    request = {
        "path": str(path),
        "texts": [text],
        "parse_special": False,
        "prompts": prompts,
        "plain_token": tokenizer("a", add_special_tokens=False)["input_ids"][-1],
        "n_probs": TOP,
        "n_ctx": N_CTX,
        "threads": threads,
    }
    try:
        reply = ask(request, timeout)
    except NoAnswerError:
        return RuntimeCheck(skipped=f"llama.cpp did not answer in {timeout:.0f} seconds")
    except LlamaCppFailure as failure:
        raise VerificationError(
            f"llama.cpp cannot use {path.name}",
            why=str(failure),
            hint="check that llama.cpp supports this architecture",
        ) from None
    if reply["ids"] != [ids]:
        raise _other_tokens(path, reply["ids"][0], ids, tokenizer)
    tops = next_tokens([torch.tensor(prompt) for prompt in prompts])
    n_agreeing = sum(top in found for top, found in zip(tops, reply["top"], strict=True))
    if n_agreeing < least_agreement * len(prompts):
        raise VerificationError(
            f"{path.name} does not predict in llama.cpp what the model predicts",
            why=f"for {n_agreeing} of {len(prompts)} prompts the most probable token is among its first {TOP}",
            hint="check that llama.cpp supports this architecture, and report it with the name of the model",
        )
    n_same_top = sum(top == found[0] for top, found in zip(tops, reply["top"], strict=True))
    return RuntimeCheck(None, len(prompts), n_agreeing, n_same_top, installed_version())


def predicted_by(runner: Runner) -> NextTokens:
    """What ``runner`` predicts, which runs one prompt after the other."""
    return lambda prompts: [int(runner(prompt, len(prompt) - 1)[-1].argmax()) for prompt in prompts]


def _other_tokens(
    path: Path, found: list[int], expected: list[int], tokenizer: PreTrainedTokenizerBase
) -> VerificationError:
    at = first_difference(found, expected)
    context = tokenizer.decode(expected[max(0, at - 2) : at + 3])
    return VerificationError(
        f"{path.name} tokenizes differently in llama.cpp",
        why=f"token {at} is {found[at : at + 1]} instead of {expected[at : at + 1]}, at {context!r}",
        hint="the tokenizer needs another pre-tokenizer in GGUF; report it with the name of the model",
    )
