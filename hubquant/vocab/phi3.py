"""What llama.cpp does by a model's name.

Where general.name holds "phi-3" or "phi3", white space after special tokens is dropped, as Phi-3's tokenizer does it,
and a vocabulary without Phi-3's tokens is not loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hubquant.vocab.files import AddedToken

PHI3_TOKENS = ("</s>", "<unk>", "<s>", "<|endoftext|>")
_NAME, _SPACED = re.compile("phi-?3", re.IGNORECASE), re.compile("phi[ _]3", re.IGNORECASE)


def is_phi3(name: str) -> bool:
    return _NAME.search(name) is not None


def strips_as_phi3(added: Iterable[AddedToken]) -> bool:
    """Whether white space is dropped after those special tokens after which llama.cpp does it for Phi-3."""
    strips = {token.content: token.rstrip for token in added}
    return {*PHI3_TOKENS} <= strips.keys() and all(
        strip is (text not in PHI3_TOKENS[1:]) for text, strip in strips.items()
    )


def fitting_name(name: str, *, strips: bool) -> str:
    """``name``, or one like it, so that llama.cpp drops white space where the tokenizer does."""
    if is_phi3(name) is strips:
        return name
    if not strips:
        return _NAME.sub(lambda found: f"{found[0][:3]} 3", name)
    spaced = _SPACED.sub("Phi-3", name, count=1)
    return spaced if is_phi3(spaced) else f"{name} (Phi-3)"
