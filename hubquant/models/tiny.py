"""Tiny real models: a random transformers model and a trained tokenizer, saved as any Hub repository is."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

CORPUS = [
    "The quick brown fox jumps over the lazy dog. ",
    "Hello world! It's 12345 o'clock, isn't it?\n\n",
    "def main(x):\n    return x + 1\n",
    "Café naïve über — 日本語 テスト 🙂 Привет мир ",
    "perplexity of quantized models, importance matrix, super-block\t<tag>value</tag>\r\n",
] * 4

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


_T5 = ("t5", "mt5", "umt5")
_ROBERTA = ("camembert", "roberta", "xlm-roberta")
ENCODERS = ("bert", "distilbert", "eurobert", "jina_embeddings_v3", "modernbert", "nomic_bert", *_ROBERTA, *_T5)


def build(family: str, folder: Path, **config: Any) -> Path:
    """Save a tiny model of ``family``, a model type of transformers, in ``folder``.

    ``config`` overrides its size; ``...`` leaves a setting to transformers.
    """
    import torch
    from transformers import AutoConfig

    from hubquant.models.classes import model_class

    tokenizer = TOKENIZERS.get(family, llama3_tokenizer)()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    dtype = config.pop("dtype", torch.float32)
    torch.manual_seed(config.pop("seed", 0))
    given = {name: value for name, value in (settings | config).items() if value is not ...}
    made = AutoConfig.for_model(family, **deepcopy(given))  # it fills in tables that it was given
    embeds = family in ENCODERS or getattr(made, "use_bidirectional_attention", False)
    model = model_class(made, not embeds)._from_config(made)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llama3_tokenizer() -> Any:
    return _byte_level_bpe(LLAMA3_PATTERN, "<|begin_of_text|>", "<|end_of_text|>", ignore_merges=True, add_bos=True)


def qwen2_tokenizer() -> Any:
    return _byte_level_bpe(QWEN2_PATTERN, None, "<|endoftext|>", normalizer="NFC")


def bert_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=384, special_tokens=[*specials.values()], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, **{f"{role}_token": text for role, text in specials.items()})


def t5_tokenizer() -> Any:
    """With SentencePiece's usual table of replacements, which makes spaces of line ends."""
    from transformers import T5Tokenizer

    return _unigram(T5Tokenizer, "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def xlm_roberta_tokenizer() -> Any:
    from transformers import XLMRobertaTokenizer

    return _unigram(XLMRobertaTokenizer, "sentencepiece.bpe.model")


def roberta_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=[*specials.values()], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    fast: Any = PreTrainedTokenizerFast
    texts = {f"{role}_token": text for role, text in {**specials, "cls": "<s>", "sep": "</s>"}.items()}
    return fast(tokenizer_object=tokenizer, **texts)


def _unigram(kind: Any, name: str, **options: Any) -> Any:
    """transformers' tokenizer ``kind`` of a SentencePiece model, which it reads from a file ``name``."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in CORPUS for line in text.split("\n")]),
        model_writer=written,
        vocab_size=284,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(written.getvalue())
        return kind.from_pretrained(folder)


def _byte_level_bpe(
    pattern: str,
    bos: str | None,
    eos: str,
    *,
    ignore_merges: bool = False,
    add_bos: bool = False,
    normalizer: str | None = None,
) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer == "NFC":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[token for token in (bos, eos) if token],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos and add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "llama": llama3_tokenizer,
    "mistral": llama3_tokenizer,
    "qwen2": qwen2_tokenizer,
    "qwen3": qwen2_tokenizer,
    **dict.fromkeys(("bert", "distilbert", "nomic_bert"), bert_tokenizer),
    **dict.fromkeys(("modernbert", "roberta"), roberta_tokenizer),
    **dict.fromkeys(("camembert", "jina_embeddings_v3", "xlm-roberta"), xlm_roberta_tokenizer),
    **dict.fromkeys(_T5, t5_tokenizer),
}
