"""Rerankers of Qwen3: the state of the last token has a score for yes and one for no, or one for both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gguf import PoolingType

from hubquant.checkpoint.modules import SCORE, YES_OR_NO
from hubquant.convert.architectures import decoder
from hubquant.convert.architectures.qwen3 import QWEN3
from hubquant.convert.rules.rule import Rule, Settings, check_count, out_of_range
from hubquant.convert.tables import Bundle, Place, WithoutBias, norm
from hubquant.gguf_file.metadata import Metadata, string, strings, u32
from hubquant.models.taps.tap import Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_CLASSIFIER = "Qwen3ForSequenceClassification"
_TRUE, _FALSE = "true_token_id", "false_token_id"
_HEAD = "cls.output.weight"
_TEMPLATE = (  # of the model's card
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


@dataclass(frozen=True)
class _Rank(Rule):
    """llama.cpp takes the softmax of both scores."""

    reads = (SCORE,)

    def check(self, settings: Settings) -> None:
        score: Mapping[str, Any] = settings.get(SCORE) or {}
        for name in (_TRUE, _FALSE):
            check_count(score, name, (1 << 31) - 1, least=0)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        score: Mapping[str, Any] = getattr(config, SCORE, {})
        for name in (_TRUE, _FALSE):
            if (score.get(name) or 0) >= config.vocab_size:
                raise out_of_range(name, score[name], f"less than the {config.vocab_size} of vocab_size")
        keys = {"pooling_type": u32(int(PoolingType.RANK)), "classifier.output_labels": strings(("yes", "no"))}
        if YES_OR_NO in score:
            keys["tokenizer.chat_templates"] = strings(("rerank",))
            keys["tokenizer.chat_template.rerank"] = string(_TEMPLATE)
        return keys

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:
        if YES_OR_NO not in getattr(config, SCORE, {}):
            yield "the file has no template for pairs of texts: llama.cpp's server joins them with separators"


@dataclass(frozen=True)
class _Answers:
    """The output layer x [n_vocab, n_embd] becomes its rows ``true`` and ``false`` [2, n_embd], zeros for none, behind
    x itself where that is ``kept``. Back, without it, the other rows are zeros."""

    true: int
    false: int | None
    n_vocab: int
    kept: bool

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        (x,) = tensors
        false = x.new_zeros(x.shape[1]) if self.false is None else x[self.false]
        answers = torch.stack([x[self.true], false])
        return [x, answers] if self.kept else [answers]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if self.kept:
            return tensors[:1]
        (answers,) = tensors
        x = answers.new_zeros(self.n_vocab, answers.shape[1])
        x[self.true] = answers[0]
        if self.false is not None:
            x[self.false] = answers[1]
        return [x]


@dataclass(frozen=True)
class _Sigmoid:
    """A score's weights [1, n_embd] become [2, n_embd] with zeros: softmax (a, 0) is sigmoid a. Back, sigmoid (a - b)
    is softmax (a, b)."""

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        (score,) = tensors
        return [torch.cat([score, torch.zeros_like(score)])]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        (answers,) = tensors
        return [answers[:1] - answers[1:]]


@dataclass(frozen=True)
class _Head(WithoutBias):
    """The embedding, and what answers: rows of the output layer, which may be rows of the embedding, or one score."""

    def bundles(self, place: Place) -> Iterator[Bundle]:
        score: Mapping[str, Any] = getattr(place.config, SCORE, {})
        tied = place.config.tie_word_embeddings and _TRUE in score
        embedding = {"token_embd.weight": place.shape(("n_vocab", "n_embd"))}
        head = {_HEAD: place.shape(("n_answers", "n_embd"))}
        if not tied:
            yield Bundle(("embed_tokens.weight",), embedding)
        if _TRUE not in score:
            yield Bundle(("score.weight",), head, (_Sigmoid(),))
            return
        rows = _Answers(score[_TRUE], score.get(_FALSE), place.config.vocab_size, kept=tied)
        source = "embed_tokens.weight" if tied else "lm_head.weight"
        yield Bundle((source,), embedding | head if tied else head, (rows,))

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:  # noqa: ARG002
        return iter(())


def _dimensions(config: PreTrainedConfig) -> dict[str, int]:
    return {**decoder.dimensions(config), "n_answers": 2}


QWEN3_RERANKER = replace(
    QWEN3,
    classes=dict.fromkeys((_CLASSIFIER, "Qwen3ForCausalLM"), "qwen3"),
    rules=(*QWEN3.rules, _Rank()),
    dimensions=_dimensions,
    outside=(_Head(), norm("norm")),
    blocks="layers",
    renames=((r"^model\.", ""),),
    ignored=(*QWEN3.ignored, r"^lm_head\.", r"^score\."),  # where it is run, the states count
    marker=_HEAD,
    takes=lambda settings: SCORE in settings or _CLASSIFIER in str(settings.get("architectures")),
    generates=False,
)
