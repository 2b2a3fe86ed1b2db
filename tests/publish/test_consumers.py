"""Names of files as the programs read them that people fetch and run files with: each rule as its program has it."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest
import yaml

from hubquant.backends.gguf.files import file_name
from hubquant.gguf_file import shard_paths
from hubquant.mix import FTYPES
from hubquant.publish.card import Card, render
from hubquant.publish.names import is_mistaken, is_sharded, pattern
from hubquant.publish.recommendation import MeasuredFile
from hubquant.recipe import parse_recipe
from hubquant.recipe.schema import name_of
from tests.publish.test_card import CARD

LADDER = Path(__file__).parents[2] / "recipes" / "ladder.yaml"
LABELS = list(
    dict.fromkeys([*FTYPES, *map(name_of, parse_recipe(yaml.safe_load(LADDER.read_text("utf-8"))).quantize.types)])
)
MODELS = ("Qwen3-0.6B", "Llama-3.1-8B-Instruct", "Phi-3.5-mini-instruct", "my.model_v2", "Qwen3-8B-BF16")
SIDE_FILES = ["imatrix.gguf"]


def paths(model: str, label: str, n_shards: int = 1) -> list[str]:
    return [path.as_posix() for path in shard_paths(Path(file_name(model, label, n_shards)), n_shards)]


def repository(model: str, n_shards: int) -> list[str]:
    """As the Hub lists it."""
    return sorted([*SIDE_FILES, *(path for label in LABELS for path in paths(model, label, n_shards))])


def measured(label: str, n_shards: int = 1) -> MeasuredFile:
    return MeasuredFile(paths("Qwen3-0.6B", label, n_shards)[0], label, 1000, 4.5)


def taken_by_llama_cpp(tag: str, files: list[str]) -> str | None:
    """What ``llama-server -hf repo:tag`` downloads, or loads first of several shards.

    https://github.com/ggml-org/llama.cpp/blob/master/common/download.cpp: find_best_model, gguf_filename_is_model,
    get_gguf_split_info.
    """
    others = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
    for file in files:
        is_model = file.endswith(".gguf") and not any(other in PurePosixPath(file).name for other in others)
        if is_model and re.search(tag + "[.-]", file, re.IGNORECASE):
            split = re.fullmatch(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", file)
            if split is None or int(split[2]) == 1:
                return file
    return None


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("model", MODELS[:-1])
def test_llama_cpp_takes_the_file_of_the_tag(model: str, n_shards: int) -> None:
    files = repository(model, n_shards)
    mistaken = {label for label in LABELS if taken_by_llama_cpp(label, files) != paths(model, label, n_shards)[0]}
    assert mistaken == {"F16"}  # which ends BF16, the first of both
    every = [measured(label) for label in LABELS]
    assert {file.type for file in every if is_mistaken(file, every)} == mistaken


def test_llama_cpp_names_a_cached_file_by_its_tag() -> None:
    """https://github.com/ggml-org/llama.cpp/blob/master/common/download.cpp: common_list_cached_models."""
    for label in LABELS:
        for path in (paths("Qwen3-0.6B", label)[0], paths("Qwen3-0.6B", label, 2)[0]):
            prefix = re.sub(r"-[0-9]{5}-of-[0-9]{5}$", "", path.removesuffix(".gguf"))
            found = re.search(r"[-.]([A-Z0-9_]+)$", prefix, re.IGNORECASE)
            assert found is not None
            assert found[1].upper() == label.removeprefix("UD-")


# https://github.com/huggingface/huggingface.js/blob/main/packages/tasks/src/gguf.ts: GGMLFileQuantizationType
KNOWN_TO_THE_HUB = (
    "F32|F16|Q4_0|Q4_1|Q4_1_SOME_F16|Q4_2|Q4_3|Q8_0|Q5_0|Q5_1|Q2_K|Q3_K_S|Q3_K_M|Q3_K_L|Q4_K_S|Q4_K_M|"
    "Q5_K_S|Q5_K_M|Q6_K|IQ2_XXS|IQ2_XS|Q2_K_S|IQ3_XS|IQ3_XXS|IQ1_S|IQ4_NL|IQ3_S|IQ3_M|IQ2_S|IQ2_M|IQ4_XS|"
    "IQ1_M|BF16|Q4_0_4_4|Q4_0_4_8|Q4_0_8_8|TQ1_0|TQ2_0|MXFP4_MOE|NVFP4|Q1_0|Q2_K_XL|Q3_K_XL|Q4_K_XL|"
    "Q5_K_XL|Q6_K_XL|Q8_K_XL"
)


