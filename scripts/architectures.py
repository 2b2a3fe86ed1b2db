"""Write docs/architectures.md: what the registry holds, and what the tests' own tables prove for it.

python -m scripts.architectures
"""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import ARCHITECTURES, REFUSED
from hubquant.convert.architectures.step35 import STEP35
from hubquant.convert.projectors import PROJECTORS
from hubquant.convert.projectors.conversion import projector_of
from hubquant.convert.projectors.otherwise import OTHERWISE
from hubquant.convert.projectors.projector import Multimodal
from hubquant.convert.projectors.qwen3_asr import QWEN3_ASR
from hubquant.convert.projectors.ultravox import ULTRAVOX
from hubquant.convert.rules.windows import DroppedWindow
from tests.checkpoint import test_float8, test_text_tower
from tests.convert import (
    test_encoders,
    test_gemma3n,
    test_grok,
    test_llama_cpp,
    test_names,
    test_own_code,
    test_own_encoders,
    test_plamo,
    test_projectors,
    test_projectors_own_code,
    test_projectors_sound,
    test_restore,
    test_rwkv,
)
from tests.support import qrwkv
from tests.support.multimodal import auto_class, describe
from tests.support.seeing import MEAN, STD

DOCUMENT = Path(__file__).parents[1] / "docs" / "architectures.md"
NOTHING = "–"
_PROCESSOR = {"image_mean": MEAN, "image_std": STD}
TEXT = """\
# Architectures

`python -m scripts.architectures` writes this page from the registry (`hubquant/convert/architectures`) and the tables
of models in `tests/convert`; a test fails when they say something else.

## What is converted

Text models in safetensors of F32, F16 or BF16, by the class that config.json names under `architectures` (or, without
one, by `model_type`); the language model inside a multimodal checkpoint; and these quantized sources:

{float8}
* MXFP4 experts of {mxfp4}, which stay MXFP4: the same codes and exponents, in the order of GGUF.

With `--allow-requantize` (`quantize.allow_requantize` in a recipe) these are read as the floats that their codes stand
for, to be converted, quantized, calibrated or measured, experts included; without it the message names the model that
they were made from, which is the better source where it is published:

* GPTQ of 2, 3, 4 and 8 bits, in its first and second version of zero points, in groups in any order of the inputs;
* AWQ of version gemm;
* compressed-tensors: integers of 1 to 8 bits in words (`pack-quantized`) and of 8 in bytes (`int-quantized`), by
  groups, rows or the whole, with and without zero points, and `nvfp4-pack-quantized` and `mxfp4-pack-quantized`;
* MXFP4 of DeepSeek V4's experts, beside FP8;
* NVFP4 of ModelOpt;
* LLM.int8 of bitsandbytes, and its 4 bits (nf4, fp4), doubly quantized or not;
* BitNet's weights of −1, 0 and 1 in bytes of four, in any family, without norms in each layer: TQ1_0 and TQ2_0 have the
  same ones. Its layers round their inputs to 8 bits too; what runs a file does not, or in its own way.

A matrix in 4-bit integers without zero points in groups of 32 or a multiple (as the experts of Kimi K2) is written as
Q4_0 with the same codes and scales, one in 8 bits as Q8_0, and MXFP4 as MXFP4, wherever a file has that type for it and
F16 holds each of its scales exactly; the plan says for how many. Scales in BF16 are such down to 2^-17. The other
floats are products in float32: a file of F32 holds them all, F16 and BF16 round them.

NVFP4 has a factor for each matrix beside the scales of its blocks. llama.cpp has it in a tensor of its own,
`blk.N.NAME.scale`, and multiplies what the matrix makes of its inputs by it, whatever the matrix's type is. Files of
llama, mistral3, qwen3, qwen3moe, qwen3next, qwen35, qwen35moe, cohere2, cohere2moe, nemotron_h, nemotron_h_moe, hy_v3
and mellum have it so: there matrices keep codes and scales where a rule names NVFP4 for them
(`--tensor-type blk=NVFP4`), and files of F16 and BF16 hold them without rounding. The graphs of llama.cpp's other
architectures load such factors and leave some of them out without a word (measured for qwen2, qwen2moe, granite,
smollm3, arcee, seed_oss, glm4, glm4moe, deepseek2, ernie4_5, afmoe, llama4, hunyuan-moe, exaone-moe, olmoe, laguna,
dots1, lfm2moe and phi3; of gemma4 logits differ a little): there the weights are floats with the factor in them.

Rotated inputs (`transform_config`), sparse weights, AWQ of other versions and GPTQ in the layouts of single kernels are
refused.

The files that are read are those that transformers takes: what config.json names as `transformers_weights`, else
model.safetensors, else the files that model.safetensors.index.json lists; calibration loads the same. Names without the
model's prefix (`AutoModel` saves), wrappers of torch.compile, FSDP, data parallel and peft, and stacks of experts as
transformers has them in memory are read as the model that they are. Tensors that transformers leaves out (rotary
caches, scales of a KV cache) are left out with a note, as is a `quantization_config` that the weights contradict. An
adapter that is not merged and weights that are quantized otherwise, whatever config.json says, are refused.

Where there are no safetensors, pytorch_model.bin and its shards are read with `--allow-pickle` (`model.allow_pickle` in
a recipe): torch's reader of weights takes tensors and plain containers out of them and runs nothing; what needs more is
refused. Of a repository of the Hub their table of tensors is read first, as the headers of safetensors are.

Where there are none at all, Mistral's own format is read: params.json with consolidated.safetensors or its shards, and
tekken.json or tokenizer.model with a version behind it (`tokenizer.model.v3`). It is the model that transformers would
have: Mistral, Mixtral and Ministral 3, and the projector of Pixtral and Mistral 3, in floats or FP8. A window is told
of and not computed, as with other Mistral models; of a model without `max_position_embeddings` in params.json the file
says 32,768 tokens, with a note. Chat templates are those of files beside it: what Mistral's own code writes for a chat
is in no file. Latent attention with shared experts (Mistral Large 3), Mamba and sound in this format are refused.

A LoRA adapter of peft alone (adapter_config.json, adapter_model.safetensors) becomes a GGUF adapter, which llama.cpp
loads beside its base: `hubquant convert ADAPTER`, with `--base BASE` where it is not the model that the adapter names.
Of the base its config.json is enough. A and B go through what the base's weights go through, matrices of experts
included; rsLoRA and patterns of ranks and alphas go into alpha and B. What no A and B of a GGUF file can say is refused
by name: DoRA, biases, whole modules, norms, an embedding that is the output layer too, of deepseek2 the projections of
its attention and the output layer, stacks of experts as peft's `target_parameters` has them.

`--merge BASE` (`model.merge` in a recipe) reads an adapter in its base, as one model that is converted, calibrated,
measured and quantized without being saved: each weight of the base has B A added while it is read. rsLoRA, patterns of
ranks and alphas, DoRA, biases, norms and whole modules (`modules_to_save`) are merged, matrices of experts as well,
into bases of FP8 or of codes, too. The weights are those of peft's `merge_and_unload()`, bit for bit (but an embedding
in half precision, which peft rounds twice). The card names both. An output layer that is the embedding too, stacks of
experts as `target_parameters` has them, and adapters of other kinds than LoRA are refused.

{ahead}

A GGUF file is taken wherever a model is: one of F32, F16 or BF16 as it is, a quantized one with `--allow-requantize`.
Its tensors keep their names, and it has its tokenizer.

Tensors stream from the checkpoint into the file: one of them, or those that are joined or split, in memory at a time.
A bf16 Llama of 3.88 GB in 8 shards took a peak of 0.66 GB resident, libraries included, and 5.3 to 8.1 s of the
processor. The start, with the check of the tokenizer, takes 4 s for a model of any size. After it the file was written
at 122 % of the speed of a copy of the shards from a cold cache (the copy at 582 to 794 MB/s) and at 74 % from a warm
one (2.3 GB/s); with the start at 64 % and 27 % (`python -m benchmarks.convert`, medians of five and four rounds, until
all is on the disk, on two cores that had some other work).

## What is refused, and when

When the plan is made (`hubquant plan`, `--dry-run`, and the first step of every other command), from config.json, the
tokenizer's files and the headers of the weights, before any weight is downloaded or read. The message says what, why
and what to do instead; the exit code is 2:

* other classes and model types, with the nearest ones that are known;
{refused}
* settings in config.json that llama.cpp's code for the architecture does not compute, each by its name and value, and
  those that hubquant does not know: every field of transformers' config classes is in a table or read
  (`hubquant/convert/settings.py`), and a test fails when a new version adds one;
* tensors that are missing, left over, of another shape than config.json says, or of another type;
* weights quantized in other ways than those above, and those without `--allow-requantize`, with the model they were
  made from if named;
* of a model whose code transformers lacks ({own_code}) what llama.cpp does not do in its place: error feedback, files
  of a given size, folders of other libraries, and commands that run a model without a recipe. See below;
* what an encoder ({encoders}) cannot have, or a decoder with a pooling of `sentence-transformers`, such as
  Qwen3-Embedding: perplexity, KL divergence, scores of tests, `refine` and `tune`. It is calibrated, and
  [measured by its embeddings](evaluation.md#encoders).

NaN and infinite weights stop the conversion itself, because only the weights tell.

## Models whose code transformers lacks

With the extra `llamacpp`, `hubquant run` and `hubquant imatrix collect` let llama.cpp run such a model: they make its
F16 file first. Importance is summed in llama.cpp's callback at each node of its graph, with a float32 cache and without
flash attention, for the weights and with the counts that llama-imatrix has. The sums equal those of transformers' hooks
where both run a model: to 1e-5 from an F32 file, to 5e-3 from one in F16. Files are measured by llama.cpp too, against
the F16 file there. The callback is set through ctypes: the layout of llama.cpp's structs is checked against the wheel
each time, and another one is refused. Models that fill in masked tokens are calibrated so, but not measured. Encoders
are neither.

## Drafters

`hubquant convert DRAFTER --target MODEL` (and `quantize`) converts a drafter ({drafters}) for the model that it drafts
for, of which config and tokenizer alone are read; llama.cpp takes the file as `--model-draft`. A drafter has no
importance and is not measured: it computes from the states of its target. What each drafts in llama.cpp was compared.

* EAGLE-3 drafts by its formula, to 10⁻⁴. A file without an embedding or an output layer of its own takes the target's.
  The table of its tokens (`d2t`) stays as it is in files of every type. Refused are more than one layer, states of
  other than three layers, and settings of `eagle_config`, which llama.cpp does not read.
* DFlash fills a block of masked tokens by its formula, to 10⁻⁴, causally and with windows too. It takes the target's
  embedding and output layer as EAGLE-3 does. A window counts back from each token, as llama.cpp has it. Settings of
  `dflash_config` other than its layers, masked token, block and direction are refused.
* Gemma 4's assistants bring their tokenizer, so that `--target` only checks that they fit. Four tokens in a row are
  those of transformers' code, to 10⁻³, with two differences that the plan notes: in a full window llama.cpp sees two
  tokens less, and where embeddings are ordered (`masked_embedding`), it scores all tokens instead of those in the
  likeliest groups. An assistant as wide as its target is refused, for llama.cpp does not load it.

DFlash 2 (`DFlash2DraftModel`, with convolutions and a selector) and DSpark are not converted.

## What is left out

* Vision and sound towers that no projector is known for, with a note in the plan; see below for the others.
{windows}
* Of MiniMax-Text-01 and M1 the list of tokens that must not be drawn, those without an embedding, which llama.cpp's
  converter writes. Which layers have lightning attention a file tells, as that converter does not.
* The layers of DeepSeek V4 that predict further tokens, which llama.cpp's converter puts into a file of their own. The
  matrix of its groups of heads has one importance for all of them.
* What a config.json with code of its own (`auto_map`) has for that code alone: named in the plan. It never runs here.
* Poolers and heads of encoders but those of rerankers, which have one score: llama.cpp embeds without them. Of a
  reranker the encoder is calibrated and measured, by the state that its score is made of. llama.cpp gives both texts of
  a pair the first one's kind of token, so that scores of BERT's (not of RoBERTa's) rerankers differ, with a note. The
  pooling of `sentence-transformers` is kept, and of EmbeddingGemma its dense modules; those of other models are left
  out with a note.
* The output layer of Qwen3-Reranker but for the rows of "yes" and "no", and of other rerankers of `qwen3` but for those
  of their `LogitScore`; one score (`Qwen3ForSequenceClassification`) becomes a row beside zeros, so that llama.cpp's
  softmax of both is its sigmoid. A reranker of Qwen3 is known by its name, its card's heading, or that module.
* The adapters of Jina's version 5 (nano is a EuroBERT, small a Qwen3): `run MODEL/adapters/TASK --merge MODEL` makes
  the model of a task.
* The adapters of Jina's version 3, which lie among its own weights: a file embeds as the model does without a task. The
  bias that the experts of a layer of nomic-bert's version 2 share, for which llama.cpp has no place. Both with a note.
  NeoBERT's queries, keys and values lie head by head, and the gate of Jina's version 2 for code behind what it gates:
  both are put into llama.cpp's order, which its own converter does not do. A file of DistilBERT is one of BERT whose
  one kind of token adds nothing; its classifier has another activation than llama.cpp's, and is not converted.
* The positions of RoBERTa's kin up to the padding token's, which no text has: a file begins with the first that a text
  has, as BERT's do, and is read back as BERT.

## What the tests prove

The models are tiny, with random weights, made by transformers: a plain one of each class, or one with what the family
has (windows, soft caps, several kinds of layers), and the cases named in the table.

* **llama.cpp**, "logits": llama.cpp's logits of a converted F32 file of 160 random tokens differ from those of
  transformers by at most 10⁻³ of the largest logit, the highest logit is the same at every position, and the model that
  hubquant reads back from the file gives transformers' logits to 10⁻⁴. (MiniMax-M3's blocks of attention llama.cpp
  chooses with flash attention alone, which it uses unless told otherwise; without it, it attends to everything.)
  "embeddings": the states of all tokens, to 2·10⁻³ (llama.cpp computes GELU from a table of half floats), and those of
  the model read back to 10⁻⁵. "scores": those of rerankers, to 0.01 where they are about as large as 3, and the states
  of the model read back. "stand-in": transformers lacks the model's code; llama.cpp's logits equal those of the named
  transformers model, which is read back from the same file. "written out": the same, and llama.cpp's states of all
  tokens are, to 2·10⁻³, or its logits, to 10⁻³, those that the test computes as the model's code does (the tensors of
  RWKV, PLaMo and Grok are read back, too).
  "drafts": llama.cpp's are those of the formula, or of transformers' code (see Drafters).
* **llama.cpp's drafts** of layers that predict further tokens: its logits of 16 tokens and random states differ by at
  most 10⁻⁴ from those that transformers' layers compute with the same weights, in one model of each llama.cpp name but
  those that it does not run.
* **read back**, "bit for bit": the tensors read back from the file are the checkpoint's, from F32 and (but for
  encoders) from BF16. Vectors that llama.cpp stores as 1 + x or −exp(x) (norms of Gemma, Nemotron, Qwen3-Next, Qwen3.5
  and MiniMax-M3; `A_log`) may be off by 2⁻²² where they were F32. "–": only the logits of the model read back are
  compared.

{table}

## Beside llama.cpp's converter

`python -m benchmarks.convert_equality PATH_TO_LLAMA_CPP` converts the tests' models with hubquant and with the
converter of a checkout of llama.cpp, both to F16, and compares every key and the type, shape and bytes of every tensor.
With llama.cpp of October 2026 158 of 187 models are converted by both, and of 133 every tensor is the same, bit for
bit. Each difference has its reason in a table there, which the script prints; one without a reason makes its exit
code 1. Most are keys that say what llama.cpp takes where they are absent, and settings that transformers 5 calls
otherwise than the converter. Tensors differ in the last bit of what is computed (the decay of state-space models,
factors of rope, Falcon-H1's multipliers), where the converter takes layers with attention for others (Granite 4 and
Nemotron-H in transformers 5's names), and by an output layer without which llama.cpp loads no file. A layer of
MiMo-V2-Flash with a window sees 128 tokens before the one that asks, as transformers computes it, where the converter
counts that one in; and its layers ahead have one matrix for queries, keys and values, without which llama.cpp does not
draft.

## Language models in multimodal checkpoints

Converted from a checkpoint with the vision tower in it; llama.cpp's logits equal the whole model's for text, as above.
The type of the language model decides, so other combinations are accepted too; these are tested:

{towers}

Qwen2-VL, 2.5-VL and 3-VL, GLM-4V, GLM-4.5V and GLM-OCR, PaddleOCR-VL (three) and Hunyuan-VL (four), which are in the
table above, have several positions for each token, which are one in text: a file says how rotary embeddings are
divided among them where llama.cpp's converter does, so that a projector may go with it, and is read back as the
language model that it is in text. Transformers leaves out Granite's factor of the logits in Granite Speech. Three gaps
are llama.cpp's: it computes Qwen2-VL's norms without their epsilon, turns the pairs of Qwen3-VL by nothing that are
beyond three times the shortest section (of the published 64 pairs the last two, which turn slowest), and calls the
language model of `Mistral3ForConditionalGeneration` mistral3, which for texts of Mistral's is the same as llama.
InternVL's `llm_config` is read as a `text_config` is.

FP8 sources are tested in Qwen3 for every form above (the floats of every tensor; logits in llama.cpp for one form).
The other quantized sources are tested in Qwen3, and with experts, against the packages that write them or the published
layouts; llama.cpp's own converter gives the same floats, bit for bit, of those that it reads.

## Projectors

What a multimodal model sees or hears with is a file of its own for llama.cpp (mmproj): `hubquant convert MODEL
--mmproj` makes one, and `run` makes one of F16 beside the files of the language model. These are converted; of other
classes the language model alone:

{projectors}

None is made of these, with the reason in the message or in the plan's notes:

{projectors_otherwise}

"embeddings": llama.cpp's of a picture, of a size that it does not change, or of a sound differ from those of
transformers by at most 2·10⁻³ of the largest. "the same file": as the checkpoint of the class that transformers has, of
the same weights. "stand-in": as the embeddings of another class with the same weights, where transformers has no code,
"written out": as those of a projector that a test writes out behind an encoder of transformers. Names of other versions
are read as well. What llama.cpp's code computes otherwise than config.json says is refused by the name of the setting.
Gaps that no setting tells are noted in the plan, and the embeddings are compared with them: llama.cpp sets the class
token of CLIP, in LLaVA, behind the patches, gives the parts of LLaVA-NeXT's pictures without ends of rows, and the
embeddings of Llama 4 column by column. Kimi-VL is compared where a picture has as many patches as the model has places,
which llama.cpp interpolates linearly instead of cubically; its own converter leaves the order of queries and keys, in
which llama.cpp turns other pairs than the model does. Of a sound it gives the embeddings of whole half minutes, with
silence behind it. Places of Hunyuan-VL are compared with those of its own code, which llama.cpp's are: transformers has
a factor that is a little smaller.
"""


