"""Models that are never in memory as a whole are as far from each other as loaded ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.blocks import open_checkpoint, open_file
from hubquant.convert.restore import load_model
from hubquant.errors import CheckpointError, EvaluationError
from hubquant.evaluate import Divergence, summarize, token_statistics
from hubquant.evaluate.comparison import FIELDS
from hubquant.evaluate.scoring import n_scored, scored_logits, scored_targets
from hubquant.evaluate.snapshot import FinishedChunks
from hubquant.evaluate.streamed import compare_streamed, keep_last_outputs, next_tokens
from hubquant.gguf_file import GGUFFile
from hubquant.models.language_model import LanguageModel
from hubquant.models.snapshot import KeptState
from hubquant.models.spill import Spill
from hubquant.models.stream import BlockPass, BlockStream, in_memory
from hubquant.pipeline.offload import hidden_bytes
from hubquant.recipe.schema import ModelReference
from hubquant.sources.checkpoint import load_folder
from hubquant.sources.open import open_component
from tests.convert import test_gemma3n
from tests.convert.test_llama_cpp import MODELS
from tests.support.conversion import Weights, build_uneven, edit_weights, write_gguf
from tests.support.evaluation import random_chunks
from tests.support.processes import exit_code, killer

KEY = "k"
CHUNKS = random_chunks(3, 64, 300)
Advance = Callable[[int], None]


def of_checkpoint(folder: Path) -> BlockStream:
    return BlockStream(open_checkpoint(Checkpoint.from_folder(folder), "cpu"))


def of_file(path: Path, *keep: Any) -> BlockStream:
    return BlockStream(open_file(GGUFFile.open(path), "cpu"), *keep)


def measure(model: Path, file: Path, work: Path, advance: Advance = lambda _: None) -> Divergence:
    """What the two tasks of a run do, in ``work``."""
    outputs = work / "outputs"
    if not outputs.exists():
        keep_last_outputs(of_checkpoint(model), CHUNKS, KeptState(outputs, KEY, 0.0))
    finished = FinishedChunks(work / "finished", bytes(32), len(FIELDS) * n_scored(CHUNKS.chunk_size))
    kept = KeptState(work / "kept", KEY, 0.0)
    stream = of_file(file, Spill(work / "hidden"))
    return compare_streamed(stream, of_checkpoint(model), outputs, CHUNKS, kept, finished, advance=advance)


def loaded(model: Path, file: Path) -> Divergence:
    base, runner = LanguageModel(load_folder(model, "cpu")), LanguageModel(load_model(file))
    parts = []
    for ids in CHUNKS.ids:
        logits, targets = scored_logits(base, ids), scored_targets(ids)
        nll = -logits.double().log_softmax(1).gather(1, targets[:, None]).squeeze(1)
        found = token_statistics(scored_logits(runner, ids), logits, nll, logits.argmax(1), targets)
        parts.append(found)
    return summarize(parts, logits.shape[1])


def assert_close(found: Divergence, expected: Divergence) -> None:
    assert found.kld.mean > 1e-6
    assert found.kld.mean == pytest.approx(expected.kld.mean, rel=1e-5)
    assert found.kld.maximum == pytest.approx(expected.kld.maximum, rel=1e-3)
    assert found.ppl.ppl == pytest.approx(expected.ppl.ppl, rel=1e-6)
    assert found.ppl_base.ppl == pytest.approx(expected.ppl_base.ppl, rel=1e-6)
    assert found.same_top == expected.same_top
    assert found.uniform_kld == pytest.approx(expected.uniform_kld, rel=1e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_uneven("qwen3", tmp_path_factory.mktemp("source"), num_hidden_layers=3, initializer_range=0.1)


@pytest.fixture(scope="module")
def file(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "m.gguf"
    write_gguf(model, path, "Q4_0")
    return path


@pytest.mark.parametrize(
    "name", ["llama with llama3 rope", "gpt2", "qwen3_moe", "gptneox", "falcon_h1", "cohere", "phi2"]
)
def test_as_far_as_loaded_models(name: str, tmp_path: Path) -> None:
    family, config = MODELS[name]
    folder, file = build_uneven(family, tmp_path / "model", **config), tmp_path / "m.gguf"
    write_gguf(folder, file, "Q8_0")
    assert_close(measure(folder, file, tmp_path), loaded(folder, file))


@pytest.mark.slow
def test_layers_that_share_keys(tmp_path: Path) -> None:
    """Gemma 3n, whose blocks pass on more than hidden states: what the last one gave is all that is needed of them."""
    folder, file = test_gemma3n.build(tmp_path / "model"), tmp_path / "m.gguf"
    write_gguf(folder, file, "Q8_0")
    assert_close(measure(folder, file, tmp_path), loaded(folder, file))


def test_several_hidden_states_are_planned_for(tmp_path: Path) -> None:
    folder, ids, seen = test_gemma3n.build(tmp_path / "model"), CHUNKS.ids[0], []

    def keep(_pass: BlockPass, output: Any) -> Any:
        seen.append((output[0] if isinstance(output, tuple) else output).nbytes)
        return output

    next_tokens(BlockStream(open_checkpoint(Checkpoint.from_folder(folder), "cpu"), keep), [ids])
    write_gguf(folder, tmp_path / "m.gguf", "Q8_0")
    for source in (ModelReference(folder=str(folder)), ModelReference(file=str(tmp_path / "m.gguf"))):
        assert {hidden_bytes(open_component(source), len(ids))} == set(seen)


@pytest.mark.parametrize("rows", [1, 7])
def test_an_output_layer_that_is_decoded_in_parts(rows: int, file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    whole, parts = (BlockStream(open_file(GGUFFile.open(file), "cpu"), in_memory, Spill(tmp_path).empty) for _ in "ab")
    whole.load_output()
    monkeypatch.setattr("hubquant.models.streamed_weights.ROWS_ELEMENTS", rows * 64)
    parts.load_output()
    expected = load_model(file).get_output_embeddings().weight
    for stream in (whole, parts):
        assert torch.equal(stream.model.get_output_embeddings().weight, expected)
    assert list(tmp_path.iterdir()) == []


def _measure_until_killed(model: Path, file: Path, folder: Path, steps: int) -> None:
    measure(model, file, folder, killer(steps))


@pytest.mark.parametrize(("steps", "begins"), [(7, [(3, 0), (6, 0)]), (10, [(9, 2)])])
def test_a_killed_one_goes_on(
    steps: int, begins: list[tuple[int, int]], model: Path, file: Path, tmp_path: Path
) -> None:
    """In the third of three blocks that three chunks pass, of which not each is kept, and behind them, after the second
    chunk."""
    assert exit_code(_measure_until_killed, model, file, tmp_path, steps) == -9
    found: list[int] = []
    divergence = measure(model, file, tmp_path, found.append)
    assert sum(found) == 3 * (3 + 1)
    assert (found[0], found[1 + 9 - found[0]]) in begins
    (tmp_path / "other").mkdir()
    assert asdict(divergence) == asdict(measure(model, file, tmp_path / "other"))


def test_next_tokens_are_the_loaded_models(file: Path) -> None:
    prompts = [CHUNKS.ids[0, :n] for n in (1, 5, 33)]
    runner = LanguageModel(load_model(file))
    assert next_tokens(of_file(file), prompts) == [int(runner(prompt)[-1].argmax()) for prompt in prompts]


def test_another_vocabulary_is_another_model(model: Path, tmp_path: Path) -> None:
    other = build_uneven("llama", tmp_path / "other", vocab_size=512)
    write_gguf(other, tmp_path / "other.gguf", "F32")
    with pytest.raises(EvaluationError, match="vocabulary of 512"):
        measure(model, tmp_path / "other.gguf", tmp_path)


def test_what_is_not_finite_is_named(tmp_path: Path) -> None:
    def spoil(name: str) -> Callable[[Weights], None]:
        return lambda weights: weights[name][5].fill_(float("nan"))

    for name in ("lm_head.weight", "model.layers.1.mlp.down_proj.weight"):
        folder = build_uneven("qwen3", tmp_path / name)
        write_gguf(folder, tmp_path / "m.gguf", "Q8_0")
        edit_weights(folder, spoil(name))
        with pytest.raises(CheckpointError, match=f"{name} holds"):
            measure(folder, tmp_path / "m.gguf", tmp_path / name)


def test_a_block_without_one_of_its_weights(model: Path) -> None:
    checkpoint = Checkpoint.from_folder(model)
    tensors = {name: info for name, info in checkpoint.tensors.items() if name != "model.layers.1.mlp.up_proj.weight"}
    stream = BlockStream(open_checkpoint(Checkpoint(checkpoint.config, tensors, model), "cpu"))
    with pytest.raises(CheckpointError, match=r"block 1 lacks 1 of its weights, first mlp\.up_proj\.weight"):
        next_tokens(stream, [CHUNKS.ids[0]])
