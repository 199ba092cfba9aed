"""The regions of model.py as tinygrad expressions over the same memory. Nothing runs here: pieces.py captures them.

Shapes as in model.py; n rows are n consecutive positions from `start`. Activations are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from tinygrad import Tensor, UOp, dtypes, function

from engine_hybrid.graphs import new_crew
from engine_hybrid.model import Layer, Llama, State
from engine_hybrid.quantize import HALF, Int8, Nf4
from engine_hybrid.sharing import shared, tinygrad_device

RUNS_TOGETHER = 16  # more only takes longer to compile
UNROLLED = 32  # the longest sum that tinygrad unrolls completely (codegen/opt/heuristic.py)


class Shared:
    """Views of a Llama, named as it names them; `layers[i]` has the names of Layer."""

    def __init__(self, llama: Llama, lanes: int) -> None:
        self.config, self.lanes, self.source = llama.config, lanes, llama
        self.device = tinygrad_device(llama.state.x)
        self.crew = new_crew(self.device)
        self.layers = [View(layer) for layer in llama.weights.layers]
        self.norm, self.lm_head = shared(llama.weights.norm), shared(llama.weights.lm_head)
        self.caches = [shared(cache) for cache in llama.caches]
        self.rotary = shared(llama.rotary)
        self.state = View(llama.state)


class View:
    """Every tensor of a dataclass of torch tensors, shared, under its own name; a quantised matrix is a view itself."""

    def __init__(self, source: Layer | State | Int8 | Nf4) -> None:
        self.made_of = type(source)
        for field in fields(source):
            held = getattr(source, field.name)
            setattr(self, field.name, View(held) if isinstance(held, Int8 | Nf4) else shared(held))

    def __getattr__(self, name: str) -> Tensor:
        raise AttributeError(name)


@dataclass(frozen=True)
class Flow:
    """What goes from region to region: lazily computed, or still where the state has it (`queries` None)."""

    x: Tensor
    queries: Tensor | None = None
    cache: Tensor | None = None


def qkv(views: Shared, i: int, flow: Flow, start: UOp) -> Flow:
    """RMSNorm, Q, K and V, RoPE: x [n, dim] → queries [n_heads, n, head_dim], cache with keys and values at start."""
    config, layer, lanes, n = views.config, views.layers[i], views.lanes, int(flow.x.shape[0])
    cos, sin = views.rotary[0, start : start + n], views.rotary[1, start : start + n]
    normed = rms_norm(flow.x, layer.input_layernorm, config.norm_eps)
    queries = rotated(heads(project(normed, layer.q_proj, lanes), config.n_heads), cos, sin)
    keys = rotated(heads(project(normed, layer.k_proj, lanes), config.n_kv_heads), cos, sin)
    values = heads(project(normed, layer.v_proj, lanes), config.n_kv_heads)
    return Flow(flow.x, queries, stored(views.caches[i], Tensor.stack(keys, values), start))


def attention(views: Shared, i: int, flow: Flow, start: UOp) -> Flow:
    """Softmax attention over positions 0 … start + n - 1, output projection, added to x."""
    config, n = views.config, int(flow.x.shape[0])
    queries = views.state.queries[:, None] if flow.queries is None else flow.queries
    cache = views.caches[i] if flow.cache is None else flow.cache
    end = start + n
    mask = Tensor.full((1, n, end), float("-inf"), device=cache.device, buffer=False).triu(start + 1) if n > 1 else None
    mixed = queries.float().scaled_dot_product_attention(
        cache[0, :, 0:end], cache[1, :, 0:end], attn_mask=mask, enable_gqa=True
    )
    mixed = mixed.transpose(0, 1).reshape(n, config.query_dim()).contiguous()
    return Flow((flow.x + project(mixed, views.layers[i].o_proj, views.lanes)).contiguous())


def mlp(views: Shared, i: int, flow: Flow, start: UOp) -> Flow:
    """RMSNorm and gated MLP, added to x."""
    layer, lanes = views.layers[i], views.lanes
    normed = rms_norm(flow.x, layer.post_attention_layernorm, views.config.norm_eps)
    gated = project(normed, layer.gate_proj, lanes).silu() * project(normed, layer.up_proj, lanes)
    return Flow((flow.x + project(gated.contiguous(), layer.down_proj, lanes)).contiguous())


def head(views: Shared, x: Tensor) -> tuple[Tensor, Tensor]:
    """x [1, dim] → logits float32 [1, vocab] and greedy token int32 [1]"""
    logits = project(rms_norm(x, views.norm, views.config.norm_eps), views.lm_head, views.lanes).contiguous()
    return logits, logits.argmax(-1).cast(dtypes.int32)


def block(views: Shared, i: int) -> Callable[[Tensor, UOp], Tensor]:
    """The three regions of a layer at once. `function` makes tinygrad schedule equal layers once."""

    @function(precompile=True, allow_implicit=True)
    def run(x: Tensor, start: UOp) -> Tensor:
        flow = Flow(x)
        for region in (qkv, attention, mlp):
            flow = region(views, i, flow, start)
        return flow.x

    return run


def stored(cache: Tensor, keys_values: Tensor, start: UOp) -> Tensor:
    """The cache after [2, n_kv_heads, n, head_dim] went in at `start`: as tinygrad.llm spells it for `function`."""
    target = cache[:, :, start : start + keys_values.shape[2]]
    return Tensor(cache.uop.after(target.uop.store(keys_values.cast(cache.dtype).uop)))


def heads(x: Tensor, n_heads: int) -> Tensor:
    """[n, n_heads * head_dim] → [n_heads, n, head_dim]"""
    return x.reshape(x.shape[0], n_heads, -1).transpose(0, 1)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on half-split pairs, [n_heads, n, head_dim]"""
    low, high = x.chunk(2, dim=-1)
    return Tensor.cat(low * cos - high * sin, high * cos + low * sin, dim=-1)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return (x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * gain).contiguous()