def document() -> str:
    """The page, as it is to be committed."""
    return TEXT.format(
        float8="\n".join(_float8()),
        mxfp4=_names(each for each in ARCHITECTURES if "mxfp4" in each.quantized),
        own_code=_names(each for each in ARCHITECTURES if each.own_code and not each.drafts),
        drafters=_names(each for each in ARCHITECTURES if each.drafts),
        encoders=_encoders(),
        refused="\n".join(_refused()),
        ahead=_ahead(),
        windows=_windows(),
        table=_table(("llama.cpp's name", "transformers classes", "llama.cpp", "read back", "cases"), _rows()),
        towers=_table(("transformers class", "language model", "llama.cpp's name"), _towers()),
        projectors_otherwise="\n".join(_projectors_otherwise()),
        projectors=_table(("llama.cpp's type", "transformers classes", "llama.cpp", "cases"), _projectors()),
    )


def _encoders() -> str:
    """Those that no decoder is called too."""
    decoders = {name for each in ARCHITECTURES if each.generates for name in each.classes}
    return _code(dict.fromkeys(name for each in ARCHITECTURES for name in each.classes if name not in decoders))


def _ahead() -> str:
    names = _names(each for each in ARCHITECTURES if each.ahead)
    text = (
        f"Layers behind the last that predict further tokens (MTP, llama.cpp's NextN) are kept: of {names}. llama.cpp "
        "drafts with them, but for those of K-EXAONE and Ling 2.0, which it keeps and does not run. Its converter "
        "leaves DeepSeek V3's out. `--no-mtp` (`convert.no_mtp` in a recipe) leaves them out, of a GGUF file too. The "
        "tensors decide, whatever config.json tells, and a note says where the two differ: a layer that is not whole "
        "is left out, and so is K-EXAONE's beside factors of rope, where llama.cpp loads none. transformers runs no "
        "such layer: no importance matrix has it, and no evaluation measures it. Types that need importance become "
        "others, as the plan tells. Of a file of a given size they are as in the file type that is nearest."
    )
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _refused() -> Iterator[str]:
    for name, why in REFUSED.items():
        text = f"* `{name}`, which llama.cpp's converter takes: {why};"
        yield textwrap.fill(text, 120, subsequent_indent="  ", break_on_hyphens=False)


