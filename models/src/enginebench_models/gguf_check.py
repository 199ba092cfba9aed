"""What the values and the tensors of a GGUF header must be, whatever the model: types, counts, places.

Tensors lie one after the other in the order of the directory, each padded to the alignment: llama.cpp reads no other
file (gguf.cpp, gguf_init_from_reader). All sizes are Python ints, which cannot wrap.
"""

import re
import struct
from pathlib import Path

from enginebench_models import limits
from enginebench_models.errors import InvalidModel, TruncatedModel
from enginebench_models.gguf_header import (
    ARRAY,
    BOOL,
    STRING,
    UINT32,
    GgufArray,
    GgufHeader,
    GgufTensor,
    aligned,
    alignment,
    decoded,
)

UINT16, INT32, FLOAT32 = 2, 5, 6
TYPE_NAMES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"),
    *("bool", "string", "array", "uint64", "int64", "float64"),
)

# ggml.h, enum ggml_type, with the block sizes of ggml-common.h: code -> (elements, bytes) of a block.
BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}

# The types that llama.cpp asks for: llama-model-loader.cpp (GGUFMeta), llama-vocab.cpp.
KNOWN_KEYS: dict[str, int] = {
    **{f"general.{name}": UINT32 for name in ("alignment", "file_type", "quantization_version")},
    **{f"general.{name}": STRING for name in ("architecture", "name", "type")},
    **{f"tokenizer.ggml.{name}": STRING for name in ("model", "pre")},
    **{f"tokenizer.ggml.{name}": BOOL for name in ("add_bos_token", "add_eos_token", "add_sep_token")},
    **{f"tokenizer.ggml.{name}": BOOL for name in ("add_space_prefix", "remove_extra_whitespaces")},
    "tokenizer.ggml.token_type_count": UINT32,
    "tokenizer.chat_template": STRING,
    "split.no": UINT16,
    "split.count": UINT16,
    "split.tensors.count": INT32,
}
KNOWN_ARRAYS = {
    "tokenizer.ggml.tokens": STRING,
    "tokenizer.ggml.merges": STRING,
    "tokenizer.ggml.scores": FLOAT32,
    "tokenizer.ggml.token_type": INT32,
}
KNOWN_OF_ARCHITECTURE = {
    **dict.fromkeys(("block_count", "context_length", "embedding_length", "vocab_size"), UINT32),
    **dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), UINT32),
    **dict.fromkeys(("expert_count", "expert_used_count", "rope.scaling.original_context_length"), UINT32),
    **dict.fromkeys(("rope.freq_base", "attention.layer_norm_rms_epsilon", "rope.scaling.factor"), FLOAT32),
    "rope.scaling.type": STRING,
    "rope.scaling.finetuned": BOOL,
}
PER_LAYER = ("feed_forward_length", "attention.head_count", "attention.head_count_kv")
"""One number for all layers, or one each."""

TOKEN_ID = re.compile(r"tokenizer\.ggml\.[a-z0-9_]+_token_id")
NO_TOKEN = (1 << 32) - 1


def check_gguf(header: GgufHeader, path: Path, file_bytes: int) -> None:
    """Raises InvalidModel or TruncatedModel with the rule that is broken."""
    check_known_types(header, path)
    check_vocabulary(header, path)
    check_tensors(header, path, file_bytes)


def check_known_types(header: GgufHeader, path: Path) -> None:
    architecture = header.metadata.get("general.architecture")
    prefix = f"{architecture}." if isinstance(architecture, str) else "\0"
    for key, found in header.types.items():
        value, own = header.metadata[key], key.removeprefix(prefix) if key.startswith(prefix) else None
        if key in KNOWN_ARRAYS:
            check_array_type(path, key, value, found)
        elif own in PER_LAYER and isinstance(value, GgufArray):
            check_type(path, f"an element of {key}", value.element_type, UINT32)
        elif own in PER_LAYER or TOKEN_ID.fullmatch(key):
            check_type(path, key, found, UINT32)
        else:
            check_type(path, key, found, KNOWN_KEYS.get(key, KNOWN_OF_ARCHITECTURE.get(own or "", found)))


def check_array_type(path: Path, key: str, value: object, found: int) -> None:
    check_type(path, key, found, ARRAY)
    assert isinstance(value, GgufArray)
    check_type(path, f"an element of {key}", value.element_type, KNOWN_ARRAYS[key])


