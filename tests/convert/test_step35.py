"""Step-3.5, which transformers has as the text model of Step-3.7 alone: its layers stand for the model."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING
from transformers.models.step3p7.modeling_step3p7 import Step3p7TextModel

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.architectures import CLASSES, WITHOUT_CODE
from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata
from hubquant.convert.plain import checkpoint_ahead
from hubquant.convert.restore import read_state_dict
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file import GGUFFile
from hubquant.models.identify import identify
from hubquant.models.tiny import llama3_tokenizer
from tests.convert.test_llama_cpp import IDS, LLAMA3, relative_error
from tests.support.ahead import Drafting
from tests.support.conversion import Weights, edit_weights, plan, uneven, write_gguf
from tests.support.llamacpp import LlamaCpp

FULL, SLIDING = "full_attention", "sliding_attention"
CONFIG: dict[str, Any] = {  # as published ones have it, with one layer behind the last
    "architectures": ["Step3p5ForCausalLM"],
    "model_type": "step3p5",
    "auto_map": {"AutoModelForCausalLM": "modeling_step3p5.Step3p5ForCausalLM"},
    "attention_other_setting": {"attention_type": SLIDING, "num_attention_heads": 6, "num_attention_groups": 2},
    "head_dim": 64,
    "hidden_size": 256,
    "intermediate_size": 512,
    "layer_types": [FULL, SLIDING, SLIDING, FULL, SLIDING],
    "max_position_embeddings": 512,
    "moe_intermediate_size": 64,
    "moe_layers_enum": "2,3",
    "moe_num_experts": 8,
    "moe_router_activation": "sigmoid",
    "moe_router_scaling_factor": 2.5,
    "moe_top_k": 2,
    "need_fp32_gate": True,
    "norm_expert_weight": True,
    "num_attention_groups": 2,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5, 1.0],
    "rope_scaling": {name: value for name, value in LLAMA3.items() if name != "rope_theta"},
    "rope_theta": [5e5, 1e4, 1e4, 5e5, 1e4],
    "share_expert_dim": 96,
    "sliding_window": 32,
    "swiglu_limits": [0.0, 0.0, 0.0, 0.2, 0.0],
    "swiglu_limits_shared": [0.0, 0.0, 0.0, 0.3, 0.0],
    "tie_word_embeddings": False,
    "use_head_wise_attn_gate": True,
    "use_moe_router_bias": True,
    "use_qk_norm": True,
    "vocab_size": 384,
    "yarn_only_types": [FULL],
    "zero_centered": True,
}
NAMES = {
    "mlp.experts.down_proj": "moe.down_proj.weight",
    "mlp.shared_experts": "share_expert",
    "mlp.gate.e_score_correction_bias": "moe.router_bias",
    "mlp.gate.weight": "moe.gate.weight",
}


@dataclass(frozen=True)
class Step:
    """A model in a folder, and its layers in transformers, the one behind the last among them."""

    folder: Path
    weights: Weights
    layers: Any

    def states(self, x: torch.Tensor, first: int, end: int) -> torch.Tensor:
        """Before the last norm, of embeddings ``x`` [n, n_embd] that pass the layers from ``first`` to ``end``."""
        model: Any = Step3p7TextModel(deepcopy(self.layers.config))
        model.load_state_dict(self.layers.state_dict())
        model.layers, model.norm = model.layers[first:end], torch.nn.Identity()
        model.config.layer_types = model.config.layer_types[first:end]
        with torch.no_grad():
            found: torch.Tensor = model(inputs_embeds=x[None], use_cache=False).last_hidden_state[0]
        return found

    def normed(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * (1 + self.weights[f"{name}.weight"])

    def logits(self, x: torch.Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (x @ self.weights["lm_head.weight"].T).numpy()
        return found


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Step:
    folder = tmp_path_factory.mktemp("step")
    llama3_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    known = {name: value for name, value in CONFIG.items() if name not in ("architectures", "model_type", "auto_map")}
    config: Any = CONFIG_MAPPING["step3p5"](**known | {"num_hidden_layers": 5, "num_nextn_predict_layers": 0})
    model = Step3p7TextModel(config)
    generator = torch.Generator().manual_seed(0)
    made = {name: 0.2 * torch.randn(x.shape, generator=generator) for name, x in model.state_dict().items()}
    uneven(made)
    model.load_state_dict(made)
    ahead = "model.layers.4."
    for name, shape in {"eh_proj": (256, 512), "enorm": (256,), "hnorm": (256,)}.items():
        made[f"{ahead}{name}.weight".removeprefix("model.")] = 0.2 * torch.randn(shape, generator=generator)
    for name, shape in {"norm": (256,), "output": (384, 256)}.items():
        part = f"{ahead}transformer.shared_head.{name}.weight".removeprefix("model.")
        made[part] = 0.2 * torch.randn(shape, generator=generator)
    weights = {"lm_head.weight": 0.2 * torch.randn(384, 256, generator=generator)}
    for name, x in made.items():
        new = f"model.{name}"
        for old, other in NAMES.items():
            new = new.replace(old, other)
        if "gate_up_proj" in new:
            gate, up = x.chunk(2, 1)
            prefix = new.replace("mlp.experts.gate_up_proj", "moe")
            weights |= {f"{prefix}.gate_proj.weight": gate.clone(), f"{prefix}.up_proj.weight": up.clone()}
        else:
            weights[new] = x
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return Step(folder, weights, model)


def test_llama_cpp_computes_what_transformers_layers_do(step: Step, tmp_path: Path) -> None:
    file, embedding = tmp_path / "model.gguf", step.weights["model.embed_tokens.weight"]
    conversion = write_gguf(step.folder, file, "F32")
    assert conversion.notes == ()
    assert "transformers lacks its code" in str(conversion.cannot_run)
    assert conversion.hparams["n_layer_nextn"] == 1
    expected = step.logits(step.normed(step.states(embedding[IDS], 0, 4), "model.norm"))
    with LlamaCpp(file) as llama:
        found = llama.logits(IDS)
    assert relative_error(found, expected) <= 1e-4
    assert np.array_equal(found.argmax(-1), expected.argmax(-1))

    ids, states = IDS[:16], torch.randn((16, 256), generator=torch.Generator().manual_seed(3))
    prefix = "model.layers.4."
    both = [step.normed(embedding[ids], f"{prefix}enorm"), step.normed(states, f"{prefix}hnorm")]
    x = step.states(torch.cat(both, -1) @ step.weights[f"{prefix}eh_proj.weight"].T, 4, 5)
    head = f"{prefix}transformer.shared_head"
    expected = (step.normed(x, f"{head}.norm") @ step.weights[f"{head}.output.weight"].T).numpy()
    with Drafting(file) as drafting:
        assert relative_error(drafting.drafts(ids, states.numpy()), expected) <= 1e-4


@pytest.mark.slow
def test_what_reads_in_step_3_7_is_the_same(step: Step, tmp_path: Path) -> None:
    for file in step.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edit_weights(tmp_path, lambda weights: weights.update({"vision_model.conv1.weight": torch.zeros(4, 3, 2, 2)}))
    text = {name: value for name, value in CONFIG.items() if name not in ("architectures", "auto_map")}
    whole = {"architectures": ["Step3p7ForConditionalGeneration"], "model_type": "step3p7", "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(whole | {"text_config": text}))
    assert identify(tmp_path, CLASSES, WITHOUT_CODE).model_class == "Step3p7ForConditionalGeneration"
    found, expected = plan(tmp_path), plan(step.folder)
    assert (found.metadata, found.bundles) == (expected.metadata, expected.bundles)
    assert found.notes == ("only the language model is converted, not the 1 tensors for images or sound",)


@pytest.mark.slow
def test_the_tensors_are_read_back(step: Step, tmp_path: Path) -> None:
    write_gguf(step.folder, tmp_path / "model.gguf", "F32")
    found = dict(read_state_dict(GGUFFile.open(tmp_path / "model.gguf")))
    checkpoint = checkpoint_ahead(Checkpoint.from_folder(step.folder))
    assert found.keys() == checkpoint.tensors.keys()
    for name, x in found.items():
        bound = 2**-22 if name.endswith("norm.weight") else 0
        torch.testing.assert_close(x, checkpoint.read(name), rtol=0, atol=bound, msg=name)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("zero_centered", False),
        ("sink", True),
        ("query_pre_attn_scalar", 32),
        ("attention_other_setting", {"num_attention_groups": 4}),
        ("swiglu_limits", [1.0]),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(setting: str, value: object) -> None:
    with pytest.raises((NotSupportedYet, CheckpointError), match=setting):
        architecture_metadata(*read_architecture(CONFIG | {setting: value}))
