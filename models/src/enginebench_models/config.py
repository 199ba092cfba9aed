"""The shape of a LLaMA-3 model: counts, sizes and RoPE facts, and what follows from them by arithmetic.

No file format appears here; checkpoint.py fills this from a GGUF header or a config.json.
"""

from dataclasses import dataclass

from enginebench_models.errors import InvalidModel
from enginebench_models.limits import MAX_CONTEXT, MAX_FACTOR, MAX_LAYERS, MAX_THETA, MAX_VOCABULARY, MAX_WIDTH


@dataclass(frozen=True)
class RopeScaling:
    """The `llama3` rule of transformers' `modeling_rope_utils`: long wavelengths are stretched by `factor`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def __post_init__(self) -> None:
        ordered = 0 < self.low_freq_factor < self.high_freq_factor <= MAX_FACTOR
        if not (1 <= self.factor <= MAX_FACTOR and ordered and 0 < self.original_context <= MAX_CONTEXT):
            raise InvalidModel(f"RoPE scaling needs a factor from 1 and low below high, found {self}.", "model-shape")


@dataclass(frozen=True)
class LlamaConfig:
    """Shape of one model. Raises InvalidModel where the numbers cannot belong together."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    max_context: int
    tied_embeddings: bool
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        widths = (self.dim, self.n_heads, self.n_kv_heads, self.head_dim, self.hidden_dim)
        bounds = [*((width, MAX_WIDTH) for width in widths), (self.n_layers, MAX_LAYERS)]
        bounds += [(self.vocab_size, MAX_VOCABULARY), (self.max_context, MAX_CONTEXT)]
        if not all(1 <= size <= bound for size, bound in bounds):
            raise InvalidModel(f"A size of this model is below 1 or beyond any real model's: {self}.", "model-shape")
        if not (0 < self.norm_eps < 1 and 1 <= self.rope_theta <= MAX_THETA):
            raise InvalidModel(
                f"norm_eps {self.norm_eps} lies between 0 and 1, rope_theta {self.rope_theta} from 1 to 10^12 "
                "in every model; the header is damaged.",
                "model-shape",
            )
        if self.n_heads % self.n_kv_heads:
            raise InvalidModel(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key/value heads evenly; "
                "the header is damaged.",
                "model-shape",
            )
        if self.head_dim % 2:
            raise InvalidModel(
                f"RoPE rotates pairs, head_dim {self.head_dim} is odd; the header is damaged.", "model-shape"
            )

    def query_dim(self) -> int:
        """Rows of q_proj, columns of o_proj."""
        return self.n_heads * self.head_dim

    def kv_dim(self) -> int:
        """Rows of k_proj and of v_proj."""
        return self.n_kv_heads * self.head_dim

    def layer_elements(self) -> int:
        """Weights of one block: q, k, v, o, gate, up, down and two norms."""
        return block_elements(self.dim, self.n_heads, self.n_kv_heads, self.head_dim, self.hidden_dim)

    def weight_elements(self) -> int:
        """All weights; a tied embedding table counts once."""
        tables = 1 if self.tied_embeddings else 2
        return tables * self.vocab_size * self.dim + self.n_layers * self.layer_elements() + self.dim

    def read_elements_per_token(self) -> int:
        """Weights that one decoded token must read."""
        return read_elements(
            self.dim,
            self.n_layers,
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.hidden_dim,
            self.vocab_size,
        )

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes that one position adds to the key/value cache."""
        return 2 * self.n_layers * self.kv_dim() * element_bytes

    def undivided(self, shards: int) -> list[str]:
        """In words, what cannot be cut into equal parts: each of several devices owns whole heads and columns."""
        sizes = {"n_heads": self.n_heads, "n_kv_heads": self.n_kv_heads, "hidden_dim": self.hidden_dim}
        return [f"{name} {size}" for name, size in sizes.items() if size % shards]


def read_elements(
    dim: int, n_layers: int, n_heads: int, n_kv_heads: int, head_dim: int, hidden_dim: int, vocab_size: int
) -> int:
    """Weights that one decoded token reads: the blocks, the last norm and one table of the vocabulary.

    Of the embedding table an untied model reads one row; a tied table is read whole, once, as the output projection.
    """
    return n_layers * block_elements(dim, n_heads, n_kv_heads, head_dim, hidden_dim) + vocab_size * dim + dim


def block_elements(dim: int, n_heads: int, n_kv_heads: int, head_dim: int, hidden_dim: int) -> int:
    attention = 2 * dim * head_dim * (n_heads + n_kv_heads)
    return attention + 3 * dim * hidden_dim + 2 * dim
