"""Hugging Face models as the outside authority: made at random, exported, converted, run.

The conversion to GGUF follows llama.cpp's convert_hf_to_gguf.py (LlamaModel) and shares no code with the models
package, so that a mistake there does not cancel out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.hugging_face import hugging_face_config
from gguf import GGUFWriter
from transformers import LlamaConfig, LlamaForCausalLM

GGUF_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GGUF_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

# original_max_position_embeddings is far below a real model's: within 128 positions the scaling then changes a lot.
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Shape:
    """What the synthetic models do not vary."""

    kv_heads: int
    head_dim: int
    tied: bool
    scaled: bool
    vocab: int


ODD_SHAPES = {
    "one KV head, wide heads, untied, scaled": Shape(1, 40, tied=False, scaled=True, vocab=523),
    "one KV head, narrow heads, tied": Shape(1, 8, tied=True, scaled=False, vocab=1001),
    "grouped heads, untied": Shape(2, 16, tied=False, scaled=False, vocab=777),
    "as many KV heads as heads, tied, scaled": Shape(4, 16, tied=True, scaled=True, vocab=515),
}


def random_model(shape: Shape) -> LlamaForCausalLM:
    """Weights of such a size that attention is peaked and logits spread over several nats."""
    rope: dict[str, Any] = {"rope_theta": 10000.0, "rope_type": "default"}
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=shape.tied,
        rope_parameters=rope | (SCALING if shape.scaled else {}),
    )
    torch.manual_seed(11)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.6, 1.4)
            else:
                parameter.normal_(0.0, 1.3 / parameter.shape[1] ** 0.5)
    return model


def write_gguf(model: LlamaForCausalLM, path: Path, permute_k: bool = True) -> Path:
    """float32 GGUF. `permute_k=False` is the classic conversion mistake, for a negative control."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_divisors(model))
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads if permute_k else 0}
        writer.add_tensor(gguf_name(name), permuted(values.numpy(), heads.get(name.split(".")[-2], 0)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rope_divisors(model: LlamaForCausalLM) -> np.ndarray:
    """What transformers made of the frequencies, as divisors of the plain ones."""
    dim, theta = model.config.head_dim, model.config.rope_parameters["rope_theta"]
    plain = 1.0 / theta ** (np.arange(0, dim, 2) / dim)
    return (plain / model.model.rotary_emb.inv_freq.double().numpy()).astype(np.float32)


def gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in GGUF_NAMES:
        return f"{GGUF_NAMES[stem]}.weight"
    _, _, layer, kind = stem.split(".", 3)
    return f"blk.{layer}.{GGUF_LAYER_NAMES[kind]}.weight"


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    if not heads:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def load(checkpoint: Checkpoint, dtype: torch.dtype) -> LlamaForCausalLM:
    """transformers' model with a checkpoint's weights, cast to `dtype`, without a second full copy."""
    facts = hugging_face_config(checkpoint.config)
    config = LlamaConfig(**{key: value for key, value in facts.items() if not key.endswith("_token_id")})
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    state = {full_name(name): as_torch(checkpoint, name).to(dtype) for name in checkpoint.names()}
    if checkpoint.config.tied_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def full_name(name: str) -> str:
    return f"{name}.weight" if name == "lm_head" else f"model.{name}.weight"


def as_torch(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    tensor = checkpoint.tensor(name)
    return torch.from_numpy(np.array(tensor.data) if tensor.dtype in ("f16", "f32") else tensor.float32())


@torch.no_grad()
def score(model: LlamaForCausalLM, ids: Sequence[int], n_prefill: int) -> np.ndarray:
    """Prefill, then cached decode one by one: float32 [len(ids) - n_prefill + 1, vocab]."""
    tokens = torch.tensor([list(ids)])
    out = model(tokens[:, :n_prefill], use_cache=True, logits_to_keep=1)
    rows = [out.logits[0]]
    for position in range(n_prefill, len(ids)):
        out = model(tokens[:, position : position + 1], past_key_values=out.past_key_values, use_cache=True)
        rows.append(out.logits[0])
    return torch.cat(rows).float().numpy()
