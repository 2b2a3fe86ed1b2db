"""Run models over text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from hubquant.api.arguments import Names, Offload, Way, check_least, checked, listed, open_store, quietly
from hubquant.bars import Bars
from hubquant.errors import UserError

if TYPE_CHECKING:
    from hubquant.devices import Device
    from hubquant.evaluate import Divergence, Joined, Perplexity, Similarity
    from hubquant.imatrix import ImportanceMatrix


def collect_imatrix(
    model: str | Path,
    *,
    out: Path | str,
    file: Names = (),
    in_file: Names = (),
    chunks: int = 250,
    chunk_size: int = 512,
    chunk: int = 0,
    batch: int | None = None,
    process_output: bool = False,
    parse_special: bool = False,
    no_ppl: bool = False,
    output_frequency: int = 0,
    save_frequency: int = 0,
    shard: str | None = None,
    offload: Offload = "auto",
    max_memory: Mapping[str, str] | None = None,
    prompts: Names = (),
    pictures: int | None = None,
    steps: int | None = None,
    size: int | tuple[int, int] | None = None,
    frames: int | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    at_once: int | None = None,
    convolutions: bool = False,
    keep_pictures: Path | str | None = None,
    device: Device = "auto",
    pre_tokenizer: str | None = None,
    store: Path | str | None = None,
    progress: Bars = "auto",
) -> ImportanceMatrix:
    """Run a model over calibration text, or draw pictures with it, and save the importance of every weight column to
    ``out``.

    ``file`` names text, jsonl or parquet files or Hub datasets, by default the bundled text, of which at most
    ``chunks`` chunks of ``chunk_size`` tokens are run after the first ``chunk`` ones, ``batch`` tokens at a time:
    where it is None as many as ``hubquant tune`` found, or else 2048.
    Matrices that ``in_file`` names, files or ``hub:org/repo/file``, are added to the new one.

    ``process_output`` collects output.weight too. With ``parse_special`` names of special tokens in the text stand for
    these. ``no_ppl`` spares the perplexity. ``output_frequency`` and ``save_frequency`` write what there is to ``out``
    and to ``out.at_N`` every so many chunks. ``shard`` is one of several parts, such as "2/4", to be merged.
    ``offload`` and ``max_memory`` ({"cpu": "12GiB"}) are for models larger than memory.

    A diffusion model draws ``pictures``, by default 32, of ``prompts``: files with a prompt a line or Hub datasets, by
    default the bundled ones. What of ``steps``, ``size`` in pixels (width and height, or the edge of a square),
    ``frames`` and ``guidance`` is not given is the model's own; ``seed`` is that of the first one's noise, and
    ``at_once`` are drawn together. ``convolutions`` are observed where they are asked for, and the pictures are kept in
    ``keep_pictures``, a new folder.

    Raises ``HubquantError``.
    """
    recipe = checked(
        {
            "chunks": ("calibration.chunks", chunks),
            "chunk_size": ("calibration.chunk_size", chunk_size),
            "process_output": ("imatrix.process_output", process_output),
            "offload": ("imatrix.offload", offload),
            "max_memory": ("imatrix.max_memory", dict(max_memory or {})),
        }
    )
    counts = {"chunk": chunk, "output_frequency": output_frequency, "save_frequency": save_frequency}
    for name, value in counts.items():
        check_least(name, value, 0)
    if batch is not None:
        check_least("batch", batch, 1)
    opened = open_store(store)
    with quietly(progress) as seen:
        from hubquant.commands.collect import Request
        from hubquant.commands.collect import collect as prepare
        from hubquant.commands.flags import Text, drawing, parse_shard, text_sources
        from hubquant.commands.job import carry_out
        from hubquant.pipeline.importance import Saving

        sources = text_sources(listed(file), recipe.calibration.sources, parse_special=parse_special)
        request = Request(
            str(model),
            Text(sources, recipe.calibration.chunks, recipe.calibration.chunk_size, chunk),
            Saving(Path(out), output_frequency, save_frequency),
            pre_tokenizer=pre_tokenizer,
            shard=parse_shard(shard) if shard else None,
            perplexity=not no_ppl,
            settings=recipe.imatrix,
            device=device,
            batch_tokens=batch,
            in_files=tuple(listed(in_file)),
            reads_text=bool(listed(file)),
            drawing=drawing(
                listed(prompts),
                {
                    "count": pictures,
                    "steps": steps,
                    "size": list(size) if isinstance(size, tuple) else size,
                    "frames": frames,
                    "guidance": guidance,
                    "seed": seed,
                    "batch": at_once,
                },
                convolutions=convolutions,
                keep_pictures=None if keep_pictures is None else Path(keep_pictures),
            ),
        )
        return carry_out(prepare(request, opened, seen), opened, seen)


def join_baselines(parts: Names, *, out: Path | str, progress: Bars = "auto") -> Joined:
    """Join baselines of parts of a text, which ``hubquant evaluate baseline --from-chunk`` writes, to one in ``out``.

    They must be of one model, text, chunk size and form, have no chunk twice and leave none out between them.

    Returns the path, the form, the chunks and the size in bytes. Raises ``HubquantError``.
    """
    with quietly(progress) as seen:
        from hubquant.commands.measure import join

        return join([Path(part) for part in listed(parts)], Path(out), seen)


@overload
def evaluate(
    model: str | Path,
    *,
    baseline: str | Path,
    file: Names = (),
    chunks: int = 48,
    chunk_size: int = 512,
    way: Way = "auto",
    out: Path | str | None = None,
    plot: Path | str | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
    engine: Literal["torch", "llamacpp"] = "torch",
    device: Device = "auto",
    store: Path | str | None = None,
    progress: Bars = "auto",
) -> Divergence | Similarity: ...


@overload
def evaluate(
    model: str | Path,
    *,
    baseline: None = None,
    file: Names = (),
    chunks: int = 48,
    chunk_size: int = 512,
    ppl_stride: int | None = None,
    way: Way = "auto",
    device: Device = "auto",
    store: Path | str | None = None,
    progress: Bars = "auto",
) -> Perplexity: ...


def evaluate(
    model: str | Path,
    *,
    baseline: str | Path | None = None,
    file: Names = (),
    chunks: int = 48,
    chunk_size: int = 512,
    ppl_stride: int | None = None,
    way: Way = "auto",
    out: Path | str | None = None,
    plot: Path | str | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
    engine: Literal["torch", "llamacpp"] = "torch",
    device: Device = "auto",
    store: Path | str | None = None,
    progress: Bars = "auto",
) -> Divergence | Similarity | Perplexity:
    """How far the GGUF file ``model`` is from ``baseline``, of an encoder how alike both embed; without one, the
    perplexity of any model.

    ``baseline`` is the source model, whose predictions are computed and kept in the store, or a file that ``hubquant
    evaluate baseline`` or llama-perplexity wrote, which holds the text too. ``way`` is for source models larger than
    memory: ``streamed`` has one block of a model in memory at a time, ``stored`` whole models, and ``auto`` streams
    what does not fit. ``file`` names text, jsonl or parquet files or Hub datasets, by default the bundled text, of
    which at most ``chunks`` chunks of ``chunk_size`` tokens are read; the second half of each is scored, as
    llama-perplexity does. With ``ppl_stride`` the perplexity is that of windows which begin so many tokens after each
    other. With a ``baseline`` the statistics of every token are written to the HDF5 file ``out``, and pictures of their
    distribution and of the chunks to the folder ``plot``. With a ``margin``, such as 0.05, chunks are measured until
    mean KLD and composite score are known to that share of themselves, with the probability ``confidence``. The
    ``engine`` ``llamacpp`` runs the file in llama.cpp, which quantizes activations too.

    Raises ``HubquantError``.
    """
    evaluated = checked(
        {
            "chunks": ("evaluate.chunks", chunks),
            "chunk_size": ("evaluate.chunk_size", chunk_size),
            "way": ("evaluate.way", way),
            "margin": ("evaluate.margin", margin),
            "confidence": ("evaluate.confidence", confidence),
        }
    ).evaluate
    if ppl_stride is not None:
        check_least("ppl_stride", ppl_stride, 1)
        if baseline is not None:
            raise UserError("ppl_stride and baseline contradict each other", hint="leave one of them out")
    if baseline is None and any(value is not None for value in (out, plot, margin)):
        raise UserError("out, plot and margin are for divergences", hint="name a baseline, or leave them out")
    opened = open_store(store)
    with quietly(progress) as seen:
        from hubquant.commands import divergence, measure
        from hubquant.commands.flags import Text, precision, text_sources
        from hubquant.commands.job import carry_out

        text = Text(text_sources(listed(file), evaluated.sources), evaluated.chunks, evaluated.chunk_size)
        if baseline is None:
            alone = measure.perplexity(str(model), text, opened, seen, device, ppl_stride, evaluated.way)
            return carry_out(alone, opened, seen)
        shown = divergence.Shown(*(None if path is None else Path(path) for path in (out, plot)))
        compared = divergence.Baseline(
            str(baseline), text, evaluated.way, device, engine, precision(margin, confidence)
        )
        job = divergence.divergences([Path(model)], compared, opened, seen, shown)
        return carry_out(job, opened, seen)[0]
