"""Where llama.cpp is known to give other tokens than transformers whatever a file says."""

from __future__ import annotations

from hubquant.convert.vocab.vocabulary import Vocabulary

# llama.cpp tells upper from lower case in ASCII only for these, and does not let marks join letters.
_CASED = ("tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2")


def known_differences(vocabulary: Vocabulary) -> frozenset[str]:
    """Names of the texts of ``hubquant.evaluate.texts`` on which it may."""
    if vocabulary.model == "gpt2" and vocabulary.pre in _CASED:
        return frozenset({"Latin capitals", "marks"})
    return frozenset()