def _windows() -> str:
    dropped = (each for each in ARCHITECTURES if any(isinstance(rule, DroppedWindow) for rule in each.rules))
    text = (
        f"* Windows of attention where llama.cpp has none: of {_names(dropped)}. A note in the plan says from which "
        "length on the file computes otherwise than the original."
    )
    return textwrap.fill(text, 120, subsequent_indent="  ", break_on_hyphens=False)


def _rows() -> Iterator[tuple[str, ...]]:
    compared = test_llama_cpp.MODELS
    embedded = _parameters(test_encoders.test_embeddings_equal_transformers, "family")
    restored = {family for family, _ in test_restore.MODELS.values()}
    restored |= {*_parameters(test_encoders.test_reading_back_gives_the_same_weights, "family")}
    seeing = {MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[family] for family in test_text_tower.SEEING}
    bases = {family: MODEL_MAPPING_NAMES[family] for family in _parameters(test_names.test_a_base_class, "family")}
    rerankers = (*test_encoders.RERANKERS, "qwen3")
    ranked = {MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[family] for family in rerankers}
    written_out = {settings["architectures"][0] for settings, *_ in test_own_encoders.MODELS.values()}
    written_out |= {config["architectures"][0] for config, *_ in test_rwkv.MODELS.values()}
    written_out |= {config["architectures"][0] for config, *_ in test_plamo.MODELS.values()}
    written_out |= {*test_grok.CONFIG["architectures"]}
    written_out.add(qrwkv.CONFIG["architectures"][0])
    within = {text for (_, text, _), *_ in test_text_tower.MODELS.values()}
    for each in ARCHITECTURES:
        types = set(each.classes.values())
        cases = [name for name, (family, _) in compared.items() if family in types and each.generates]
        proof = NOTHING
        if seeing & {*each.classes}:
            yield f"`{each.name}`", _code(each.classes), "logits", "bit for bit", NOTHING
            continue
        if each.drafts:
            yield f"`{each.name}`", _code(each.classes), "drafts", NOTHING, NOTHING
            continue
        if each.own_code:
            cases, types = [], set()
            if stand_ins := [test_own_code.STAND_INS[name] for name in each.classes if name in test_own_code.STAND_INS]:
                proof = f"stand-in: {stand_ins[0]}"
            elif written_out & {*each.classes}:
                proof = "written out"
            elif each.name == STEP35.name:
                proof = "stand-in: step3p7"
        elif {*each.classes} & ranked:
            proof = "scores"
        elif each.generates and types <= {family for family, _ in compared.values()} | {test_gemma3n.FAMILY} | within:
            proof = "logits"
        elif types <= {*embedded}:
            proof = "embeddings"
        back = "bit for bit" if types and types <= restored else NOTHING
        variants = "; ".join(filter(None, map(_variant, cases))) or NOTHING
        classes = (*each.classes, *(bases[family] for family in types if family in bases))
        yield f"`{each.name}`", _code(classes), proof, back, variants


