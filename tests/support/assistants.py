"""Tiny assistants of Gemma 4 as published ones are, and what they draft: in llama.cpp, and by transformers' code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from hubquant.llamacpp import binding
from tests.support.conversion import edit_weights
from tests.support.drafters import DraftingBeside, randomize


@contextmanager
def _all_layers_shared() -> Iterator[None]:
    """transformers 5.23 makes no layers that all use the keys and values of others, which an assistant's are."""
    from transformers import Gemma4TextConfig

    theirs: Any = Gemma4TextConfig.kv_sharing_modes

    def modes(config: Any) -> list[str | None]:
        n_layer = config.num_hidden_layers
        return ["reuse"] * n_layer if config.num_kv_shared_layers == n_layer else theirs.fget(config)

    with patch.object(Gemma4TextConfig, "kv_sharing_modes", property(modes)):
        yield


def build_assistant(folder: Path, target: Path, *, ordered: bool = False) -> Path:
    """For the Gemma 4 in ``target``: half as wide, two layers with a window and one without."""
    from transformers import AutoConfig, AutoTokenizer, Gemma4AssistantForCausalLM

    model: Any = Gemma4AssistantForCausalLM
    of_target = json.loads((target / "config.json").read_text())
    own = {
        "model_type": "gemma4_text",
        "hidden_size": of_target["hidden_size"] // 2,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "global_head_dim": 64,
        **{name: of_target[name] for name in ("vocab_size", "head_dim", "num_attention_heads", "num_key_value_heads")},
        **{name: of_target[name] for name in ("sliding_window", "max_position_embeddings")},
    }
    made = AutoConfig.for_model(
        "gemma4_assistant",
        text_config=own,
        backbone_hidden_size=of_target["hidden_size"],
        use_ordered_embeddings=ordered,
        num_centroids=4,
    )
    with _all_layers_shared():
        model._from_config(made).save_pretrained(folder)
    AutoTokenizer.from_pretrained(target).save_pretrained(folder)
    return edit_weights(folder, randomize)


def assistant_by_transformers(
    folder: Path, target: Path, ids: Sequence[int], next: int, n: int, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's state [n_embd] behind ``ids``, and logits [n, n_vocab] of ``n`` tokens drafted after the token
    ``next``, by an assistant with this ``window``."""
    from transformers import AutoModelForCausalLM, DynamicCache

    model: Any = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    with _all_layers_shared():
        assistant: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assistant.config.text_config.sliding_window = window
    cache: Any = DynamicCache()
    with torch.no_grad():
        state = model(torch.tensor([ids]), past_key_values=cache, output_hidden_states=True).hidden_states[-1][0, -1]
    kept = {kind: cache.layers[i] for kind, i in (("sliding_attention", -2), ("full_attention", -1))}
    shared = {kind: (layer.keys, layer.values) for kind, layer in kept.items()}
    token, hidden, rows = torch.tensor([[next]]), state[None, None], []
    for _ in range(n):
        both = torch.cat([model.get_input_embeddings()(token), hidden], -1)
        with torch.no_grad():
            drafted = assistant(
                inputs_embeds=both, position_ids=torch.tensor([[len(ids)]]), shared_kv_states=dict(shared)
            )
        token, hidden = drafted.logits.argmax(-1), drafted.last_hidden_state
        rows.append(drafted.logits[0, 0])
    return state, torch.stack(rows)


class Assisting(DraftingBeside):
    """The file of a Gemma 4's assistant, which computes from the keys and values of that, too."""

    def _context_params(self) -> binding.ContextParams:
        params = super()._context_params()
        params.ctx_type = 1  # LLAMA_CONTEXT_TYPE_MTP
        return params

    def drafts_after(self, ids: Sequence[int], next: int, state: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        """Logits [n, n_vocab] of ``n`` tokens drafted one by one, from the target's keys and values of ``ids``, the
        token ``next`` and the target's state [width] before it: all at the position behind ``ids``."""
        assert self._other is not None
        lib, rows = self._lib, []
        self._other.logits(ids)
        lib._Z26llama_set_embeddings_nextnP13llama_contextbb(self._context, True, True)
        for _ in range(n):
            state = np.ascontiguousarray(state, np.float32)
            with self._batch([next], len(ids), all_logits=True) as batch:
                batch.embd = state.ctypes.data
                status = lib.llama_decode(self._context, batch)
                batch.embd = None  # it is not llama.cpp's to free
            if status:
                raise RuntimeError(f"llama_decode returned {status}")
            rows.append(np.ctypeslib.as_array(lib.llama_get_logits_ith(self._context, 0), (self.n_vocab,)).copy())
            found = lib._Z26llama_get_embeddings_nextnP13llama_context(self._context)
            state, next = np.ctypeslib.as_array(found, (len(state),)).copy(), int(rows[-1].argmax())
        return np.stack(rows)
