"""A LLaMA-3 decoder in PyTorch for one sequence, with a key/value cache of fixed size.

Rows are positions: `prefill` takes n of them from an empty cache, `decode` one more. The residual stream, norms, RoPE
and softmax are float32 in every precision; weights, matrix products and cache have the dtype of the weights.
Left out: files (weights.py), sampling loops and compilation (decoding.py), batches.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from enginebench_models.config import LlamaConfig
from torch import Tensor, nn

from engine_torch.shard import ONE, Shard

Matrix = Callable[[int, int], nn.Parameter | nn.Module]
"""Makes a matrix of a block, [out, in]: `weight`, or one of quantize.py, which multiplies itself."""


class Llama(nn.Module):
    """Parameters are created without values (device "meta"); weights.py fills them in.

    Of several ranks each holds its part of every block and of the vocabulary; the residual stream is whole on all.
    """

    def __init__(self, config: LlamaConfig, inverse_frequencies: Tensor, matrix: Matrix, shard: Shard = ONE) -> None:
        super().__init__()
        self.config = config
        self.shard = shard
        self.register_buffer("inverse_frequencies", inverse_frequencies)  # [head_dim/2], RoPE scaling applied
        rows = shard.count(config.vocab_size)
        self.embed_tokens = weight(rows, config.dim)
        self.layers = nn.ModuleList(Block(shard.block(config), matrix, shard) for _ in range(config.n_layers))
        self.norm = weight(config.dim)
        self.lm_head = self.embed_tokens if config.tied_embeddings else weight(rows, config.dim)

    def prefill(self, tokens: Tensor) -> Tensor:
        """tokens int64 [n], positions 0 to n-1 -> logits after the last of them, float32 [vocab]."""
        window = torch.arange(len(tokens), device=tokens.device)
        return self.forward(tokens, window, window, None)

    def decode(self, token: Tensor, position: Tensor, window: Tensor, visible: Tensor | None) -> Tensor:
        """token, position int64 [1]; attends to the cache at `window`, int64 0, 1, … -> logits, float32 [vocab].

        The window ends at `position`, or it is the whole cache and `visible` (bool, like window) says what is filled:
        the first reads no more than it must, the second has the same shapes at every position.
        """
        return self.forward(token, position, window, visible)

    def forward(self, tokens: Tensor, positions: Tensor, window: Tensor, visible: Tensor | None) -> Tensor:
        angles = positions.float()[:, None] * self.inverse_frequencies  # [n, head_dim/2]
        rotation = torch.cos(angles), torch.sin(angles)
        x = self.shard.embedded(tokens, self.embed_tokens, self.config.vocab_size)  # [n, dim]
        for layer in self.layers:
            x = layer(x, positions, rotation, window, visible)
        last = normalised(x[-1:], self.norm, self.config.norm_eps)
        return self.shard.joined(project(last, self.lm_head)[0].float(), self.config.vocab_size)

    def allocate_cache(self, n_ctx: int) -> None:
        """Room for `n_ctx` positions, in the dtype and on the device of the table."""
        for layer in self.layers:
            layer.self_attn.allocate_cache(n_ctx, self.embed_tokens)


class Block(nn.Module):
    """`config` and all below it: the part of one rank."""

    def __init__(self, config: LlamaConfig, matrix: Matrix, shard: Shard) -> None:
        super().__init__()
        self.shard = shard
        self.norm_eps = config.norm_eps
        self.input_layernorm = weight(config.dim)
        self.self_attn = Attention(config, matrix)
        self.post_attention_layernorm = weight(config.dim)
        self.mlp = FeedForward(config, matrix)

    def forward(
        self, x: Tensor, positions: Tensor, rotation: tuple[Tensor, Tensor], window: Tensor, visible: Tensor | None
    ) -> Tensor:
        inner = normalised(x, self.input_layernorm, self.norm_eps)
        x = x + self.shard.total(self.self_attn(inner, positions, rotation, window, visible))
        return x + self.shard.total(self.mlp(normalised(x, self.post_attention_layernorm, self.norm_eps)))


class Attention(nn.Module):
    """Grouped-query attention: every key/value head serves a run of query heads."""

    keys: Tensor  # [n_kv_heads, n_ctx, head_dim], rotated
    values: Tensor  # [n_kv_heads, n_ctx, head_dim]

    def __init__(self, config: LlamaConfig, matrix: Matrix) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.q_proj = matrix(config.query_dim(), config.dim)
        self.k_proj = matrix(config.kv_dim(), config.dim)
        self.v_proj = matrix(config.kv_dim(), config.dim)
        self.o_proj = matrix(config.dim, config.query_dim())

    def allocate_cache(self, n_ctx: int, like: Tensor) -> None:
        shape = (self.n_kv_heads, n_ctx, self.head_dim)
        for name in ("keys", "values"):
            self.register_buffer(name, like.new_zeros(shape), persistent=False)

    def forward(
        self, x: Tensor, positions: Tensor, rotation: tuple[Tensor, Tensor], window: Tensor, visible: Tensor | None
    ) -> Tensor:
        queries = rotated(self.heads(project(x, self.q_proj)).float(), rotation)  # [n_heads, n, head_dim]
        keys = rotated(self.heads(project(x, self.k_proj)).float(), rotation)  # [n_kv_heads, n, head_dim]
        values = self.heads(project(x, self.v_proj))
        self.keys.index_copy_(1, positions, keys.to(self.keys.dtype))
        self.values.index_copy_(1, positions, values.to(self.values.dtype))
        filled = window.shape[0]
        mixed = attended(queries, self.keys[:, :filled], self.values[:, :filled], visible)
        return project(mixed.transpose(0, 1).reshape(x.shape[0], -1), self.o_proj)

    def heads(self, x: Tensor) -> Tensor:
        """[n, heads * head_dim] -> [heads, n, head_dim]"""
        return x.view(x.shape[0], -1, self.head_dim).transpose(0, 1)


class FeedForward(nn.Module):
    def __init__(self, config: LlamaConfig, matrix: Matrix) -> None:
        super().__init__()
        self.gate_proj = matrix(config.hidden_dim, config.dim)
        self.up_proj = matrix(config.hidden_dim, config.dim)
        self.down_proj = matrix(config.dim, config.hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        return project(F.silu(project(x, self.gate_proj)) * project(x, self.up_proj), self.down_proj)


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)


def normalised(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """RMSNorm, float32 [n, dim]"""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain


def rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE on half-split pairs (j, j + head_dim/2). x [heads, n, head_dim], rotation cos and sin [n, head_dim/2]"""
    (cos, sin), (first, second) = rotation, x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def project(x: Tensor, weight: Tensor | nn.Module) -> Tensor:
    """x · Wᵀ. [n, in] -> [n, out], in the dtype of the weights or, where that costs nothing, in float32

    One row under the compiler is written as a product and a sum: inductor makes one loop of it that reads each weight
    once, widens it in registers and accumulates in float32, fused with what stands around it. Not so for 16 bits on a
    processor, where the library's product of one row reads the weights as fast or faster.
    """
    if isinstance(weight, nn.Module):
        return weight(x)
    widens = weight.device.type == "cpu" and weight.dtype != torch.float32
    if x.shape[0] == 1 and torch.compiler.is_compiling() and not widens:
        return reduced(x[0], weight)[None]
    if x.shape[0] > 1 and widens:
        return widened(x.float(), weight)
    return F.linear(x.to(weight.dtype), weight)