def _towers() -> Iterator[tuple[str, ...]]:
    found: dict[tuple[str, str, str], None] = {}
    for (family, text, _), _settings, name in test_text_tower.MODELS.values():
        found[MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[family], text, name] = None
    for checkpoint, text, name in sorted({*found, ("Gemma3nForConditionalGeneration", test_gemma3n.FAMILY, "gemma3n")}):
        yield f"`{checkpoint}`", text, f"`{name}`"


def _projectors() -> Iterator[tuple[str, ...]]:
    pictures = [(name, families, settings) for name, (families, settings, *_) in test_projectors.MODELS.items()]
    heard = {"seeing": test_projectors_sound.SEEN}
    sounds = [(name, families, settings | heard) for name, (families, settings) in test_projectors_sound.MODELS.items()]
    types: defaultdict[int, set[str]] = defaultdict(set)
    proven: defaultdict[int, set[str]] = defaultdict(set)
    cases: defaultdict[int, list[str]] = defaultdict(list)
    for name, families, settings in (*pictures, *sounds):
        described = describe(*families, **settings)
        kind = auto_class(families[0])._model_mapping[type(described)].__name__
        projector = projector_of({**described.to_dict(), "architectures": [kind]})
        assert projector is not None, kind
        found = PROJECTORS.index(projector)
        keys = projector.metadata(Multimodal(described, _PROCESSOR, Path(), {}))
        types[found] |= {str(value.value) for key, value in keys.items() if key.endswith("projector_type")}
        proven[found].add(kind)
        cases[found] += filter(None, [_variant(name)])
    stand_ins: dict[str, str] = {}
    for kind, (name, _, as_other, _) in test_projectors_own_code.STAND_INS.items():
        families, settings, *_ = test_projectors.MODELS[name]
        config = as_other(describe(*families, **settings).to_dict())
        projector = projector_of(config)
        assert projector is not None, kind
        known = dict(projector.as_transformers(config))
        model = Multimodal(CONFIG_MAPPING[known["model_type"]].from_dict(known), _PROCESSOR, Path(), {})
        types[PROJECTORS.index(projector)].add(str(projector.metadata(model)["projector_type"].value))
        stand_ins[kind] = f"stand-in: {families[0]}"
    types[PROJECTORS.index(ULTRAVOX)].add("ultravox")
    types[PROJECTORS.index(QWEN3_ASR)].add("qwen3a")
    proven[PROJECTORS.index(QWEN3_ASR)].update(QWEN3_ASR.classes)
    stand_ins |= dict.fromkeys(ULTRAVOX.classes, "written out")
    for number, each in enumerate(PROJECTORS):
        # of a checkpoint with code of its own, the table has what that of transformers has
        same = next(other for other in types if PROJECTORS[other].metadata is each.metadata)
        compared = [name for name in each.classes if name in proven[number]]
        others = [name for name in each.classes if name not in compared and name not in stand_ins]
        alike = [name for name in each.classes if name in stand_ins]
        proofs = (
            ("embeddings", compared),
            (", ".join(stand_ins[name] for name in alike), alike),
            ("the same file", others),
        )
        for proof, names in proofs:
            if names:
                yield _code(sorted(types[same])), _code(names), proof, "; ".join(cases[number]) or NOTHING


