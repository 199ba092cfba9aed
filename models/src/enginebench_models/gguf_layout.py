"""From a GGUF header to the layout of a LLaMA model: metadata keys, tensor names, tokenizer arrays."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from enginebench_models.config import LlamaConfig
from enginebench_models.errors import InvalidModel, ModelTypeMismatch, TokenizerMissing, UnsupportedModel
from enginebench_models.gguf_header import GgufArray, GgufHeader, GgufTensor, Scalar, read_array
from enginebench_models.layout import SYNTHETIC_KEY, Layout, Place, Vocabulary, check_layout, check_place
from enginebench_models.rope import base_frequencies, recognise_scaling
from enginebench_models.storage import GGML, Floats

# llama.cpp, gguf-py/gguf/constants.py, TENSOR_NAMES of MODEL_ARCH.LLAMA.
WHOLE_NAMES = {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm", "output.weight": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
END_TOKENS = ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")
BLOCK_NAME = re.compile(r"blk\.(?P<layer>[0-9]{1,6})\.(?P<kind>[a-z_]+)\.weight")
ROPE_DIVISORS = "rope_freqs.weight"


def gguf_layout(header: GgufHeader, buffer: memoryview, path: Path) -> Layout:
    """Raises ModelError subclasses; see errors.py."""
    keys = Keys(header, path)
    if keys.text("general.architecture") != "llama":
        raise ModelTypeMismatch("llama", keys.text("general.architecture"), path)
    refuse_unsupported(keys)
    places = {canonical(name, path): place(header, tensor, path) for name, tensor in header.tensors.items()}
    for name, found in places.items():
        check_place(found, name, len(buffer))
    divisors = rope_divisors(places.pop(ROPE_DIVISORS, None), buffer)
    config = gguf_config(keys, places, divisors)
    layout = Layout(
        "gguf",
        config,
        frequencies(config, divisors, path),
        interleaved(places, config),
        {path: header.data_offset},
        SYNTHETIC_KEY in header.metadata,
    )
    check_layout(layout, path)
    return layout


def refuse_unsupported(keys: "Keys") -> None:
    scaling = keys.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise UnsupportedModel(f"{keys.path} uses {scaling!r} RoPE scaling; none and llama3 (rope_freqs) are run.")
    for key in ("llama.expert_count", "llama.expert_used_count"):  # llama.cpp aborts where only the second is there
        if keys.get(key, 0):
            raise UnsupportedModel(
                f"{keys.path} is a mixture of experts ({key} is {keys.get(key, 0)}); dense models are run."
            )
    if keys.get("split.count", 1) not in (0, 1):
        raise UnsupportedModel(
            f"{keys.path} is split into {keys.get('split.count', 1)} files; merge them with llama-gguf-split."
        )


def canonical(name: str, path: Path) -> str:
    if name in WHOLE_NAMES:
        return WHOLE_NAMES[name]
    if name == ROPE_DIVISORS:
        return name
    block = BLOCK_NAME.fullmatch(name)
    if block and block["kind"] in LAYER_NAMES:
        return f"layers.{int(block['layer'])}.{LAYER_NAMES[block['kind']]}"
    raise UnsupportedModel(f"{path} holds the tensor {name!r}, which a LLaMA model does not have.", "weights-extra")


def place(header: GgufHeader, tensor: GgufTensor, path: Path) -> Place:
    if tensor.type_code not in GGML:
        raise UnsupportedModel(f"{path}: {tensor.name} is stored as GGUF type {tensor.type_code}, which is not read.")
    return Place(path, header.data_offset + tensor.offset, tensor.shape, GGML[tensor.type_code])


def rope_divisors(found: Place | None, buffer: memoryview) -> Floats | None:
    if found is None:
        return None
    if found.storage.name != "f32":
        raise UnsupportedModel(
            f"{found.file}: {ROPE_DIVISORS} is stored as {found.storage.name}; f32 is read.", "rope-divisors"
        )
    divisors = np.frombuffer(buffer, np.float32, found.shape[0], found.offset)
    if not (np.isfinite(divisors) & (divisors > 0)).all():
        raise InvalidModel(
            f"{found.file}: {ROPE_DIVISORS} holds {divisors.min()}; its divisors are above zero.", "rope-divisors"
        )
    return divisors


def gguf_config(keys: "Keys", places: dict[str, Place], divisors: Floats | None) -> LlamaConfig:
    if "embed_tokens" not in places:
        raise InvalidModel(
            f"{keys.path} lacks token_embd.weight; the file is incomplete, copy or download it again.",
            "weights-missing",
        )
    dim, heads = keys.integer("llama.embedding_length"), keys.integer("llama.attention.head_count")
    head_dim = keys.integer("llama.attention.key_length", dim // max(heads, 1))
    check_head_dim(keys, head_dim)
    config = LlamaConfig(
        dim=dim,
        n_layers=keys.integer("llama.block_count"),
        n_heads=heads,
        n_kv_heads=keys.integer("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        hidden_dim=keys.integer("llama.feed_forward_length"),
        vocab_size=places["embed_tokens"].shape[0],
        norm_eps=keys.number("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=keys.number("llama.rope.freq_base", 10000.0),
        max_context=keys.integer("llama.context_length"),
        tied_embeddings="lm_head" not in places,
    )
    if divisors is None:
        return config
    # Only now: a config that exists has a head_dim for which there is memory.
    plain = base_frequencies(config.rope_theta, config.head_dim)
    return replace(config, rope_scaling=recognise_scaling(divisors, plain))


def check_head_dim(keys: "Keys", head_dim: int) -> None:
    rotated = keys.integer("llama.rope.dimension_count", head_dim)
    values = keys.integer("llama.attention.value_length", head_dim)
    if (rotated, values) != (head_dim, head_dim):
        raise UnsupportedModel(
            f"{keys.path} has heads of {head_dim} (keys), {values} (values) and {rotated} rotated elements; "
            "only equal numbers are run."
        )


def frequencies(config: LlamaConfig, divisors: Floats | None, path: Path) -> Floats:
    plain = base_frequencies(config.rope_theta, config.head_dim)
    if divisors is None:
        return plain
    if divisors.shape != plain.shape:
        raise InvalidModel(
            f"{path}: {ROPE_DIVISORS} holds {divisors.size} divisors; {plain.size} belong to "
            f"head_dim {config.head_dim}. The file is damaged.",
            "rope-divisors",
        )
    with np.errstate(over="ignore"):
        scaled = plain / divisors
    if not np.isfinite(scaled).all():
        raise InvalidModel(
            f"{path}: {ROPE_DIVISORS} holds {divisors.min()}, which makes a frequency infinite.", "rope-divisors"
        )
    return scaled


def interleaved(places: dict[str, Place], config: LlamaConfig) -> dict[str, Place]:
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}
    return {
        name: Place(p.file, p.offset, p.shape, p.storage, heads.get(name.rpartition(".")[2], 0))
        for name, p in places.items()
    }


def gguf_vocabulary(header: GgufHeader, buffer: memoryview, path: Path) -> Vocabulary:
    """Raises TokenizerMissing where the metadata holds no byte-level BPE."""
    keys = Keys(header, path)
    model = keys.get("tokenizer.ggml.model", "none")
    if model != "gpt2":
        raise TokenizerMissing(
            f"{path} holds a {model!r} tokenizer; byte-level BPE (gpt2) is read. Pass token ids instead."
        )
    bos = keys.get("tokenizer.ggml.bos_token_id", None)
    template = keys.get("tokenizer.chat_template", None)
    tokens = [str(token) for token in keys.array("tokenizer.ggml.tokens", buffer)]
    return Vocabulary(
        model=model,
        pre=str(keys.get("tokenizer.ggml.pre", "default")),
        tokens=tokens,
        merges=[str(merge) for merge in keys.array("tokenizer.ggml.merges", buffer)],
        types=[int(kind) for kind in keys.array("tokenizer.ggml.token_type", buffer)],
        bos=bos if isinstance(bos, int) else None,
        eos=end_ids(keys.get("tokenizer.ggml.eos_token_id", None), tokens),
        chat_template=template if isinstance(template, str) else None,
    )


def end_ids(stated: object, tokens: list[str]) -> list[int]:
    """The stated EOS first, then LLaMA 3's other ends; GGUF states one only, llama.cpp finds these by name too."""
    named = [tokens.index(name) for name in END_TOKENS if name in tokens]
    return list(dict.fromkeys([stated, *named] if isinstance(stated, int) else named))


