"""Files beside models: sound ones, and what a user does with them."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from hubquant.imatrix import load_imatrix, merge, save
from tests.fuzz.use_models import TEXT


def make_imatrix(folder: Path) -> None:
    import torch

    from hubquant.imatrix import Entry, ImportanceMatrix

    names = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.0.ffn_down_exps.weight")
    entries = {
        name: Entry(torch.rand(1 + 2 * ("exps" in name), 64), torch.full((1 + 2 * ("exps" in name),), 512))
        for name in names
    }
    matrix = ImportanceMatrix(entries, ("text",), 512, 4, {"model": "m"})
    save(matrix, folder / "imatrix.gguf")
    save(matrix, folder / "imatrix.dat")


def read_imatrix(folder: Path) -> None:
    from hubquant.errors import HubquantError
    from hubquant.imatrix.statistics import statistics

    for path in sorted(folder.iterdir()):
        with contextlib.suppress(HubquantError):
            matrix = load_imatrix(path)
            statistics(matrix)
            matrix.fit(dict.fromkeys(("blk.0.attn_q.weight", "blk.0.ffn_down.weight"), (64, 64)))
            for name in matrix.entries:
                matrix.importance(name)
            save(merge([matrix, matrix]), folder / "again.gguf")
            save(matrix, folder / "again.dat")


def make_baseline(folder: Path) -> None:
    import torch

    from hubquant.evaluate import write_baseline
    from tests.support.evaluation import looked_up, random_chunks

    table = torch.randn(97, 97, generator=torch.Generator().manual_seed(0))
    write_baseline(looked_up(table), random_chunks(2, 32, 97), folder / "b.h5", name="m", revision="r").close()
    shutil.copyfile(folder / "b.h5", folder / ".b.h5.partial")
    (folder / ".b.h5.partial.journal").write_text("0 1\n1 2\n")


def read_baseline(folder: Path) -> None:
    import torch

    from hubquant.errors import HubquantError
    from hubquant.evaluate import Baseline, compare, compare_baselines, write_baseline
    from tests.support.evaluation import looked_up, random_chunks

    path = folder / "b.h5"
    table = torch.randn(97, 97, generator=torch.Generator().manual_seed(0))
    with contextlib.suppress(HubquantError), Baseline.open(path) as baseline:
        baseline.perplexity  # noqa: B018
        compare(looked_up(table), baseline)
        compare_baselines(path, path)
    write_baseline(looked_up(table), random_chunks(2, 32, 97), path, name="m", revision="r2").close()


RECIPE = {
    "version": 1,
    "model": {"id": "org/model", "revision": "main"},
    "calibration": {
        "sources": [{"dataset": "a/b", "config": "c", "split": "train", "field": "text", "weight": 1}],
        "chunk_size": 512,
        "chunks": 250,
        "seed": 0,
    },
    "imatrix": {"offload": "auto", "process_output": False},
    "quantize": {"types": ["Q8_0", "Q4_K_M"], "mode": "best", "rules": [{"match": "ffn_down", "type": "Q6_K"}]},
    "evaluate": {"chunks": 48, "sources": [{"bundled": "test"}]},
    "gates": {"kld_mean": {"Q4_K_M": 0.05}},
    "publish": {"to": "me/model-GGUF", "private": False, "shard_size": "45GiB"},
}


def make_recipe(folder: Path) -> None:
    from hubquant.recipe import dump_recipe
    from hubquant.recipe.load import parse_recipe

    (folder / "recipe.yaml").write_text(dump_recipe(parse_recipe(RECIPE)))
    (folder / "recipe.json").write_text(json.dumps(RECIPE))


def read_recipe(folder: Path) -> None:
    from hubquant.errors import HubquantError
    from hubquant.hub.front_matter import read_front_matter
    from hubquant.recipe import dump_recipe, load_recipe

    path = folder / "recipe.yaml"
    read_front_matter(f"---\n{path.read_text('utf-8', 'replace')}\n---\n")
    with contextlib.suppress(HubquantError):
        load_recipe("hub:org/repo", fetch=lambda _: path)
    dump_recipe(load_recipe(str(path), ["quantize.mode=exact", "calibration.chunks=3"]))


def make_texts(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    from hubquant.models.tiny import llama3_tokenizer

    talk = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hello"}]
    rows = [{"text": TEXT[:200], "messages": talk, "n": 1} for _ in range(20)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    (folder / "text.txt").write_text(TEXT)
    _TOKENIZERS.append(llama3_tokenizer())


_TOKENIZERS: list[Any] = []


def read_texts(folder: Path) -> None:
    from hubquant.calibration import build
    from hubquant.calibration.sources import documents, fingerprint, read_text
    from hubquant.errors import HubquantError
    from hubquant.recipe.schema import TextSource

    for path in sorted(folder.iterdir()):
        rows = path.suffix != ".txt"
        for field in ("text", "messages") if rows else ("text",):
            source = TextSource(file=str(path), field=field, samples=5 if rows else None)
            with contextlib.suppress(HubquantError):
                list(documents(source, 0))
                build([source], _TOKENIZERS[0], 16, 2, 0)
                read_text(source, 0, 1000)
                fingerprint(source, 0)
