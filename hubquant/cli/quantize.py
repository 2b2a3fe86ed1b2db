"""``hubquant quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from hubquant.cli.job import (
    DryRunOption,
    SplitMaxSizeOption,
    SplitMaxTensorsOption,
    StoreOption,
    ThreadsOption,
    finish,
)
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.run import AllowPickleOption, MergeOption, NoMtpOption, PreTokenizerOption, TargetOption
from hubquant.cli.settings import imatrix_settings, layer_numbers, quantize_settings, read_rules
from hubquant.units import size


def quantize(
    model: Annotated[str, Argument(metavar="MODEL|FILE.gguf", help="A Hub id, a folder, or a GGUF file.")],
    types: Annotated[
        list[str],
        Option(
            "--type",
            "-t",
            help="A file type such as Q4_K_M, its number, or COPY for a GGUF file's tensors as they are; "
            "repeat it or use commas.",
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", help="The folder, or with one type the .gguf file to write.")],
    component: Annotated[
        list[str] | None,
        Option(
            "--component",
            "--components",
            help="Of a diffusers pipeline, such as transformer,text_encoder_2 (default: its denoiser). Repeatable.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        Option("--name", help="What files in the folder are called (default: {model}-{type})."),
    ] = None,
    imatrix: Annotated[
        list[str] | None,
        Option("--imatrix", help="The importance matrix, a file or hub:org/repo/file. Repeat it to add several up."),
    ] = None,
    include_weights: Annotated[
        list[str] | None,
        Option("--include-weights", help="Use the matrix only for weights whose name holds this. Repeatable."),
    ] = None,
    exclude_weights: Annotated[
        list[str] | None,
        Option("--exclude-weights", help="Do not use the matrix for weights whose name holds this. Repeatable."),
    ] = None,
    mode: Annotated[Literal["exact", "best"], Option(help="best: the least error; exact: llama.cpp's bytes.")] = "best",
    rules: Annotated[
        list[str] | None,
        Option("--tensor-type", help="REGEX=TYPE for matching tensors; the first match wins. Repeatable."),
    ] = None,
    rules_file: Annotated[
        Path | None,
        Option("--tensor-type-file", help="A list of such REGEX=TYPE, separated by spaces or newlines."),
    ] = None,
    pure: Annotated[bool, Option("--pure", help="No mixing: every tensor gets the type's own.")] = False,
    output_tensor_type: Annotated[str | None, Option(help="The type of output.weight.")] = None,
    token_embedding_type: Annotated[str | None, Option(help="The type of token_embd.weight.")] = None,
    leave_output_tensor: Annotated[
        bool, Option("--leave-output-tensor", help="Leave output.weight un(re)quantized.")
    ] = False,
    override_kv: Annotated[
        list[str] | None,
        Option(
            "--override-kv",
            help="KEY=TYPE:VALUE overrides metadata by key in the files; int, float, bool or str. Repeatable.",
        ),
    ] = None,
    prune_layers: Annotated[
        str | None, Option("--prune-layers", help="Layer numbers to prune from the model, separated by commas.")
    ] = None,
    keep_split: Annotated[bool, Option("--keep-split", help="Write the same shards as the input.")] = False,
    split_max_size: SplitMaxSizeOption = None,
    split_max_tensors: SplitMaxTensorsOption = None,
    allow_fork_types: Annotated[
        bool, Option("--allow-fork-types", help="Write Q3_K_HIFI, which only a fork of llama.cpp loads.")
    ] = False,
    allow_requantize: Annotated[
        bool,
        Option("--allow-requantize", help="Quantize what is quantized already: a GGUF file, GPTQ, AWQ and the like."),
    ] = False,
    merge: MergeOption = None,
    target: TargetOption = None,
    allow_pickle: AllowPickleOption = False,
    pre_tokenizer: PreTokenizerOption = None,
    no_mtp: NoMtpOption = False,
    threads: ThreadsOption = None,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a model as GGUF files of several types, reading its weights once."""
    output = Output(as_json=as_json, quiet=quiet)
    settings = quantize_settings(
        types,
        [*(rules or []), *(read_rules(rules_file) if rules_file else [])],
        mode=mode,
        pure=pure,
        output_tensor=output_tensor_type,
        token_embedding=token_embedding_type,
        prune_layers=layer_numbers(prune_layers) if prune_layers else (),
        leave_output_tensor=leave_output_tensor,
        override_kv=tuple(override_kv or []),
        allow_fork_types=allow_fork_types,
        allow_requantize=allow_requantize,
    )
    matrix = imatrix_settings(imatrix or [], include_weights or [], exclude_weights or [])
    from hubquant.commands.flags import models, split_settings, use_threads

    split = split_settings(split_max_size, split_max_tensors, keep_split)
    from hubquant.commands.files import Placing  # after the settings are right: it imports torch
    from hubquant.commands.files import quantize as plan_quantize
    from hubquant.recipe.schema import Convert

    placing, how = Placing(out, name, split, keep_split), Convert(pre_tokenizer=pre_tokenizer, no_mtp=no_mtp)
    use_threads(threads)
    finish(
        lambda store, progress: plan_quantize(
            models(model, component or (), pickles=allow_pickle, merge=merge, target=target),
            settings,
            matrix,
            how,
            placing,
            store,
            progress,
        ),
        store,
        dry_run,
        output,
        lambda made: [file.as_dict() for file in made],
        lambda made: "\n".join(f"{file.path}  {file.type}  {size(file.size)}" for file in made),
    )
