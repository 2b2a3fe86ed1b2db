"""Where llama.cpp is known to give other tokens than transformers whatever a file says."""

from __future__ import annotations

from hubquant.vocab.vocabulary import Vocabulary

# llama.cpp tells upper from lower case in ASCII only for these, and does not let marks join letters.
_CASED = ("tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2")


def known_differences(vocabulary: Vocabulary) -> frozenset[str]:
    """Names of the texts of ``hubquant.llamacpp.texts`` on which it may."""
    if vocabulary.model == "gpt2" and vocabulary.pre in _CASED:
        return frozenset({"Latin capitals", "marks"})
    if vocabulary.model == "gpt2" and vocabulary.pre == "kimi-k2":
        return frozenset({"marks"})
    if vocabulary.model == "bert" and vocabulary.strip_accents:
        # It takes vowels that follow a letter for accents.
        return frozenset({"Korean", "marks"})
    if vocabulary.model == "bert" and vocabulary.lowercase:
        # The lower case of İ is two characters.
        return frozenset({"Latin capitals"})
    if vocabulary.model == "llama" and vocabulary.add_space_prefix:
        # It puts a space before one, as SentencePiece does and Metaspace does not.
        return frozenset({"white space at the ends"})
    if vocabulary.model == "t5" and vocabulary.remove_extra_whitespaces:
        # Some tokenizers that make one space of several keep the last.
        return frozenset({"white space at the ends"})
    return frozenset()