def _projectors_otherwise() -> Iterator[str]:
    for reason in dict.fromkeys(OTHERWISE.values()):
        names = _code(name for name, each in OTHERWISE.items() if each == reason)
        yield textwrap.fill(f"* {names}: {reason}.", 120, subsequent_indent="  ", break_on_hyphens=False)


def _float8() -> Iterator[str]:
    methods = {name: settings.get("quant_method") for name, (settings, *_) in test_float8.SOURCES.items()}
    for method in dict.fromkeys(methods.values()):
        scales = ", ".join(name.removeprefix("compressed ") for name in methods if methods[name] == method)
        named = f"as `{method}`" if method else "that config.json does not mention,"
        yield f"* FP8 {named} with scales by {scales}, which becomes the floats that it stands for;"


def _variant(case: str) -> str:
    """What a case of a test has besides the family it begins with."""
    return re.sub(r"^\w+,? ?", "", case)


def _parameters(test: Callable[..., Any], argument: str) -> Iterable[str]:
    """What ``test`` is parametrized with."""
    marks = getattr(test, "pytestmark")  # noqa: B009
    return next(mark.args[1] for mark in marks if mark.name == "parametrize" and mark.args[0] == argument)


def _names(architectures: Iterable[Architecture]) -> str:
    return _code(dict.fromkeys(name for each in architectures for name in each.classes))


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (heads, ("---",) * len(heads), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