def check_type(path: Path, what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise InvalidModel(
            f"{path}: {what} is of type {TYPE_NAMES[found]}; {TYPE_NAMES[wanted]} is its type.",
            "gguf-known-key-type",
        )


def check_vocabulary(header: GgufHeader, path: Path) -> None:
    """Counts that belong together, and ids that lie inside. A file without tokens needs none of them."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, GgufArray):
        return
    if not tokens.count:
        raise InvalidModel(f"{path}: tokenizer.ggml.tokens is empty.", "gguf-vocabulary-size")
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        other = header.metadata.get(key)
        if isinstance(other, GgufArray) and other.count != tokens.count:
            raise InvalidModel(
                f"{path}: {key} has {other.count:,} elements for {tokens.count:,} tokens.", "gguf-vocabulary-size"
            )
    for key, value in header.metadata.items():
        if TOKEN_ID.fullmatch(key) and isinstance(value, int) and not 0 <= value < tokens.count and value != NO_TOKEN:
            raise InvalidModel(f"{path}: {key} is {value:,}; there are {tokens.count:,} tokens.", "gguf-token-id")


def check_tensors(header: GgufHeader, path: Path, file_bytes: int) -> None:
    step, expected = alignment(header.metadata, header.types, path), 0
    if header.tensors and header.data_offset > file_bytes:
        raise TruncatedModel(path, header.data_offset, file_bytes, "the GGUF header, padded,", "gguf-truncated")
    for tensor in header.tensors.values():
        n_bytes = tensor_bytes(tensor, path)
        check_offset(tensor, expected, step, path)
        end = header.data_offset + tensor.offset + n_bytes
        if end > file_bytes:
            raise TruncatedModel(path, end, file_bytes, f"tensor {tensor.name}", "gguf-data-truncated")
        expected = aligned(tensor.offset + n_bytes, step)


def tensor_bytes(tensor: GgufTensor, path: Path) -> int:
    """Raises InvalidModel for a shape or type that cannot be stored."""
    if min(tensor.shape) < 1:
        raise InvalidModel(
            f"{path}: {tensor.name} has the empty shape {list(tensor.shape)}; no dimension may be 0.",
            "gguf-empty-dimension",
        )
    elements = 1
    for size in tensor.shape:
        elements *= size
    limits.check(path, f"elements of {tensor.name}", elements, limits.MAX_ELEMENTS, "gguf-too-many-elements")
    if tensor.type_code not in BLOCKS:
        raise InvalidModel(
            f"{path}: {tensor.name} is stored as type {tensor.type_code}, which ggml does not have.", "gguf-tensor-type"
        )
    block, block_bytes = BLOCKS[tensor.type_code]
    if tensor.shape[-1] % block:
        raise InvalidModel(
            f"{path}: {tensor.name} has rows of {tensor.shape[-1]:,} elements, not whole blocks of {block}.",
            "gguf-blocks",
        )
    return elements // block * block_bytes


def check_offset(tensor: GgufTensor, expected: int, step: int, path: Path) -> None:
    if tensor.offset == expected:
        return
    where = f"{path}: {tensor.name} starts at {tensor.offset:,} of the data, {expected:,} was expected"
    if tensor.offset % step:
        raise InvalidModel(f"{where}, a multiple of {step}.", "gguf-offset-unaligned")
    if tensor.offset < expected:
        raise InvalidModel(f"{where}: it overlaps the tensor before it.", "gguf-overlap")
    raise InvalidModel(f"{where}: nobody says what lies between.", "gguf-gap")


def check_strings(header: GgufHeader, buffer: memoryview, path: Path) -> None:
    """Decodes every string array: up to 16 Mi strings, so only the validator's process does it."""
    for value in header.metadata.values():
        if isinstance(value, GgufArray) and value.element_type == STRING:
            check_utf8(value, buffer, path)


def check_utf8(array: GgufArray, buffer: memoryview, path: Path) -> None:
    """Raises InvalidModel, too for a string above the limit."""
    length_at, offset = struct.Struct("<Q").unpack_from, array.offset
    for _ in range(array.count):
        (length,) = length_at(buffer, offset)
        if length > limits.MAX_STRING_BYTES:
            limits.check(path, "bytes of a string", length, limits.MAX_STRING_BYTES, "gguf-string-too-long")
        offset += 8 + length
        decoded(buffer[offset - length : offset], path)
