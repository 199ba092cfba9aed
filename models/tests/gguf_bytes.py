"""GGUF files byte by byte, sound or not: whatever a header can say can be written here.

The five small files are sound; the cases of malformed_gguf.py and the mutations change one thing in them.
"""

import struct
from dataclasses import dataclass
from typing import Any

from enginebench_models.gguf_check import BLOCKS
from enginebench_models.gguf_header import ARRAY, SCALARS, STRING

U8, I8, U16, I16, U32, I32, F32, BOOL, U64, I64, F64 = 0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12
LLAMA_PRE = "llama-bpe"
PATTERN = bytes((7 * n + 1) % 61 for n in range(61))


@dataclass(frozen=True)
class Array:
    """`count` says something else than the truth where given."""

    type: int
    values: tuple[Any, ...]
    count: int | None = None


@dataclass(frozen=True)
class Key:
    name: str | bytes
    type: int
    value: Any

    def packed(self) -> bytes:
        return string(self.name) + struct.pack("<I", self.type) + packed(self.type, self.value)


@dataclass(frozen=True)
class Entry:
    """A tensor; `sizes` in GGUF's order, rows last. Offset and length follow from the others unless given."""

    name: str | bytes
    sizes: tuple[int, ...]
    type: int = 0
    offset: int | None = None
    n_dims: int | None = None
    n_bytes: int | None = None

    def data_bytes(self) -> int:
        if self.n_bytes is not None:
            return self.n_bytes
        elements = 1
        for size in self.sizes:
            elements *= size
        block, block_bytes = BLOCKS[self.type]
        return elements // block * block_bytes

    def packed(self, offset: int) -> bytes:
        n_dims = len(self.sizes) if self.n_dims is None else self.n_dims
        sizes = struct.pack(f"<{len(self.sizes)}Q", *self.sizes)
        place = struct.pack("<IQ", self.type, offset if self.offset is None else self.offset)
        return string(self.name) + struct.pack("<I", n_dims) + sizes + place


def string(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def packed(type_code: int, value: Any) -> bytes:
    """`value` as bytes is taken as it is."""
    if isinstance(value, bytes):
        return value
    if type_code == STRING:
        return string(value)
    if type_code == ARRAY:
        count = len(value.values) if value.count is None else value.count
        head = struct.pack("<IQ", value.type, count)
        return head + b"".join(packed(value.type, item) for item in value.values)
    return struct.pack(SCALARS[type_code], value)


def preamble(n_tensors: int, n_keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)


def gguf(
    keys: list[Key],
    tensors: list[Entry],
    *,
    version: int = 3,
    step: int = 32,
    n_keys: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    raw = preamble(len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys, version)
    raw += b"".join(key.packed() for key in keys)
    offset, data = 0, b""
    for tensor in tensors:
        raw += tensor.packed(offset)
        n_bytes = tensor.data_bytes()
        data += (PATTERN * (n_bytes // len(PATTERN) + 1))[:n_bytes] + bytes(-n_bytes % step)
        offset += n_bytes + -n_bytes % step
    return raw + bytes(-len(raw) % step) + data


TOKENS = ("a", "b", "Ġ", "ab", "c", "d", "<|begin_of_text|>", "<|eot_id|>")


def llama_keys() -> list[Key]:
    numbers = {"block_count": 1, "context_length": 64, "embedding_length": 8, "feed_forward_length": 16}
    numbers |= {"attention.head_count": 2, "attention.head_count_kv": 1}
    return [
        Key("general.architecture", STRING, "llama"),
        *(Key(f"llama.{name}", U32, value) for name, value in numbers.items()),
        Key("llama.rope.freq_base", F32, 10000.0),
        Key("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        Key("tokenizer.ggml.model", STRING, "gpt2"),
        Key("tokenizer.ggml.pre", STRING, LLAMA_PRE),
        Key("tokenizer.ggml.tokens", ARRAY, Array(STRING, TOKENS)),
        Key("tokenizer.ggml.token_type", ARRAY, Array(I32, (1, 1, 1, 1, 1, 1, 3, 3))),
        Key("tokenizer.ggml.merges", ARRAY, Array(STRING, ("a b",))),
        Key("tokenizer.ggml.bos_token_id", U32, 6),
        Key("tokenizer.ggml.eos_token_id", U32, 7),
    ]


def llama_tensors(matrix: int = 1, untied: bool = False) -> list[Entry]:
    block = {"attn_q": (8, 8), "attn_k": (8, 4), "attn_v": (8, 4), "attn_output": (8, 8)}
    block |= {"ffn_gate": (8, 16), "ffn_up": (8, 16), "ffn_down": (16, 8)}
    return [
        Entry("token_embd.weight", (8, 8), matrix),
        Entry("blk.0.attn_norm.weight", (8,)),
        *(Entry(f"blk.0.{name}.weight", sizes, matrix) for name, sizes in block.items()),
        Entry("blk.0.ffn_norm.weight", (8,)),
        Entry("output_norm.weight", (8,)),
        *([Entry("output.weight", (8, 8), matrix)] if untied else []),
    ]


def llama(replaced: dict[str, Key | None] | None = None, added: tuple[Key, ...] = (), **rest: Any) -> bytes:
    """The small LLaMA file with some keys replaced, dropped or added."""
    changed = replaced or {}
    keys = [changed.get(str(key.name), key) for key in llama_keys()]
    return gguf([key for key in keys if key is not None] + list(added), rest.pop("tensors", llama_tensors()), **rest)


def every_scalar() -> list[Key]:
    values = {U8: 200, I8: -3, U16: 60000, I16: -300, U32: 1 << 31, I32: -5, F32: 0.5, U64: 1 << 63, I64: -7, F64: 0.1}
    scalars = [Key(f"zoo.{code}", code, value) for code, value in values.items()]
    arrays = [Key(f"zoo.list.{code}", ARRAY, Array(code, (value, value))) for code, value in values.items()]
    bools = [Key("zoo.yes", BOOL, True), Key("zoo.list.yes", ARRAY, Array(BOOL, (True, False)))]
    return [*scalars, *arrays, *bools, Key("zoo.list.text", ARRAY, Array(STRING, ("Ωmega", "", "x")))]


def small_files() -> dict[str, bytes]:
    """Five sound files of less than 3 KiB; two of them are LLaMA models."""
    plain = [key for key in llama_keys() if not str(key.name).startswith("tokenizer.")]
    zoo = [Key("general.architecture", STRING, "zoo"), *every_scalar()]
    entries = [Entry("f32", (3,)), Entry("q8", (32, 2), 8), Entry("bf16", (2, 3, 2), 30), Entry("i8", (1, 2, 3, 4), 24)]
    return {
        "llama": llama(),
        "llama-untied": gguf(plain, [*llama_tensors(0, untied=True), Entry("rope_freqs.weight", (2,))]),
        "zoo": gguf(zoo, entries),
        "version-2-aligned": gguf([Key("general.alignment", U32, 64)], entries, version=2, step=64),
        "one-tensor": gguf([], [Entry("t", (1,))]),
    }
