"""The model card, its front matter, and what it takes over from a source card that nobody has checked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, parse_eval_result_entries
from hypothesis import given
from hypothesis import strategies as st

from hubquant.gguf_file.metadata import KV, f32, i32s, string, u32
from hubquant.hub.eval_results import eval_results
from hubquant.hub.front_matter import read_front_matter
from hubquant.hub.push import push
from hubquant.llamacpp.runtime import RuntimeCheck
from hubquant.publish.card import Card, CardText, escape, front_matter, render
from hubquant.publish.card import block as card_block
from hubquant.publish.recommendation import MeasuredFile
from hubquant.publish.usage import Usage, by_memory
from tests.support.localhub import LocalHub
from tests.support.measured import measured_file

SHARDED = "Q4_K_M/Qwen3-0.6B-Q4_K_M-00001-of-00002.gguf"
FILES = (
    replace(measured_file("Q8_0", 0.639, 0.00123, 0.987), file="Qwen3-0.6B-Q8_0.gguf", bpw=8.5),
    replace(measured_file("Q4_K_M", 0.397, 0.0312, 0.91), file=SHARDED, bpw=4.85),
)
SOURCE: dict[str, Any] = {
    "license": "other",
    "license_name": "qwen",
    "license_link": "LICENSE",
    "language": ["en", False],
    "pipeline_tag": "text-generation",
    "library_name": "transformers",
    "tags": ["chat", "safetensors", "gguf"],
    "base_model": "somebody/else",
    "extra_gated_prompt": "Agree to:\n\n---\nthe terms: of 'use'\n---\n",
    "extra_gated_fields": {"Name": "text", "Country": {"type": "country"}},
    "extra_gated_eu_disallowed": True,
    "widget": [{"text": "unrelated"}],
}
CARD = Card(
    model_name="Qwen3-0.6B",
    files=FILES,
    reproduce="hubquant run hub:alice/Qwen3-0.6B-GGUF",
    version="0.1.0",
    model_id="Qwen/Qwen3-0.6B",
    revision="c1899de289a04d12100db370d81485cdf75e47ca",
    repo_id="alice/Qwen3-0.6B-GGUF",
    source=SOURCE,
    imatrix="imatrix.gguf",
    calibration=(CardText("Salesforce/wikitext", True, "wikitext-2-raw-v1, train"), CardText("hubquant:calibration")),
    tokens_calibrated=128_000,
    evaluation=(CardText("hubquant:test"),),
    tokens_scored=12_288,
    plot="kld.png",
    verified=True,
)


def test_front_matter_is_what_the_hub_reads() -> None:
    data = ModelCard(render(CARD)).data.to_dict()
    assert data == {
        "base_model": "Qwen/Qwen3-0.6B",
        "base_model_relation": "quantized",
        "quantized_by": "alice",
        "license": "other",
        "license_name": "qwen",
        "license_link": f"https://huggingface.co/Qwen/Qwen3-0.6B/blob/{CARD.revision}/LICENSE",
        "language": ["en", "no"],
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["gguf", "quantized", "hubquant", "imatrix", "chat"],
        "datasets": ["Salesforce/wikitext"],
        "extra_gated_prompt": SOURCE["extra_gated_prompt"],
        "extra_gated_fields": SOURCE["extra_gated_fields"],
        "extra_gated_eu_disallowed": True,
    }


def test_what_is_not_as_in_the_source_model_is_told() -> None:
    assert "What is not as in the source model" not in render(CARD)
    body = render(replace(CARD, not_as_source=("texts of more than 4,096 tokens come out otherwise", "<b>")))
    lines = body[body.index("What is not as in the source model:") :].splitlines()
    assert lines[1:5] == ["", "- texts of more than 4,096 tokens come out otherwise", "- &lt;b&gt;", ""]


def test_body_tells_how_to_run_and_what_was_measured() -> None:
    body = ModelCard(render(CARD)).text
    for line in [
        "# Qwen3-0.6B GGUF",
        "llama-server -hf alice/Qwen3-0.6B-GGUF:Q4_K_M",
        "ollama run hf.co/alice/Qwen3-0.6B-GGUF:Q8_0",
        "lms get https://huggingface.co/alice/Qwen3-0.6B-GGUF@Q4_K_M",
        "With [Jan](https://jan.ai): search for `alice/Qwen3-0.6B-GGUF` in its Hub.",
        "Q4_K_M is in several parts, each type in a folder of its own. llama.cpp",
        f"llama-server -m {SHARDED}",
        'hf download alice/Qwen3-0.6B-GGUF --include "*Q4_K_M*" --local-dir .',
        "hubquant run hub:alice/Qwen3-0.6B-GGUF",
        "![Size against divergence](./kld.png)",
        "- [Salesforce/wikitext](https://huggingface.co/datasets/Salesforce/wikitext) (wikitext-2-raw-v1, train)",
        "- [hubquant:test](https://pypi.org/project/hubquant/)",
        "| [Qwen3-0.6B-Q8_0.gguf](./Qwen3-0.6B-Q8_0.gguf) | Q8_0 | 639\u00a0MB | 8.50 | 0.001230 ±\u00a00.000007"
        " | hardly measurable losses | 0.00246 | 98.70 ±\u00a00.11\u00a0% | 1.0012 |",
    ]:
        assert line in body.splitlines()
    assert "128,000 tokens" in body
    assert "12,288 tokens" in body
    assert "llama.cpp loads every file" in body
    assert "for 14 of 16 prompts" in body


USAGE = Usage(
    context_length=32_768,
    cache_bytes=28 * 8 * (128 + 128) * 2,
    sampling=(("temp", 0.6), ("top_k", 20.0), ("top_p", 0.95)),
    prompt="<|im_start|>system\n{system_prompt}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n",
)


def test_it_tells_how_the_model_wants_to_be_run() -> None:
    body = render(replace(CARD, usage=USAGE))
    assert "takes up to 32,768 tokens of context (`-c 32768`)" in body
    assert "recommend temperature 0.6, top k 20, top p 0.95." in body
    assert "`--temp 0.6 --top-k 20 --top-p 0.95`" in body
    assert f"```text\n{USAGE.prompt}```\n" in body
    for absent in ("tokens of context", "Its authors recommend", "### Prompt format"):
        assert absent not in render(CARD)


@given(st.text())
def test_a_prompt_stays_in_its_block(prompt: str) -> None:
    block = card_block(prompt)
    fence = block.split("text\n")[0]
    lines = block.splitlines()
    assert set(fence) == {"`"}
    assert len(fence) >= 3
    assert lines[-1] == fence
    assert not any(fence in line for line in lines[1:-1])


def test_it_says_which_file_for_how_much_memory() -> None:
    gigabytes = {"Q8_0": (30.0, 0.001), "Q6_K": (21.0, 0.004), "Q5_K_M": (18.0, 0.003), "Q4_K_M": (14.5, 0.02)}
    files = tuple(measured_file(type, size, kld) for type, (size, kld) in gigabytes.items())
    # 8192 tokens take 0.94 GB, llama.cpp 0.5: Q5_K_M is nearer to the source than the larger Q6_K
    assert [(memory, file.type) for memory, file in by_memory(files, USAGE)] == [
        ("16 GB", "Q4_K_M"),
        ("20 GB", "Q5_K_M"),
        ("32 GB", "Q8_0"),
    ]
    unmeasured = [replace(file, divergence=None) for file in files]
    assert [file.type for _, file in by_memory(unmeasured, USAGE)] == ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"]
    fork = replace(files[3], fork="alice/llama.cpp")
    assert [file.type for _, file in by_memory([*files[:3], fork], USAGE)] == ["Q5_K_M", "Q8_0"]
    body = render(replace(CARD, files=files, usage=USAGE))
    assert "| 16 GB | [M-Q4_K_M.gguf](./M-Q4_K_M.gguf) | Q4_K_M | 14.5\u00a0GB |" in body
    assert "with room for 8,192 tokens of context" in body
    assert "at most 115 MB for each thousand tokens" in body


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"head_count": u32(32), "head_count_kv": u32(8), "key_length": u32(64), "value_length": u32(64)}, 65_536),
        ({"head_count": u32(32)}, 524_288),
        ({"head_count": u32(32), "head_count_kv": i32s([8, 0, 8, 0])}, 2 * 8 * 2 * 128 * 2),
        ({}, None),
    ],
)
def test_the_memory_of_a_token_is_that_of_its_keys_and_values(sizes: dict[str, KV], expected: int | None) -> None:
    metadata = {
        "general.architecture": string("llama"),
        "llama.block_count": u32(32),
        "llama.embedding_length": u32(4096),
        "llama.context_length": u32(131_072),
        "general.sampling.temp": f32(0.6),
        **{f"llama.attention.{key}": kv for key, kv in sizes.items()},
    }
    usage = Usage.of(metadata, "x" * 100_000)
    assert usage == Usage(131_072, expected, (("temp", 0.6),))


def test_it_names_the_builds_that_files_were_checked_with() -> None:
    checked = replace(FILES[0], runtime=RuntimeCheck(None, 8, 8, 8, "2026.10.11549"))
    assert "That was llama.cpp b11549 (xllamacpp 2026.10.11549)." in render(replace(CARD, files=(checked, FILES[1])))
    assert "That was" not in render(CARD)


def test_files_that_llama_cpp_would_mistake_are_no_examples() -> None:
    both = (replace(FILES[0], file="a-F16.gguf", type="F16"), replace(FILES[0], file="a-BF16.gguf", type="BF16"))
    body = render(replace(CARD, files=both))
    assert "llama-server -hf alice/Qwen3-0.6B-GGUF:BF16" in body
    assert '--include "*BF16*"' in body


def test_a_model_of_embeddings_is_served_as_one() -> None:
    body = render(replace(CARD, source={**SOURCE, "pipeline_tag": "sentence-similarity"}))
    assert "\nllama-server -hf alice/Qwen3-0.6B-GGUF:Q4_K_M --embeddings\n```\n" in body
    assert "ollama run" not in body
    assert "--embeddings" not in render(CARD)


def test_an_audience_that_is_warned_stays_warned() -> None:
    source = {**SOURCE, "tags": ["not-for-all-audiences"]}
    assert "not-for-all-audiences" in front_matter(replace(CARD, source=source))["tags"]


def test_the_same_input_gives_the_same_bytes() -> None:
    assert render(CARD) == render(replace(CARD))


def test_a_local_model_in_a_local_folder_without_measurements() -> None:
    files = (MeasuredFile("my model-F16.gguf", "F16", 1000, 16.0),)
    text = render(Card("my model", files, "hubquant run ./model", "0.1.0"))
    assert front_matter(Card("my model", files, "", "")) == {
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["gguf", "quantized", "hubquant"],
    }
    assert "llama-server -m 'my model-F16.gguf'" in text
    assert "| File | Type | Size | bpw |" in text.splitlines()
    for absent in ["None", "huggingface.co", "KLD", "licence", "Calibration", "{{", "{%"]:
        assert absent not in text


def test_files_for_a_fork_are_warned_of_and_no_example() -> None:
    fork = MeasuredFile("a-Q3_K_HIFI.gguf", "Q3_K_HIFI", 1000, 4.6, fork="alice/llama.cpp")
    both = render(replace(CARD, files=(fork, *FILES)))
    assert both.count("**Warning:**") == 1
    assert "is loaded only by [alice/llama.cpp](https://github.com/alice/llama.cpp)" in both
    assert "llama.cpp loads every other file, cuts" in both
    assert "llama-server -hf alice/Qwen3-0.6B-GGUF:Q4_K_M" in both
    alone = render(replace(CARD, files=(fork,)))
    assert "**Warning:**" in alone
    assert "llama-server" not in alone
    assert "**Warning:**" not in render(CARD)


def test_a_card_says_what_llama_cpp_was_not_asked() -> None:
    without = replace(FILES[0], runtime=RuntimeCheck(skipped="xllamacpp is not installed"))
    body = ModelCard(render(replace(CARD, files=(without,)))).text
    assert "Not checked, whether llama.cpp loads every file" in body
    assert r"pip install 'hubquant\[llamacpp\]'" in body


HOSTILE = "x](javascript:alert(1)) <script>a</script> | b\n\n# c\n---\n```\n`d` ![i](http://e) ~~f~~ *g* __h__ \\"


def test_foreign_values_stay_text() -> None:
    hostile = replace(
        CARD,
        model_name=HOSTILE,
        reproduce=HOSTILE,
        source={**SOURCE, "license": HOSTILE, "tags": [HOSTILE], "license_link": HOSTILE, "pipeline_tag": HOSTILE},
        calibration=(CardText(HOSTILE, True, HOSTILE), CardText(HOSTILE)),
        evaluation=(CardText(HOSTILE),),
        files=(replace(FILES[0], file=HOSTILE, type=HOSTILE),),
    )
    text = render(hostile)
    card = ModelCard(text)
    assert card.data.to_dict()["license"] == HOSTILE
    assert card.data.to_dict()["tags"][-1] == HOSTILE
    assert set(card.data.to_dict()) == set(ModelCard(render(CARD)).data.to_dict())
    assert card.text.count("```") == render(replace(CARD, files=FILES[:1])).count("```")
    prose = re.sub("```sh\n.*?\n```\n", "", card.text, flags=re.DOTALL)
    assert "<script" not in prose
    assert (
        re.findall(r"(?<!\\)\]\(([a-z]+):", prose).count("https") == len(re.findall(r"(?<!\\)\]\([a-z]+:", prose)) > 2
    )
    assert "![" not in prose.replace("![Size against divergence]", "")
    headings = [line for line in card.text.splitlines() if line.startswith("#")]
    assert len(headings) == len([line for line in render(CARD).splitlines() if line.startswith("#")])


@given(st.text())
def test_escaped_text_is_one_line_without_markup(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    assert "<" not in escaped
    unescaped = escaped.replace("\\\\", "")
    for character in "`*[]!|~$#":
        assert unescaped.count(character) == unescaped.count("\\" + character)


@pytest.mark.parametrize(
    "source",
    [
        {"license": ["mit", "apache-2.0"], "language": "en", "tags": "chat"},
        {"license": 3, "language": {"a": 1}, "tags": [None, 1, ["x"]], "license_name": [], "pipeline_tag": 1},
        {"extra_gated_fields": "nope", "extra_gated_prompt": ["a"], "extra_gated_eu_disallowed": "yes"},
        {"license": "", "language": [], "tags": []},
        {"license": "x" * 1_000_000, "extra_gated_fields": {"a": "y" * 1_000_000}},
    ],
)
def test_odd_front_matter_is_taken_where_it_makes_sense(source: dict[str, Any]) -> None:
    text = render(replace(CARD, source=source))
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "Qwen/Qwen3-0.6B"
    assert len(text) < 50_000
    for key in ("license", "language", "tags"):
        assert key not in data or isinstance(data[key], str | list)


def test_the_hub_accepts_the_card(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text(render(CARD))
    digests = {"README.md": hashlib.sha256(render(CARD).encode()).hexdigest()}
    push(tmp_path / "out", digests, "alice/Qwen3-0.6B-GGUF")
    info = HfApi().model_info("alice/Qwen3-0.6B-GGUF")
    assert info.card_data is not None
    assert info.card_data.base_model == "Qwen/Qwen3-0.6B"
    assert hub.content("alice/Qwen3-0.6B-GGUF", "README.md").decode() == render(CARD)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\n---\n# x\n", {"license": "mit"}),
        ("\n---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        ("---\nlicense: mit\n---", {"license": "mit"}),
        ("---\ndate: 2026-01-02\n1: a\n---\n", {"date": "2026-01-02", "1": "a"}),
        ("# no front matter\n---\na: b\n---\n", {}),
        ("---\n- a\n- b\n---\n", {}),
        ("---\na: [\n---\n", {}),
        ("---\na: !!python/object/apply:os.system [echo]\n---\n", {}),
        ("---\na: !custom x\n---\n", {}),
        ("---\na: &x [1]\nb: *x\n---\n", {}),
        ("---\na: " + "[" * 5000 + "\n---\n", {}),
        ("---\ndate: 2026-99-99\n---\n", {}),
        ("", {}),
        (
            "---\nbase_model: /home/me/x\ntags: [a, 'base_model:adapter:/home/me/x', './out', 'D:\\x', 'arxiv:1', "
            "'https://a/b', 'base_model:adapter:org/x']\nlicense_link: LICENSE\n---\n",
            {
                "base_model": None,
                "tags": ["a", "arxiv:1", "https://a/b", "base_model:adapter:org/x"],
                "license_link": "LICENSE",
            },
        ),
    ],
)
def test_front_matter_is_read_with_care(text: str, expected: dict[str, Any]) -> None:
    assert read_front_matter(text) == expected


def test_eval_results_are_in_the_form_of_the_hub() -> None:
    measured = {"Q8_0": {"perplexity": 12.5, "kld_mean": 0.001}, "Q4_K_M": {"perplexity": 12.9, "kld_mean": 0.03}}
    files = eval_results("Salesforce/wikitext", measured, dataset_revision="a" * 40, notes="split test, chunks of 512")
    assert list(files) == [
        ".eval_results/Salesforce_wikitext_Q8_0.yaml",
        ".eval_results/Salesforce_wikitext_Q4_K_M.yaml",
    ]
    data = yaml.safe_load(files[".eval_results/Salesforce_wikitext_Q4_K_M.yaml"])
    assert data[0] == {
        "dataset": {"id": "Salesforce/wikitext", "task_id": "perplexity", "revision": "a" * 40},
        "value": 12.9,
        "notes": "Q4_K_M, split test, chunks of 512",
    }
    assert [(entry.task_id, entry.value) for entry in parse_eval_result_entries(data)] == [
        ("perplexity", 12.9),
        ("kld_mean", 0.03),
    ]


def test_the_front_matter_has_what_was_measured_on_a_dataset_of_the_hub() -> None:
    text = CardText("Salesforce/wikitext", True, "wikitext-2-raw-v1, test")
    data = ModelCard(render(replace(CARD, evaluation=(text,)))).data
    assert data.model_name == "Qwen3-0.6B"
    found = {(r.metric_name, r.dataset_type, r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    where = ("Salesforce/wikitext", "Salesforce/wikitext (wikitext-2-raw-v1, test)")
    assert len(found) == 4
    for file in FILES:
        assert file.divergence is not None
        assert found[f"perplexity, {file.type}", *where, "perplexity"] == file.divergence.ppl.ppl
        name = f"mean KL divergence from the source model, {file.type}"
        assert found[name, *where, "kl-divergence"] == file.divergence.kld.mean
    for texts in ((CardText("a.txt"),), (text, text)):
        assert "model-index" not in render(replace(CARD, evaluation=texts))


def test_texts_that_are_not_on_the_hub_have_no_eval_results() -> None:
    assert eval_results(None, {"Q8_0": {"perplexity": 12.5}}) == {}
