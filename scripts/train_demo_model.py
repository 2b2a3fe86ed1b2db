"""Train the bundled demo model: a 3.7 M-parameter Llama on the Python standard library's text (PSF licence).

    python scripts/train_demo_model.py --out hubquant/data/demo --minutes 60

Writes the model (bf16 safetensors, config, byte-level BPE tokenizer) and prints its perplexity on the bundled test
text, which it has not seen, beside a unigram model's.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from demo_text import documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 2048
CONTEXT = 512
BATCH = 8
RATE = 4e-3
END_OF_TEXT = "<|endoftext|>"
TEXTS = Path(__file__).parents[1] / "hubquant" / "data" / "texts"


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, model_max_length=CONTEXT
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            rms_norm_eps=1e-5,
        )
    )


def batches(tokens: torch.Tensor) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    while True:
        starts = torch.randint(0, len(tokens) - CONTEXT - 1, (BATCH,), generator=generator)
        yield torch.stack([tokens[s : s + CONTEXT] for s in starts])


def train(model: LlamaForCausalLM, tokens: torch.Tensor, minutes: float) -> None:
    """AdamW; the rate falls linearly to zero over the time given."""
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=RATE,
        betas=(0.9, 0.95),
        fused=True,
    )
    start, smoothed = time.monotonic(), None
    for step, batch in enumerate(batches(tokens)):
        spent = (time.monotonic() - start) / (60 * minutes)
        if spent >= 1:
            return
        scale = min(1.0, (step + 1) / 50) * min(1.0, (1 - spent) / 0.7)
        for group in optimizer.param_groups:
            group["lr"] = RATE * scale
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smoothed = loss.item() if smoothed is None else 0.98 * smoothed + 0.02 * loss.item()
        if step % 50 == 0:
            seen = (step + 1) * BATCH * CONTEXT
            print(f"step {step:5d}  {seen / 1e6:6.2f} M tokens  loss {smoothed:.4f}  {spent:6.1%}", flush=True)


def unigram_perplexity(train_tokens: torch.Tensor, test_tokens: torch.Tensor) -> float:
    counts = torch.bincount(train_tokens, minlength=VOCABULARY).double() + 1
    return math.exp(-(counts / counts.sum()).log()[test_tokens].mean().item())


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, tokens: torch.Tensor) -> float:
    chunks = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    losses = [model(input_ids=c[None], labels=c[None]).loss.item() for c in chunks]
    return math.exp(sum(losses) / len(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    texts = [d.text for d in documents() if d.split == "train"]
    tokenizer = train_tokenizer(iter(texts))
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([t for ids in encoded for t in (tokenizer.eos_token_id, *ids)])
    print(f"{sum(map(len, texts)) / 1e6:.1f} MB, {len(tokens) / 1e6:.2f} M tokens", flush=True)

    model = build_model(tokenizer)
    train(model, tokens, arguments.minutes)

    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    test = (TEXTS / "test.txt").read_text("utf-8")
    held_out = torch.tensor(tokenizer(test, add_special_tokens=False)["input_ids"])
    print(f"unigram perplexity {unigram_perplexity(tokens, held_out):.1f}")
    print(f"model perplexity   {perplexity(model.float(), held_out):.2f}")


if __name__ == "__main__":
    main()
