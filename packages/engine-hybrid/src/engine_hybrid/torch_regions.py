"""The regions of model.py as torch code, eager. Positions are ints; everything else is read from and left in Llama.

Norms, RoPE, softmax and residual stream are float32, matrix products have the dtype of the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

from engine_hybrid.model import Llama
from engine_hybrid.quantize import Matrix, blocks, linear


def qkv(llama: Llama, i: int, position: int) -> None:
    """RMSNorm, Q, K and V of one position, RoPE: x → queries, and keys and values into the cache."""
    config, layer, state, cache = llama.config, llama.weights.layers[i], llama.state, llama.caches[i]
    normed = normalised(state.x, layer.input_layernorm, config.norm_eps).to(layer.q_proj.dtype)
    rotation = llama.rotary[:, position]
    queries = linear(normed, layer.q_proj).view(config.n_heads, config.head_dim)
    keys = linear(normed, layer.k_proj).view(config.n_kv_heads, config.head_dim)
    rotate_into(state.queries, queries, rotation)
    rotate_into(cache[0, :, position], keys, rotation)
    cache[1, :, position].copy_(linear(normed, layer.v_proj).view(keys.shape))


def attention(llama: Llama, i: int, position: int) -> None:
    """Softmax attention of `queries` over positions 0 … position, output projection: added to x."""
    config, state, cache = llama.config, llama.state, llama.caches[i]
    seen = cache[:, None, :, : position + 1]
    # The query heads of one key/value head stand as its rows, so that nothing is repeated.
    grouped = state.queries.view(1, config.n_kv_heads, -1, config.head_dim)
    mixed = F.scaled_dot_product_attention(grouped, seen[0], seen[1])
    state.x.add_(linear(mixed.reshape(1, -1), llama.weights.layers[i].o_proj))


def mlp(llama: Llama, i: int, position: int) -> None:
    """RMSNorm and gated MLP, added to x."""
    layer, x = llama.weights.layers[i], llama.state.x
    normed = normalised(x, layer.post_attention_layernorm, llama.config.norm_eps).to(layer.gate_proj.dtype)
    gated = F.silu(linear(normed, layer.gate_proj), inplace=True).mul_(linear(normed, layer.up_proj))
    x.add_(linear(gated, layer.down_proj))


def head(llama: Llama) -> None:
    """Final RMSNorm, output projection and greedy choice: x → logits, token."""
    state, weights = llama.state, llama.weights
    normed = normalised(state.x, weights.norm, llama.config.norm_eps).to(weights.lm_head.dtype)
    logits = F.linear(normed, weights.lm_head)
    state.logits.copy_(logits)
    state.token.copy_(logits.argmax(-1))


def prefill(llama: Llama, tokens: Tensor) -> Tensor:
    """All blocks over a whole prompt, int64 [n], from an empty cache. Returns the residual stream [n, dim] float32."""
    config, n = llama.config, len(tokens)
    x = llama.weights.embed_tokens[tokens].float()
    rotation = llama.rotary[:, None, :n]  # [2, 1, n, head_dim/2]
    for layer, cache in zip(llama.weights.layers, llama.caches, strict=True):
        normed = normalised(x, layer.input_layernorm, config.norm_eps)
        queries = torch.empty(config.n_heads, n, config.head_dim, dtype=cache.dtype, device=cache.device)
        rotate_into(queries, heads(project(normed, layer.q_proj), config.n_heads), rotation)
        rotate_into(cache[0, :, :n], heads(project(normed, layer.k_proj), config.n_kv_heads), rotation)
        cache[1, :, :n].copy_(heads(project(normed, layer.v_proj), config.n_kv_heads))
        seen = cache[:, None, :, :n]
        mixed = F.scaled_dot_product_attention(queries[None], seen[0], seen[1], is_causal=True, enable_gqa=True)
        x += project(mixed[0].transpose(0, 1).reshape(n, -1), layer.o_proj)
        normed = normalised(x, layer.post_attention_layernorm, config.norm_eps)
        x += project(F.silu(project(normed, layer.gate_proj)) * project(normed, layer.up_proj), layer.down_proj)
    return x


def normalised(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """RMSNorm of float32 [n, dim]"""
    return F.rms_norm(x, gain.shape, gain, eps)


def heads(x: Tensor, n_heads: int) -> Tensor:
    """[n, n_heads * head_dim] → [n_heads, n, head_dim]"""
    return x.view(x.shape[0], n_heads, -1).transpose(0, 1)


def rotate_into(target: Tensor, x: Tensor, rotation: Tensor) -> None:
    """RoPE on half-split pairs (j, j + head_dim/2): x [..., head_dim] → target, in its dtype."""
    (cos, sin), (first, second) = rotation, x.float().chunk(2, dim=-1)
    low, high = target.chunk(2, dim=-1)
    low.copy_((first * cos).addcmul_(second, sin, value=-1))
    high.copy_((second * cos).addcmul_(first, sin))


def project(x: Tensor, weight: Matrix) -> Tensor:
    """x · Wᵀ of many rows, [n, in] → [n, out].

    On a processor 16-bit products of many rows are emulated, so blocks of the weights are widened to float32 and go
    through oneDNN's operator (F.linear takes MKL for float32, which is slow on other makers' processors).
    """
    if x.is_cuda:
        return F.linear(x.to(weight.dtype), weight) if isinstance(weight, Tensor) else linear(x, weight)
    x = x.float()
    products = (torch.ops.mkldnn._linear_pointwise(x, block, None, "none", [], "") for block in blocks(weight))
    return torch.cat(list(products), dim=1)
