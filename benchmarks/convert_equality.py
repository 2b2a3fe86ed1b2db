"""What ``hubquant convert`` and llama.cpp's converter make of the same models: bytes of all tensors, and all keys.

    python -m benchmarks.convert_equality PATH_TO_LLAMA_CPP [--only NAME] [--folder DIR]

PATH_TO_LLAMA_CPP is a checkout of llama.cpp, whose ``conversion`` and ``gguf-py`` run in a process of their own, with
this environment's libraries. The models are the tiny ones of the tests (``tests/convert``), with random weights; files
are F16, in which vectors and what llama.cpp reads as floats stay F32. llama.cpp's converter knows tokenizers by a hash
of what they make of a text, and none of these is among them: it is told what hubquant finds, so that
``tokenizer.ggml.pre`` alone proves nothing. Each difference is printed with the reason for it, from the table here. One
without a reason makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hubquant import HubquantError, convert
from hubquant.convert.restore import read_tensor
from hubquant.gguf_file import GGUFFile
from hubquant.gguf_file.metadata import KV
from tests.convert import test_ahead, test_deci, test_encoders, test_llama_cpp, test_openelm, test_own_code
from tests.support.ahead import add_ahead
from tests.support.conversion import build_uneven, configure, edit_weights

TYPE = "F16"
PRE = "tokenizer.ggml.pre"
AHEAD = "with a layer ahead"

CONVERTER = """
import json, logging, sys, traceback
from pathlib import Path
root = sys.argv[1]
sys.path[:0] = [root, root + "/gguf-py"]
import torch
import gguf
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
logging.disable(logging.CRITICAL)
for line in sys.stdin:
    job = json.loads(line)
    failure, own_vocabulary = None, True
    def set_vocab(model, original):
        global own_vocabulary
        try:
            original(model)
        except BaseException:
            own_vocabulary = False
            model._set_vocab_gpt2()
    try:
        with torch.inference_mode():
            folder = Path(job["folder"])
            kind = get_model_class(get_model_architecture(ModelBase.load_hparams(folder, False), ModelType.TEXT))
            kind.no_mtp = kind.supports_mtp_export and not job["ahead"]
            kind.get_vocab_base_pre = lambda self, tokenizer: job["pre"]
            original, inherited = kind.set_vocab, "set_vocab" not in vars(kind)
            kind.set_vocab = lambda self: set_vocab(self, original)
            try:
                kind(folder, gguf.LlamaFileType.MOSTLY_F16, Path(job["out"])).write()
            finally:
                if inherited:
                    del kind.set_vocab
                else:
                    kind.set_vocab = original
    except NotImplementedError as error:
        failure = str(error)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        failure = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    print("@" + json.dumps([failure, own_vocabulary]), flush=True)
