"""The shape of a LLaMA-3 model: counts, sizes and RoPE facts, and what follows from them by arithmetic.

No file format appears here; checkpoint.py fills this from a GGUF header or a config.json.
"""

from dataclasses import dataclass

from enginebench_models.errors import InvalidModel


@dataclass(frozen=True)
class RopeScaling:
    """The `llama3` rule of transformers' `modeling_rope_utils`: long wavelengths are stretched by `factor`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


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
        sizes = (self.dim, self.n_layers, self.n_heads, self.n_kv_heads, self.head_dim, self.hidden_dim)
        if min(*sizes, self.vocab_size, self.max_context) < 1:
            raise InvalidModel(f"Every size of a model is at least 1, found {self}.")
        if self.n_heads % self.n_kv_heads:
            raise InvalidModel(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key/value heads evenly; "
                "the header is damaged."
            )
        if self.head_dim % 2:
            raise InvalidModel(f"RoPE rotates pairs, head_dim {self.head_dim} is odd; the header is damaged.")

    def query_dim(self) -> int:
        """Rows of q_proj, columns of o_proj."""
        return self.n_heads * self.head_dim

    def kv_dim(self) -> int:
        """Rows of k_proj and of v_proj."""
        return self.n_kv_heads * self.head_dim

    def layer_elements(self) -> int:
        """Weights of one block: q, k, v, o, gate, up, down and two norms."""
        attention = 2 * self.dim * self.query_dim() + 2 * self.dim * self.kv_dim()
        return attention + 3 * self.dim * self.hidden_dim + 2 * self.dim

    def weight_elements(self) -> int:
        """All weights; a tied embedding table counts once."""
        tables = 1 if self.tied_embeddings else 2
        return tables * self.vocab_size * self.dim + self.n_layers * self.layer_elements() + self.dim

    def read_elements_per_token(self) -> int:
        """Weights that one decoded token must read.

        Everything but the embedding table, of which an untied model reads one row; a tied table is read
        whole, once, as the output projection.
        """
        return self.weight_elements() - (0 if self.tied_embeddings else self.vocab_size * self.dim)

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes that one position adds to the key/value cache."""
        return 2 * self.n_layers * self.kv_dim() * element_bytes
