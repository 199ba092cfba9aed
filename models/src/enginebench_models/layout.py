"""What both file formats are reduced to: the shape, and for each weight the place of its bytes.

Names are Hugging Face's without the "model." prefix and the ".weight" suffix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enginebench_models.config import LlamaConfig
from enginebench_models.errors import InvalidModel, TruncatedModel, UnsupportedModel
from enginebench_models.limits import MAX_ELEMENTS, check
from enginebench_models.storage import AnyArray, Floats, Storage


@dataclass(frozen=True)
class Place:
    """Where a tensor lies; `interleaved_heads` > 0 marks Q/K rows in GGUF's order, of so many heads."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    storage: Storage
    interleaved_heads: int = 0

    def n_bytes(self) -> int:
        rows = int(np.prod(self.shape[:-1], dtype=object))
        return rows * self.storage.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer as GGUF metadata holds it; ids are positions in `tokens`."""

    model: str
    pre: str
    tokens: list[str]
    merges: list[str]
    types: list[int]
    bos: int | None
    eos: list[int]
    chat_template: str | None


# Metadata key of models that synthesis.py made, in both formats.
SYNTHETIC_KEY = "enginebench.synthetic"


@dataclass(frozen=True)
class Layout:
    """Header facts of a checkpoint.

    `headers` gives the length of each file's header, for the fingerprint; `synthetic` is what synthesis.py writes.
    """

    format: str
    config: LlamaConfig
    inverse_frequencies: Floats
    places: Mapping[str, Place]
    headers: Mapping[Path, int]
    synthetic: bool


def expected_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Every weight that a model of this shape has, by name."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (config.vocab_size, config.dim)}
    for layer in range(config.n_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in layer_shapes(config).items()}
    shapes["norm"] = (config.dim,)
    if not config.tied_embeddings:
        shapes["lm_head"] = (config.vocab_size, config.dim)
    return shapes


def layer_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    dim, hidden = config.dim, config.hidden_dim
    return {
        "input_layernorm": (dim,),
        "self_attn.q_proj": (config.query_dim(), dim),
        "self_attn.k_proj": (config.kv_dim(), dim),
        "self_attn.v_proj": (config.kv_dim(), dim),
        "self_attn.o_proj": (dim, config.query_dim()),
        "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (hidden, dim),
        "mlp.up_proj": (hidden, dim),
        "mlp.down_proj": (dim, hidden),
    }


def check_layout(layout: Layout, path: Path) -> None:
    """Raises InvalidModel or UnsupportedModel unless the weights are exactly those the shape calls for."""
    expected = expected_shapes(layout.config)
    missing = [name for name in expected if name not in layout.places]
    if missing:
        raise InvalidModel(
            f"{path} lacks {len(missing)} of {len(expected)} weights, the first is {missing[0]!r}. "
            "The file is incomplete; copy or download it again.",
            "weights-missing",
        )
    extra = [name for name in layout.places if name not in expected]
    if extra:
        raise UnsupportedModel(
            f"{path} holds {extra[0]!r}, which a LLaMA model does not have; it would be ignored.", "weights-extra"
        )
    for name, shape in expected.items():
        found = layout.places[name].shape
        if found != shape:
            raise InvalidModel(
                f"{path}: {name} has shape {list(found)}, the header's numbers give {list(shape)}.", "weight-shape"
            )


def check_place(place: Place, name: str, file_bytes: int) -> None:
    """Raises InvalidModel or TruncatedModel unless the tensor lies inside its file."""
    check(place.file, f"elements of {name}", int(np.prod(place.shape, dtype=object)), MAX_ELEMENTS, "weight-shape")
    if not place.shape or min(place.shape) < 1 or place.shape[-1] % place.storage.block:
        raise InvalidModel(
            f"{place.file}: {name} has shape {list(place.shape)}, which {place.storage.name} cannot store "
            f"(rows of whole blocks of {place.storage.block}, no empty dimension).",
            "weight-shape",
        )
    end = place.offset + place.n_bytes()
    if end > file_bytes:
        raise TruncatedModel(place.file, end, file_bytes, f"tensor {name}", "gguf-data-truncated")


def half_split(rows: AnyArray, heads: int) -> AnyArray:
    """Rows of Q or K from GGUF's order (rotated pairs adjacent) to Hugging Face's (pairs half a head apart).

    The inverse of `permute` in llama.cpp's convert_hf_to_gguf.py (LlamaModel).
    """
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