def shortest(value: float) -> float:
    """1e-05 for the float32 9.999999747378752e-06: what the model's author wrote."""
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value


class Keys:
    """Typed access to the metadata; a wrong type is an error, never a surprise later."""

    def __init__(self, header: GgufHeader, path: Path) -> None:
        self.header = header
        self.path = path

    def get(self, key: str, default: Scalar | None) -> Scalar | GgufArray | None:
        return self.header.metadata.get(key, default)

    def text(self, key: str) -> str:
        value = self.required(key, None)
        if not isinstance(value, str):
            raise InvalidModel(f"{self.path}: {key} is {value!r}, a string was expected.", "metadata-missing")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.required(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidModel(f"{self.path}: {key} is {value!r}, a whole number was expected.", "metadata-missing")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.required(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidModel(f"{self.path}: {key} is {value!r}, a number was expected.", "metadata-missing")
        return shortest(float(value))

    def required(self, key: str, default: Scalar | None) -> Scalar | GgufArray:
        value = self.get(key, default)
        if value is None:
            raise InvalidModel(
                f"{self.path} lacks the metadata key {key!r}; convert the model again.", "metadata-missing"
            )
        return value

    def array(self, key: str, buffer: memoryview) -> list[Scalar]:
        value = self.header.metadata.get(key)
        if not isinstance(value, GgufArray):
            raise TokenizerMissing(f"{self.path} lacks the array {key!r}. Pass token ids instead of text.")
        return read_array(buffer, value, self.path)