def label_of_the_hub(path: str) -> str | None:
    """What the Hub's panel of hardware, its viewer of files and its lines for programs call a file: the last of the
    names that it knows, with a prefix and a size.

    https://github.com/huggingface/huggingface.js/blob/main/packages/tasks/src/gguf.ts: parseGGUFQuantLabel.
    """
    known = f"(?:UD-)?(?:{KNOWN_TO_THE_HUB})(?:_[A-Z]+)?"
    return next(iter(re.findall(known, path.upper())[-1:]), None)


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_the_hub_knows_the_type_of_a_file(model: str, n_shards: int) -> None:
    found = {label: label_of_the_hub(paths(model, label, n_shards)[0]) for label in LABELS}
    unknown = {label for label, name in found.items() if name != label}
    # names that no list of the Hub has: it shows such files without a type
    assert unknown == {"Q2_0", "Q3_K_HIFI", "Q4_K_L", "Q5_K_L"}


def test_the_hub_counts_shards() -> None:
    """https://github.com/huggingface/huggingface.js/blob/main/packages/gguf/src/gguf.ts: RE_GGUF_SHARD_FILE."""
    shards = paths("Qwen3-0.6B", "Q8_0", 3)
    found = [re.fullmatch(r"(?P<prefix>.*?)-(?P<shard>\d{5})-of-(?P<total>\d{5})\.gguf", path) for path in shards]
    assert [(match["shard"], match["total"]) for match in found if match] == [
        ("00001", "00003"),
        ("00002", "00003"),
        ("00003", "00003"),
    ]
    assert len({match["prefix"] for match in found if match}) == 1


def test_ollama_is_given_the_hubs_label_of_a_whole_file() -> None:
    """https://huggingface.co/docs/hub/ollama: the tag is the Hub's label; a tag of several files is answered with 400
    (https://github.com/huggingface/hub-docs/issues/2702)."""
    files = (measured("Q4_K_M", 2), measured("Q3_K_M"), measured("Q2_K"))
    lines = [line for line in render(_card(files)).splitlines() if line.startswith("ollama")]
    assert lines == ["ollama run hf.co/alice/Qwen3-0.6B-GGUF:Q3_K_M"]
    assert label_of_the_hub(files[1].file) == "Q3_K_M"
    assert "ollama" not in render(_card((measured("Q4_K_M", 2),))).lower()


def test_lm_studio_is_given_the_repository_and_the_hubs_label() -> None:
    """https://huggingface.co/docs/hub/lmstudio: lms get, the address of the repository, @, the quantization."""
    lines = [line for line in render(_card((measured("Q4_K_M"),))).splitlines() if line.startswith("lms")]
    assert lines == ["lms get https://huggingface.co/alice/Qwen3-0.6B-GGUF@Q4_K_M"]
    assert label_of_the_hub(measured("Q4_K_M").file) == "Q4_K_M"


@pytest.mark.parametrize("n_shards", [1, 2])
def test_hf_download_fetches_one_type(n_shards: int) -> None:
    """https://huggingface.co/docs/huggingface_hub/guides/cli: ``--include`` is matched by fnmatch with every path."""
    files = [measured(label, n_shards) for label in LABELS]
    listed = repository("Qwen3-0.6B", n_shards)
    for file in files:
        assert is_sharded(file) == (n_shards > 1)
        wanted = pattern(file, files)
        assert [path for path in listed if fnmatch(path, wanted)] == paths("Qwen3-0.6B", file.type, n_shards)


@pytest.mark.parametrize("n_shards", [1, 2])
def test_a_model_that_is_called_like_a_type_is_fetched_by_the_whole_name(n_shards: int) -> None:
    files = [
        replace(each, file=each.file.replace("Qwen3-0.6B", "X-Q4_K_M"))
        for each in (measured(label, n_shards) for label in ("Q4_K_M", "Q8_0"))
    ]
    listed = repository("X-Q4_K_M", n_shards)
    for file in files:
        wanted = pattern(file, files)
        assert [path for path in listed if fnmatch(path, wanted)] == paths("X-Q4_K_M", file.type, n_shards)


def _card(files: tuple[MeasuredFile, ...]) -> Card:
    return replace(CARD, files=files)