def project(x: Tensor, weight: Tensor | View, lanes: int) -> Tensor:
    """x · Wᵀ, [n, in] → [n, out], in kernels of its own: fused with a consumer the product would be repeated there."""
    if isinstance(weight, Tensor):
        return summed(x, weight, lanes).contiguous()
    if weight.made_of is Int8:
        return (summed(x, weight.values, lanes) * weight.scales).contiguous()
    return nf4_row(x, weight) if int(x.shape[0]) == 1 else summed(x, nf4_restored(weight), lanes).contiguous()


def summed(x: Tensor, weight: Tensor, lanes: int) -> Tensor:
    """One row and lanes > 0: the sum of a row is `lanes` sums of neighbours side by side, which clang turns into vector
    instructions; a float sum in one chain it may not reorder.
    """
    n_out, n_in = int(weight.shape[0]), int(weight.shape[1])
    if int(x.shape[0]) > 1 or not lanes or n_in % lanes:
        return x.linear(weight.T)
    steps = max(d for d in range(1, UNROLLED + 1) if n_in // lanes % d == 0)
    split = (n_in // (lanes * steps), steps, lanes)
    sums = (x.reshape(1, *split) * weight.reshape(n_out, *split)).sum(2).contiguous()
    return sums.sum((1, 2)).reshape(1, n_out)


def nf4_row(x: Tensor, weight: View) -> Tensor:
    """32 sums side by side, those of up to RUNS_TOGETHER runs of a row in one."""
    n_out, n_runs = (int(size) for size in weight.peaks.shape)
    together = max(d for d in range(1, RUNS_TOGETHER + 1) if n_runs % d == 0)
    low, high = nf4_halves(weight)
    x = x.reshape(1, n_runs, 2, HALF)
    products = (low * x[:, :, 0] + high * x[:, :, 1]) * weight.peaks.float().reshape(n_out, n_runs, 1)
    sums = products.reshape(n_out, n_runs // together, together, HALF).sum(2).contiguous()
    return sums.sum((1, 2)).reshape(1, n_out).contiguous()


def nf4_restored(weight: View) -> Tensor:
    """float16 [out, in], in memory: for several rows the levels would be looked up again for every few of them."""
    numbers = Tensor.cat(*nf4_halves(weight), dim=2) * weight.peaks.float().unsqueeze(2)
    return numbers.reshape(numbers.shape[0], -1).cast(dtypes.float16).contiguous()


def nf4_halves(weight: View) -> tuple[Tensor, Tensor]:
    """Levels of the low and of the high halves of the bytes, each [out, in/64, 32]"""
    low, high = weight.packed & 15, weight.packed >> 4
    return weight.levels[low.cast(dtypes.int32)], weight.levels[high.cast(dtypes.int32)]


REGIONS: dict[str, Callable[[Shared, int, Flow, UOp], Flow]] = {"qkv": qkv, "attention": attention, "mlp": mlp}