"""
"""Where a family's vocabulary cannot be made of the tokenizer of a test, the converter takes that of GPT-2's kind."""


@dataclass(frozen=True)
class Difference:
    """What is not the same in a file: a key, or of a tensor its presence, ``shape``, ``type`` or ``values``, which are
    apart by ``error``, relative to the largest."""

    what: str
    ours: str
    theirs: str
    error: float = 0.0

    def __str__(self) -> str:
        return f"{self.what}: {self.ours} | {self.theirs}"


@dataclass(frozen=True)
class Reason:
    """Why a difference whose ``what`` fits is as it is, in models whose name fits, of values that are not farther apart
    than ``within``. ``ours`` and ``theirs`` fit what the files have."""

    what: str
    why: str
    models: str = ""
    ours: str = ""
    theirs: str = ""
    within: float = math.inf

    def explains(self, model: str, difference: Difference) -> bool:
        patterns = (self.what, self.models, self.ours, self.theirs)
        texts = (difference.what, model, difference.ours, difference.theirs)
        return all(map(re.search, patterns, texts)) and difference.error <= self.within


NONE = "^none$"
FALSE = "^(False|none)$"
NO_MOE, HYBRID_4 = r"^nemotron_h$", r"^granite 4 of attention alone$"
REASONS: tuple[Reason, ...] = (
    Reason(r"^hubquant\.", "a key of hubquant's own"),
    Reason(
        ".",
        "the converter goes by settings of experts, which transformers 5 writes for models without any",
        models=NO_MOE,
    ),
    Reason(
        r"^(general\.architecture|granite.*|blk\..*attn_[qk]\.weight values)$",
        "the converter does not know layers by the name full_attention, which transformers 5 writes, and takes them "
        "for layers without attention; a Granite 4 with nothing but attention is a granite here, as llama.cpp runs it",
        models=f"{HYBRID_4}|^granite_hybrid",
    ),
    Reason(
        r"^tokenizer\.ggml\.add_(bos|eos|sep)_token$",
        "false, which is what llama.cpp takes where the key is absent",
        ours=FALSE,
        theirs=FALSE,
    ),
    Reason(
        r"\.(rope\.dimension_count|vocab_size|attention\.(key|value)_length)$",
        "llama.cpp makes the same of other keys",
        theirs=NONE,
    ),
    Reason(r"nemotron_h.*\.rope\.dimension_count$", "nothing is rotated in this family", ours=NONE),
    Reason(
        r"\.expert_gating_func$",
        "the converter has it from scoring_func, which transformers 5 does not write, or leaves it to llama.cpp",
        theirs=NONE,
    ),
    Reason(
        r"\.(rope\.freq_base|leading_dense_block_count|expert_weights_norm|rope\.scaling\.finetuned)$",
        "what llama.cpp takes where the key is absent: the logits are those of transformers",
        theirs=NONE,
    ),
    Reason(
        r"\.(rope\.scaling\.type|rope\.freq_base_swa|nextn_predict_layers|attention\.sliding_window_pattern"
        r"|expert_weights_norm|expert_group(_used)?_count|attention\.layer_norm_rms_epsilon|expert_gating_func)$",
        "what llama.cpp takes where the key is absent: the logits are those of transformers",
        ours=NONE,
    ),
    Reason(
        r"\.attention\.layer_norm_rms_epsilon$",
        "llama.cpp takes layer_norm_epsilon where it is absent, which the two are of one setting",
        models="nemotron_h",
        theirs=NONE,
    ),
    Reason(
        r"\.rope\.scaling\.(yarn_)?attn_factor$",
        "llama.cpp multiplies attn_factor by yarn's own, so that config.json's factor is divided by that",
        models="its own scale",
    ),
    Reason(
        r"\.(attention\.head_count_kv|feed_forward_length)$",
        "the converter takes a key-value head for each head and four times the width, whatever config.json tells",
        models="^phi2",
    ),
    Reason(
        r"^output\.weight presence$", "llama.cpp loads no file of this family without an output layer", ours="there"
    ),
    Reason(r"^general\.size_label$", "the tied matrix is counted twice, as it is in the file", models="tied"),
    Reason(r"\.context_length$", "the converter writes 2048 for every Falcon", models="^falcon"),
    Reason(r"(ssm_a|rope_freqs\.weight) values$", "computed in float64 and rounded once", within=1e-6),
    Reason(
        r"(ssm_in|attn_k)\.weight values$",
        "multiplied by its factors in float32 before it is rounded: another last bit",
        models="^falcon_h1",
        within=1e-3,
    ),
    Reason(
        r"\.leading_dense_block_count$",
        "the converter does not know mlp_layer_types, by which transformers 5 tells it",
        models="^glm(4_moe_lite|_moe_dsa)|^exaone_moe",
    ),
    Reason(
        r"\.expert_group(_used)?_count$",
        "all groups are chosen from: there is nothing to choose, for which llama.cpp has one",
        models="with all groups",
    ),
    Reason(
        r"\.attention\.layer_norm_rms_epsilon$",
        "the converter looks for layernorm_epsilon, as the model's older code calls it, and takes 1e-5",
        models="^chatglm",
    ),
    Reason(
        r"\.expert_shared_feed_forward_length$",
        "the converter divides intermediate_size by the key-value heads; the tensors have the width that is here",
        models="^ernie4_5_moe",
    ),
    Reason(
        r"\.rope\.dimension_count$", "the converter takes half of a head; all of it is rotated", models="^solar_open"
    ),
    Reason(
        r"\.(full_attention_interval|attention\.recurrent_layers)$",
        "llama.cpp makes the list of the interval, which the converter takes to be 4 where config.json has a list",
        models="^qwen3_",
    ),
    Reason(r"\.final_logit_softcapping$", "0, with which nothing is capped", ours=r"^0\.0$", theirs=NONE),
    Reason(
        r"\.context_length$", "the converter takes the width where config.json has no seq_length", models="^chatglm"
    ),
    Reason(r"exp_probs_b\.bias shape$", "the same in ggml, which leaves leading ones out", models="^ernie4_5_moe"),
    Reason(
        r"^modern-bert\.(attention\.|classifier)",
        "the converter looks for names that transformers 5 does not write (norm_eps is not among them, without which "
        "llama.cpp loads no file) and tells of a classifier, which the file has not",
        models="^modernbert",
    ),
    Reason(
        r"\.(block_count|nextn_predict_layers)$",
        "the converter counts the layer ahead that config.json tells of, though there is none",
        models="^BailingMoeV2",
    ),
    Reason(
        r"(attn_[qk]\.weight values|rope\.dimension_count)$",
        "rope turns the first half of a head, whose rows are put in pairs; the converter pairs those of whole heads",
        models="^bamba",
    ),
    Reason(
        r"\.(rope\.scaling\.(attn_factor|original_context_length)|expert_shared_count|attention\.causal)$",
        "said by hubquant: the results are those of transformers",
        theirs=NONE,
        models="^(minicpm3|cohere2_moe|hy_v3|t5)",
    ),
    Reason(
        r"\.(attention\.(rope_pattern|sliding_window(_pattern)?)|rope\.dimension_count_swa)$",
        "which layers have rope or a window is told layer by layer, and no window where none has one",
        models="^(laguna|granite(moe)?_swa)",
    ),
    Reason(
        r"_exps\.weight presence$",
        "gates and what they gate are tensors of their own, which llama.cpp loads too",
        models="^granitemoe_swa",
    ),
    Reason(
        r"\.(expert_gating_func|attention\.layer_norm_epsilon)$",
        "by expert_selection_fn, which the converter does not read; llama.cpp's logits are those of transformers",
        models="^cohere2_moe",
    ),
    Reason(r"\.attention\.head_count_kv$", "as many as heads, where the key is absent", ours=NONE, models="^bloom"),
    Reason(r"^token_types", "one kind of token, of zeros, so that the file is read back as BERT", models="^distilbert"),
    Reason(
        r"ffn_gate_inp\.weight type$",
        "the converter knows what stays F32 by the layer's number, which is another one in the checkpoint",
        models=f"^nemotron_h.*{AHEAD}",
    ),
    Reason(
        r"ffn_gate_inp\.weight type$",
        "the converter has all of DBRX's matrices quantized, but llama-quantize leaves routers as they are",
        models="^dbrx",
    ),
    Reason(r"^tokenizer\.", "Llama 2's vocabulary, which the converter brings along for OpenELM", models="^OpenELM"),
    Reason(r"\.head_count_kv$", "one number where all layers have the same, which llama.cpp reads too", models="^Deci"),
    Reason(r"\.tensor_data_layout$", "llama.cpp reads it nowhere", ours=NONE),
    Reason(r"^tokenizer\.", "by tokenizer.json, where the converter makes one of pieces", models="^Xverse"),
    Reason(
        r"\.(attention\.layer_norm(_rms)?_epsilon|attention\.head_count_kv|context_length|feed_forward_length"
        r"|rope\.scaling\.factor)$",
        "the test's config.json has names of transformers that this family's own lacks: the results are those of "
        "the model with the same weights",
        models="^(ExaoneForCausalLM|QWenLMHeadModel|CodeShellForCausalLM)$",
    ),
    Reason(
        r"(\.block_count|exp_probs_b\.bias values)$",
        "the converter counts a layer ahead that is not there, and takes the mean off the router's bias, which "
        "chooses the same experts",
        models="^Sarvam",
    ),
    Reason(
        r".",
        "the tests' tokenizer is one of unigrams, without the sentencepiece.bpe.model that the converter reads: it "
        "takes it for a WordPiece tokenizer, and leaves the positions of padding in",
        models="^camembert",
    ),
    Reason(
        r"^tokenizer\.",
        "as the tests' tokenizers are, by tokenizer.json: llama.cpp gives the tokens of transformers",
        models="^(bert|distilbert|xlm-roberta|roberta|t5|mt5|umt5|nomic_bert|modernbert)",
    ),
    Reason(
        r"(^blk\.\d+\.|\.block_count$|\.nextn_predict_layers$|size_label$)",
        "the converter leaves DeepSeek V3's layer ahead out, with which llama.cpp drafts all the same",
        models=f"^deepseek3 .*{AHEAD}",
    ),
    Reason(
        r"^blk\.\d+\.ffn_(gate|up|gate_up)_exps\.weight presence$",
        "llama.cpp reads experts' gates and up matrices in one or apart; they are apart here, as in other families",
        models="^granitemoe_swa",
    ),
    Reason(r"\.attention\.rope_pattern$", "the converter does not know layer_rope_theta, by which layers have none"),
    Reason(r"\.expert_shared_count$", "llama.cpp goes by the width of the experts that all tokens pass", theirs=NONE),
    Reason(
        r"\.attention\.layer_norm_epsilon$",
        "the norms have no mean taken off, of which rms_norm_eps is the epsilon",
        models="^cohere2_moe|^Exaone|^QWen",
        ours=NONE,
    ),
    Reason(
        r"\.attention\.layer_norm_rms_epsilon$",
        "llama.cpp reads it under this name, the converter writes it by the setting's",
        models="^Exaone|^QWen",
        theirs=NONE,
    ),
    Reason(r"\.attention\.head_count_kv$", "as many as heads, which llama.cpp takes without it", "^bloom|^QWen"),
    Reason(
        r"\.context_length$",
        "config.json has it as seq_length or not at all; BLOOM was trained with 2048 tokens",
        models="^bloom|^QWen",
    ),
    Reason(r"\.tensor_data_layout$", "llama.cpp does not read it", models="^(Xverse|Orion)", ours=NONE),
    Reason(r"^tokenizer\.", "the converter knows XVERSE's tokenizer alone", models="^Xverse"),
    Reason(r"\.feed_forward_length$", "the converter takes four times the width, not n_inner", models="^CodeShell"),
    Reason(r"\.rope\.scaling\.factor$", "a factor of 1 scales nothing", models="^(Bitnet|CodeShell)", theirs=r"^1\.0$"),
    Reason(
        r"\.block_count$",
        "the converter counts layers ahead that config.json tells of, though the files hold none",
        models="^(Sarvam|BailingMoeV2)",
    ),
    Reason(
        r"exp_probs_b\.bias values$",
        "the converter takes the mean off, as the model's code does: the same experts are chosen",
        models="^Sarvam",
    ),
    Reason(r"^tokenizer\.ggml\.mask_token_id$", "that of one model's vocabulary", models="^LLaDAMoE", ours=NONE),
)


def models() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """A name, and what makes the model in a folder."""
    for name, (family, config) in test_llama_cpp.MODELS.items():
        yield name, partial(build_uneven, family, **config)
    for name in test_encoders.MODELS:
        yield name, partial(test_encoders.build, name)
    for name, changes in test_ahead.AHEAD.items():
        yield f"{name}, {AHEAD}", partial(_ahead, name, changes)
    yield "minicpm", test_own_code.minicpm
    yield "BitnetForCausalLM", test_own_code.bitnet
    for name in test_own_code.OWN:
        yield name, partial(_own_code, name)
    yield "OpenELMForCausalLM", lambda folder: test_openelm.build(folder)[0]
    yield "Nemotron-NAS", lambda folder: test_deci.searched(folder)[0]


def _ahead(name: str, changes: Mapping[str, Any], folder: Path) -> Path:
    family, config = test_llama_cpp.MODELS[name]
    made = add_ahead(build_uneven(family, folder, **(config | changes)), family)
    return configure(made, num_nextn_predict_layers=1)


def _own_code(name: str, folder: Path) -> Path:
    theirs, own, rename = test_own_code.OWN[name]
    made = edit_weights(build_uneven(test_own_code.STAND_INS[name], folder, **theirs), rename)
    return configure(made, architectures=[name], model_type="own", is_causal=..., **own)


def differences(ours: Path, theirs: Path, *, vocabularies: bool) -> Iterator[Difference]:
    """Without those of the ``vocabularies`` unless they are made of the same tokenizer in the same way."""
    one, other = GGUFFile.open(ours), GGUFFile.open(theirs)
    for key in sorted(one.metadata.keys() | other.metadata.keys()):
        mine, its = one.metadata.get(key), other.metadata.get(key)
        if mine != its and (vocabularies or not key.startswith("tokenizer.")):
            yield Difference(key, _shown(mine), _shown(its))
    for name in sorted(one.tensors.keys() | other.tensors.keys()):
        if name not in one.tensors or name not in other.tensors:
            yield Difference(f"{name} presence", _there(name, one), _there(name, other))
            continue
        mine_info, its_info = one.tensors[name], other.tensors[name]
        if mine_info.shape != its_info.shape:
            yield Difference(f"{name} shape", str(list(mine_info.shape)), str(list(its_info.shape)))
        elif mine_info.type != its_info.type:
            yield Difference(f"{name} type", mine_info.type, its_info.type)
        elif not np.array_equal(one.data(name).numpy(), other.data(name).numpy()):
            x, y = (read_tensor(each, name).double() for each in (one, other))
            error = float((x - y).abs().max() / y.abs().max())
            yield Difference(f"{name} values", f"{int((x != y).sum())} of {x.numel()}", f"apart by {error:.1e}", error)


def _there(name: str, file: GGUFFile) -> str:
    return "there" if name in file.tensors else "none"


def _shown(kv: KV | None) -> str:
    return "none" if kv is None else f"{kv.value!r}"[:100]


class Converter:
    """llama.cpp's, in a process of its own."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CONVERTER, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=tempfile.gettempdir(),
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )

    def __call__(self, folder: Path, out: Path, pre: str | None, *, ahead: bool) -> tuple[str | None, bool]:
        """Why there is no file, if so; and whether its vocabulary was made as the family's is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"folder": str(folder), "out": str(out), "pre": pre, "ahead": ahead}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("@"):
                failure, vocabulary = json.loads(line[1:])
                return failure, vocabulary
        raise SystemExit(f"llama.cpp's converter stopped at {folder}")

    def close(self) -> None:
        self._process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("llama_cpp", type=Path, metavar="PATH_TO_LLAMA_CPP")
    parser.add_argument("--only", default="", help="models whose name this regular expression fits")
    parser.add_argument("--folder", type=Path, help="where the models are made (default: a temporary folder)")
    arguments = parser.parse_args()
    if not (arguments.llama_cpp / "conversion").is_dir():
        parser.error(f"{arguments.llama_cpp} has no folder conversion: it is no checkout of llama.cpp of 2026")
    counts: Counter[str] = Counter()
    told: dict[str, list[str]] = {}
    unexplained = 0
    converter = Converter(arguments.llama_cpp.resolve())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        os.environ["HUBQUANT_HOME"] = f"{folder}/home"
        for number, (name, build) in enumerate(each for each in models() if re.search(arguments.only, each[0])):
            outcome, found = _compared(name, build, Path(folder) / str(number), converter)
            counts[outcome.partition(":")[0]] += 1
            print(f"{name}: {outcome}", flush=True)
            for each in found:
                reason = next((reason.why for reason in REASONS if reason.explains(name, each)), None)
                unexplained += reason is None
                if reason is None:
                    print(f"    WITHOUT A REASON: {each}", flush=True)
                else:
                    told.setdefault(reason, []).append(f"{name}: {each}")
    converter.close()
    for reason, cases in sorted(told.items(), key=lambda item: -len(item[1])):
        print(f"\n{reason}\n    {len(cases)} times, as {cases[0]}")
    print("\n" + ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common()))
    print(f"differences without a reason: {unexplained}")
    return 1 if unexplained else 0


def _compared(
    name: str, build: Callable[[Path], Path], place: Path, converter: Converter
) -> tuple[str, list[Difference]]:
    """What came of it, with details behind a colon, and the differences."""
    place.mkdir()
    folder, ours, theirs = build(place / "tiny"), place / "ours.gguf", place / "theirs.gguf"
    try:
        convert(folder, out=ours, type=TYPE, progress=None)
    except HubquantError as error:
        return f"refused here: {error}", []
    pre = GGUFFile.open(ours).metadata.get(PRE)
    failure, vocabulary = converter(folder, theirs, None if pre is None else str(pre.value), ahead=AHEAD in name)
    if failure is not None:
        return f"not converted by llama.cpp: {failure[:160]}", []
    found = list(differences(ours, theirs, vocabularies=vocabulary))
    tensors = [each.what for each in found if each.what.split(" ")[-1] in ("presence", "shape", "type", "values")]
    return ("every tensor the same" if not tensors else f"other tensors: {len(tensors)}"), found


if __name__ == "__main__":
    sys.exit(main())
