"""What errors in the rows of a token embedding cost where tokens are looked up.

To second order an error e in what a token enters the model with makes a KL divergence of ½ eᵀ F e, with the Fisher
information F = Jᵀ (diag(p) − p pᵀ) J of the predictions p by their logits' derivatives J. It is the second moment of
gradients g = Jᵀ v, with v = √p ∘ z − p (√p · z) for normal z, whose covariance is what stands between Jᵀ and J.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hubquant.models.language_model import where_it_runs
from hubquant.observe.moment_sums import MomentSum, is_held_out

if TYPE_CHECKING:
    from hubquant.calibration.chunks import Chunks
    from hubquant.models.stream import BlockStream
    from hubquant.models.streamed_weights import StreamedWeights

CHUNKS = 16
"""That gradients are taken of."""
LOGITS = 1 << 26
"""That there are at a time, unless one chunk has more."""


def chunks_at_once(chunk_size: int, n_vocab: int) -> int:
    return max(1, min(CHUNKS, LOGITS // (chunk_size * n_vocab)))


def lookup_moments(stream: BlockStream, chunks: Chunks) -> dict[bool, MomentSum]:
    """F by whether its text was held out, of some of ``chunks``. Of ``stream`` all but the blocks is loaded; each of
    these is twice for every :func:`chunks_at_once`. A chunk with a gradient that is not finite is left out."""
    embedding: Any = stream.model.get_input_embeddings()
    some = chunks.ids[:: max(1, len(chunks) // CHUNKS)][:CHUNKS].contiguous()
    found = {held_out: MomentSum.zeros(1, embedding.weight) for held_out in (False, True)}
    entered: list[tuple[Tensor, float]] = []

    def enter(_module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows = embedding.weight[args[0]]
        scale = float(output.norm() / rows.norm())  # of models that multiply what they look up
        entered.append((output.detach().requires_grad_(), scale))
        return entered[-1][0]

    hook = embedding.register_forward_hook(enter)
    noise = torch.Generator().manual_seed(0)
    try:
        with torch.enable_grad(), _blocks_in_turn(stream.weights):
            model: Any = stream.model
            number = 0
            for ids in torch.split(some, chunks_at_once(chunks.chunk_size, stream.weights.n_vocab)):
                logits = model(input_ids=where_it_runs(model, ids), use_cache=False, logits_to_keep=0).logits
                logits.backward(torch.stack([_probe(each.detach(), noise) for each in logits]))
                del logits
                rows, scale = entered.pop()
                assert rows.grad is not None
                for gradient in rows.grad:
                    if gradient.isfinite().all():
                        found[is_held_out(number, len(some))].add(0, scale * gradient)
                    number += 1
    finally:
        hook.remove()
    return found


def _probe(logits: Tensor, noise: torch.Generator) -> Tensor:
    """v [tokens, n_vocab] for logits of that shape."""
    p = logits.float().softmax(-1)
    v = p.sqrt() * torch.randn(p.shape, generator=noise).to(p.device)
    return v.sub_(p * v.sum(-1, keepdim=True))


@contextmanager
def _blocks_in_turn(weights: StreamedWeights) -> Iterator[None]:
    """While every block is loaded when it is run, forwards and backwards, in the place of the one before."""
    loaded: list[int] = []

    def in_turn(number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if loaded != [number]:
                drop()
                weights.load(number, weights.read(number))
                loaded.append(number)
            return forward(*args, **kwargs)

        return lambda *args, **kwargs: checkpoint(run, *args, use_reentrant=False, **kwargs)

    def drop() -> None:
        if loaded:
            weights.unload(loaded.pop())

    originals = [block.forward for block in weights.blocks]
    for number, (block, forward) in enumerate(zip(weights.blocks, originals, strict=True)):
        block.forward = in_turn(number, forward)
    try:
        yield
    finally:
        for block, forward in zip(weights.blocks, originals, strict=True):
            block.forward = forward
        drop()