WIDENED_ELEMENTS = 1 << 21  # 8 MiB of float32: stays in the cache, and in the allocator's pool


def widened(x: Tensor, weight: Tensor) -> Tensor:
    """Several rows on a processor, where float16 products are emulated: float32 over a block of rows at a time.

    oneDNN's own operator, as F.linear takes MKL for float32, which is slow on other makers' processors.
    """
    result, step = x.new_empty(x.shape[0], weight.shape[0]), max(1, WIDENED_ELEMENTS // weight.shape[1])
    for block, out in zip(weight.split(step), result.split(step, dim=1), strict=True):
        out.copy_(torch.ops.mkldnn._linear_pointwise(x, block.float(), None, "none", [], ""))
    return result


LONGEST_SUM = 4096  # above it inductor's C++ sum turns to cascade summation, at half the speed (codegen/cpp.py)


def reduced(x: Tensor, weight: Tensor) -> Tensor:
    """W · x as sums over runs of at most LONGEST_SUM. [in] -> float32 [out]"""
    n_in = x.shape[0]
    n_runs = next(n for n in range(1, n_in + 1) if n_in % n == 0 and n_in // n <= LONGEST_SUM)
    products = weight.view(-1, n_runs, n_in // n_runs).float() * x.float().view(n_runs, -1)
    return products.sum(-1).sum(-1)


def attended(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    """Softmax attention. queries float32 [n_heads, n, head_dim], keys and values [n_kv_heads, length, head_dim]

    Several queries are the whole sequence so far: causal. A single one sees all that is visible; its heads then stand
    as rows of their key/value head, so that nothing is repeated.
    """
    if queries.shape[1] > 1:
        return sdpa(queries.to(keys.dtype), keys, values, is_causal=True, enable_gqa=True)
    grouped = queries.view(keys.shape[0], -1, keys.shape[2])  # [n_kv_heads, heads per key/value head, head_dim]
    attend = attended_fused if torch.compiler.is_compiling() else sdpa
    mixed = attend(grouped.to(keys.dtype), keys, values, visible)
    return mixed.view(queries.shape)


def sdpa(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None = None, **options: bool) -> Tensor:
    return F.scaled_dot_product_attention(queries[None], keys[None], values[None], visible, **options)[0]


def attended_fused(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    """Products and sums again, for the reason given in project(). Shapes as `grouped` above."""
    scores = (queries[:, :, None].float() * keys[:, None].float()).sum(-1) * keys.shape[-1] ** -0.5
    if visible is not None:
        scores = scores.where(visible, float("-inf"))
    shares = scores.softmax(-1)  # [n_kv_heads, heads per key/value head, length]
    return (shares[..., None] * values[:, None].float()).sum(2)
