"""Tensor lists (GGUF names, shapes with rows first) of known models, built from their hyper-parameters."""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def dense(
    *,
    n_embd: int,
    n_ff: int,
    n_vocab: int,
    n_layer: int,
    n_head: int,
    n_head_kv: int,
    head_dim: int,
    tied: bool = False,
) -> Shapes:
    """Llama, Qwen3, Gemma: attention and gated feed-forward matrices, and the norms that all of them share."""
    shapes = embeddings(n_embd, n_vocab, tied=tied)
    for layer in range(n_layer):
        shapes |= attention(layer, n_embd, n_head, n_head_kv, head_dim) | feed_forward(layer, n_embd, n_ff)
    return shapes


def embeddings(n_embd: int, n_vocab: int, *, tied: bool = False) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (n_vocab, n_embd), "output_norm.weight": (n_embd,)}
    return shapes if tied else shapes | {"output.weight": (n_vocab, n_embd)}


def attention(layer: int, n_embd: int, n_head: int, n_head_kv: int, head_dim: int) -> Shapes:
    return {
        f"blk.{layer}.attn_norm.weight": (n_embd,),
        f"blk.{layer}.attn_q.weight": (n_head * head_dim, n_embd),
        f"blk.{layer}.attn_k.weight": (n_head_kv * head_dim, n_embd),
        f"blk.{layer}.attn_v.weight": (n_head_kv * head_dim, n_embd),
        f"blk.{layer}.attn_output.weight": (n_embd, n_head * head_dim),
    }


def feed_forward(layer: int, n_embd: int, n_ff: int, suffix: str = "") -> Shapes:
    return {
        f"blk.{layer}.ffn_norm.weight": (n_embd,),
        f"blk.{layer}.ffn_gate{suffix}.weight": (n_ff, n_embd),
        f"blk.{layer}.ffn_up{suffix}.weight": (n_ff, n_embd),
        f"blk.{layer}.ffn_down{suffix}.weight": (n_embd, n_ff),
    }


def experts(layer: int, n_embd: int, n_ff: int, n_expert: int) -> Shapes:
    return {
        f"blk.{layer}.ffn_gate_inp.weight": (n_expert, n_embd),
        f"blk.{layer}.exp_probs_b.bias": (n_expert,),
        f"blk.{layer}.ffn_gate_exps.weight": (n_expert, n_ff, n_embd),
        f"blk.{layer}.ffn_up_exps.weight": (n_expert, n_ff, n_embd),
        f"blk.{layer}.ffn_down_exps.weight": (n_expert, n_embd, n_ff),
    }


def deepseek_v3() -> Shapes:
    """Multi-head latent attention; three dense blocks, then 256 experts and a shared one."""
    n_embd, n_head, q_rank, kv_rank, nope, rope, v_dim = 7168, 128, 1536, 512, 128, 64, 128
    shapes = embeddings(n_embd, 129280)
    for layer in range(61):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (n_embd,),
            f"blk.{layer}.attn_q_a.weight": (q_rank, n_embd),
            f"blk.{layer}.attn_q_a_norm.weight": (q_rank,),
            f"blk.{layer}.attn_q_b.weight": (n_head * (nope + rope), q_rank),
            f"blk.{layer}.attn_kv_a_mqa.weight": (kv_rank + rope, n_embd),
            f"blk.{layer}.attn_kv_a_norm.weight": (kv_rank,),
            f"blk.{layer}.attn_k_b.weight": (n_head, kv_rank, nope),
            f"blk.{layer}.attn_v_b.weight": (n_head, v_dim, kv_rank),
            f"blk.{layer}.attn_output.weight": (n_embd, n_head * v_dim),
        }
        if layer < 3:
            shapes |= feed_forward(layer, n_embd, 18432)
        else:
            shapes |= experts(layer, n_embd, 2048, 256) | feed_forward(layer, n_embd, 2048, "_shexp")
    return shapes


def glm4_moe() -> Shapes:
    """One dense block, then 128 experts and a shared one of 1408, which no 256-wide block divides."""
    n_embd = 4096
    shapes = embeddings(n_embd, 151552)
    for layer in range(46):
        shapes |= attention(layer, n_embd, 96, 8, 128)
        if layer < 1:
            shapes |= feed_forward(layer, n_embd, 10944)
        else:
            shapes |= experts(layer, n_embd, 1408, 128) | feed_forward(layer, n_embd, 1408, "_shexp")
    return shapes
