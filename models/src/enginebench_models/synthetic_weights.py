"""The values of a synthetic model: which distribution each weight is drawn from, and why.

Values are table look-ups on the raw bits of a Philox generator, so that the same seed gives the same bytes on every
machine and NumPy version. Each value is exact in float16 and in bfloat16: engines of either type then run the very same
weights, as they do with real LLaMA weights, which are bfloat16 by origin.

A model of plain random weights would make the fidelity gate blind: attention is uniform, so nothing that breaks it
shows, or chaotic, so 16-bit rounding shows as much as a fault. The constants below were calibrated on shapes of 4, 16
and 32 layers: bfloat16 throughout stays under half of the 16-bit bound, the faults that the gates must see lie above
ten times that bound. The tests measure both: models/tests/test_negative_controls.py and tests/fidelity.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from enginebench_models.config import LlamaConfig
from enginebench_models.layout import expected_shapes
from enginebench_models.rope import base_frequencies, inverse_frequencies

Bits = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# Raised whenever any byte of a synthetic model changes: it is part of file names, so old files are not reused.
RECIPE = 3

# Spread of the logits. KL divergence grows with its square, for faults and for rounding alike: this places the 16-bit
# bound between the two. One token in 32 is louder, so that the most likely token stands out as in a real model.
LOGIT_STD = 1.5
LOUD_EVERY, LOUD_GAIN = 32, 2.5

# Spread of the attention scores: peaked on a few positions of a hundred. By content, every pair of RoPE alike; above 2
# rounding errors grow from layer to layer faster than faults do. By position, the same in every sequence.
CONTENT_STD = 1.5
POSITION_STD = 0.5
# Pairs that RoPE scaling slows down turn by 0.1 rad in 128 positions: too little to see in a random score. Here their
# queries lie on the first, their keys on the second half of the pair: the score is the sine of that small angle times
# this, a ramp over distance whose slope is the frequency, and small terms leave small rounding errors.
RAMP_STD = 12.0

# Variance that all attention blocks, and all feed-forward blocks, add to an embedding of variance 1.
ATTENTION_SHARE = 1.5
FEED_FORWARD_SHARE = 0.3
# Rounding of a 16-bit residual stream adds up with every write to a channel, and is the largest error there is. So each
# layer writes one slice of the channels, and the others only with weights too small to change a 16-bit sum. The price:
# small changes of those quiet rows of o_proj and down_proj (a zeroed block, not garbage) pass the gates unseen.
LAYERS_PER_CHANNEL = 4
QUIET = 2.0**-11

# Channels that hold the same value for every token, for queries and keys to draw position from; real models have such.
CONSTANT_CHANNELS = 8
CONSTANT_SHARE = 0.25

# Root mean square of a softmax-weighted mean of unit values, and of silu(g)·u for unit normal g and u.
ATTENTION_RMS = 0.55
GATED_RMS = 0.6

CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Recipe:
    """A matrix of normal values: row r has standard deviation row_stds[r % len(row_stds)].

    Its columns for the constant channels have deviations of their own, or one fixed value, where that is given.
    """

    row_stds: tuple[float, ...]
    constant_stds: tuple[float, ...] | None = None
    constant: float | None = None


def chunks(config: LlamaConfig, name: str, seed: int, bfloat16: bool) -> Iterator[Bits]:
    """The weight `name` in blocks of whole heads of rows, as float16 or bfloat16 bits. [rows, columns] or [n]."""
    shape = expected_shapes(config)[name]
    bits = np.random.Philox(key=int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little"))
    if len(shape) == 1:
        yield encoded(norm_values(draw(bits, shape), final=name == "norm"), bfloat16)
        return
    recipe = recipe_of(config, name)
    step = max(1, CHUNK_ELEMENTS // shape[1] // config.head_dim) * config.head_dim
    for start in range(0, shape[0], step):
        indices = draw(bits, (min(step, shape[0] - start), shape[1]))
        yield looked_up(indices, recipe, start, bfloat16)


def recipe_of(config: LlamaConfig, name: str) -> Recipe:
    unit = 1.0 / math.sqrt(config.dim)
    embedding = LOGIT_STD * unit
    kind = name.rpartition(".")[2]
    if kind in ("embed_tokens", "lm_head"):
        stds = (LOUD_GAIN * embedding,) + (embedding,) * (LOUD_EVERY - 1)
        return Recipe(stds, constant=embedding * math.sqrt(CONSTANT_SHARE * config.dim / CONSTANT_CHANNELS))
    if kind in ("q_proj", "k_proj"):
        layer = int(name.split(".")[1])
        content, position = spectra(config, kind)
        # the constant channels' part of the normalised input shrinks as the blocks add to the others
        grown = 1 + CONSTANT_SHARE + (ATTENTION_SHARE + FEED_FORWARD_SHARE) * layer / config.n_layers
        level = math.sqrt(grown / (CONSTANT_SHARE * config.dim))
        return Recipe(tuple(unit * content), constant_stds=tuple(level * position))
    if kind == "o_proj":
        return Recipe(written_rows(config, name, ATTENTION_SHARE, ATTENTION_RMS * math.sqrt(config.query_dim())))
    if kind == "down_proj":
        return Recipe(written_rows(config, name, FEED_FORWARD_SHARE, GATED_RMS * math.sqrt(config.hidden_dim)))
    return Recipe((unit,), constant=0.0)


def written_rows(config: LlamaConfig, name: str, share: float, input_norm: float) -> tuple[float, ...]:
    """Row deviations of a matrix that adds to the residual stream: each layer writes its slice of the channels."""
    groups = max(1, config.n_layers // LAYERS_PER_CHANNEL)
    loud = LOGIT_STD * math.sqrt(share * groups / config.n_layers / config.dim) / input_norm
    slot = int(name.split(".")[1]) % groups
    channels = range(config.dim)
    return tuple(loud if c >= CONSTANT_CHANNELS and c % groups == slot else loud * QUIET for c in channels)


def spectra(config: LlamaConfig, kind: str) -> tuple[Doubles, Doubles]:
    """Deviations of q or k over the rows of a head (half-split order): from content, from position.

    Inside are the pairs that RoPE scaling slows down most; they carry the ramp only.
    """
    plain = base_frequencies(config.rope_theta, config.head_dim).astype(np.float64)
    stretched = inverse_frequencies(config.rope_theta, config.head_dim, config.rope_scaling).astype(np.float64)
    band = plain - stretched
    inside = (band > band.max() / 4) * band
    outside = (inside == 0) / np.count_nonzero(inside == 0)
    inside = inside / inside.sum() if config.rope_scaling else inside
    content = row_stds(CONTENT_STD**2 * outside, config)
    position = row_stds(POSITION_STD**2 * outside, config)
    ramp = row_stds(RAMP_STD**2 * inside, config)
    none = np.zeros_like(ramp)
    halves = [ramp, none] if kind == "q_proj" else [none, ramp]
    return np.tile(content, 2), np.tile(position, 2) + np.concatenate(halves)


def row_stds(variances: Doubles, config: LlamaConfig) -> Doubles:
    """Row deviations that give the score these variances: it sums 2 products a pair, over sqrt(head_dim)."""
    return (variances * config.head_dim / 2) ** 0.25


def draw(bits: np.random.Philox, shape: tuple[int, ...]) -> Bits:
    """Uniform 16-bit numbers of a shape; what is left of the last 64-bit word is dropped."""
    count = math.prod(shape)
    words: npt.NDArray[np.uint64] = bits.random_raw(-(-count // 4)).astype("<u8", copy=False)
    return words.view("<u2")[:count].reshape(shape)


def looked_up(indices: Bits, recipe: Recipe, first_row: int, bfloat16: bool) -> Bits:
    values = rows_of(indices, recipe.row_stds, first_row, bfloat16)
    constants = (slice(None), slice(CONSTANT_CHANNELS))
    if recipe.constant is not None:
        values[constants] = encoded(representable(np.array([recipe.constant])), bfloat16)
    if recipe.constant_stds is not None:
        values[constants] = rows_of(np.ascontiguousarray(indices[constants]), recipe.constant_stds, first_row, bfloat16)
    return values


def rows_of(indices: Bits, stds: tuple[float, ...], first_row: int, bfloat16: bool) -> Bits:
    if len(stds) == 1:
        return np.take(normal_table(stds[0], bfloat16), indices)
    values = np.empty_like(indices)
    row_stds = np.resize(np.roll(stds, -first_row % len(stds)), len(indices))
    for std in sorted(set(stds)):
        selected = row_stds == std
        values[selected] = normal_table(std, bfloat16)[indices[selected]]
    return values


def norm_values(indices: Bits, final: bool) -> Floats:
    """Gains from 0.75 to 1.23 in steps of 1/64.

    The final ones have random signs, otherwise a tied model would predict its own input; the constant channels say
    nothing about the next token and are left out there.
    """
    values = (np.float32(0.75) + (indices & 31) / np.float32(64)).astype(np.float32)
    if final:
        values[(indices & 32) > 0] *= -1
    values[:CONSTANT_CHANNELS] = 0 if final else 1
    return values


@cache
def normal_table(std: float, bfloat16: bool) -> Bits:
    """65,536 equally likely values of a normal distribution, as bits."""
    return encoded(representable(std * quantiles()), bfloat16)


@cache
def quantiles() -> Doubles:
    normal = NormalDist()
    upper = np.array([normal.inv_cdf(0.5 + (k + 0.5) / 65536) for k in range(32768)])
    return np.concatenate([-upper[::-1], upper])


def representable(values: Doubles) -> Floats:
    """The nearest numbers that both 16-bit formats hold: 8 significant bits, multiples of 2^-24."""
    exponents = np.maximum(np.frexp(values)[1] - 8, -24)
    rounded: Floats = np.ldexp(np.rint(np.ldexp(values, -exponents)), exponents).astype(np.float32)
    return rounded


def encoded(values: Floats, bfloat16: bool) -> Bits:
    if bfloat16:
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16).view(np.uint16)
