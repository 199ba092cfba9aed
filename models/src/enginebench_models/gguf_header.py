"""The header of a GGUF file: metadata and tensor directory, read without touching the tensor data.

A reader of its own because gguf's builds an array object per token and takes seconds on a vocabulary of
128 k; here string arrays are stepped over and decoded only when asked for. Every length is checked against
the bytes that remain before anything is taken. What the values and tensors must be is in gguf_check.py.
Little-endian versions 2 and 3. Format: ggml's docs/gguf.md.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginebench_models import limits
from enginebench_models.errors import InvalidModel, NotAModel, TruncatedModel, UnsupportedModel, shown

MAGIC = b"GGUF"
FIXED_BYTES = 24

# gguf.md, gguf_metadata_value_type: code -> struct format of the scalars.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
VISIBLE = re.compile(rb"[!-~]+")
MIN_ALIGNMENT = 32
"""The format allows 8 and 16; llama.cpp aborts on them while it loads (ggml-backend.cpp, TENSOR_ALIGNMENT)."""
BIG_ENDIAN_VERSIONS = (1 << 24, 2 << 24, 3 << 24)

Scalar = int | float | bool | str


@dataclass(frozen=True)
class GgufArray:
    """Where an array's elements lie: `offset` is that of the first element."""

    element_type: int
    count: int
    offset: int


@dataclass(frozen=True)
class GgufTensor:
    """One line of the directory; `shape` is row-major (GGUF stores it reversed), `offset` counts from the data."""

    name: str
    shape: tuple[int, ...]
    type_code: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata with the type codes of its values, tensor directory and where the data starts."""

    version: int
    metadata: Mapping[str, Scalar | GgufArray]
    types: Mapping[str, int]
    tensors: Mapping[str, GgufTensor]
    data_offset: int


def read_header(buffer: memoryview, path: Path) -> GgufHeader:
    """Raises NotAModel, UnsupportedModel, TruncatedModel or InvalidModel."""
    if bytes(buffer[:4]) != MAGIC:
        raise NotAModel(
            f"{path} starts with {bytes(buffer[:4])!r}, not with {MAGIC!r}: it is no GGUF file.", "not-a-model"
        )
    if len(buffer) < FIXED_BYTES:
        raise TruncatedModel(path, FIXED_BYTES, len(buffer), "the GGUF header", "gguf-truncated")
    version, n_tensors, n_keys = struct.unpack_from("<IQQ", buffer, 4)
    check_preamble(version, n_tensors, n_keys, path)
    cursor = Cursor(buffer, FIXED_BYTES, path)
    metadata, types = read_metadata(cursor, n_keys)
    step = alignment(metadata, types, path)
    tensors = read_directory(cursor, n_tensors)
    return GgufHeader(version, metadata, types, tensors, aligned(cursor.offset, step))


def check_preamble(version: int, n_tensors: int, n_keys: int, path: Path) -> None:
    if version not in (2, 3):
        big = version in BIG_ENDIAN_VERSIONS
        what = f"big-endian GGUF, version {version >> 24}" if big else f"GGUF version {version}"
        raise UnsupportedModel(
            f"{path} is {what}; versions 2 and 3, little-endian, are read. Convert it with a current converter.",
            "gguf-big-endian" if big else "gguf-version",
        )
    limits.check(path, "tensors", n_tensors, limits.MAX_TENSORS, "gguf-too-many-tensors")
    limits.check(path, "metadata keys", n_keys, limits.MAX_KEYS, "gguf-too-many-keys")


def read_metadata(cursor: "Cursor", n_keys: int) -> tuple[dict[str, Scalar | GgufArray], dict[str, int]]:
    metadata: dict[str, Scalar | GgufArray] = {}
    types: dict[str, int] = {}
    for _ in range(n_keys):
        key = cursor.name("metadata key", limits.MAX_KEY_BYTES, "gguf-key-name")
        if key in metadata:
            raise InvalidModel(
                f"{cursor.path} holds the metadata key {shown(key)} twice; the header is damaged.", "gguf-key-twice"
            )
        types[key] = cursor.integer("<I")
        metadata[key] = cursor.value(types[key], key)
    return metadata, types


def read_directory(cursor: "Cursor", n_tensors: int) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    for _ in range(n_tensors):
        name = cursor.name("tensor name", limits.MAX_TENSOR_NAME_BYTES, "gguf-tensor-name")
        if name in tensors:
            raise InvalidModel(
                f"{cursor.path} holds the tensor {name!r} twice; the header is damaged.", "gguf-tensor-twice"
            )
        n_dims = cursor.integer("<I")
        if not 1 <= n_dims <= limits.MAX_DIMENSIONS:
            raise InvalidModel(f"{cursor.path} gives {name} {n_dims:,} dimensions; 1 to 4 are read.", "gguf-dimensions")
        shape = tuple(cursor.integer("<Q") for _ in range(n_dims))[::-1]
        tensors[name] = GgufTensor(name, shape, cursor.integer("<I"), cursor.integer("<Q"))
    return tensors


def alignment(metadata: Mapping[str, Scalar | GgufArray], types: Mapping[str, int], path: Path) -> int:
    value = metadata.get("general.alignment", 32)
    if types.get("general.alignment", UINT32) != UINT32:
        raise InvalidModel(
            f"{path} gives general.alignment as type {types['general.alignment']}, {shown(value)}; uint32 is its type.",
            "gguf-known-key-type",
        )
    if not isinstance(value, int) or not MIN_ALIGNMENT <= value <= 65536 or value & (value - 1):
        raise InvalidModel(
            f"{path} gives general.alignment {value!r}; a power of two from 32 to 65536 is allowed.", "gguf-alignment"
        )
    return value


def aligned(offset: int, step: int) -> int:
    return -(-offset // step) * step


class Cursor:
    """A reading position that never passes the end of the buffer."""

    def __init__(self, buffer: memoryview, offset: int, path: Path) -> None:
        self.buffer = buffer
        self.offset = offset
        self.path = path

    def take(self, n_bytes: int) -> int:
        """Step over n_bytes and return where they start; raises TruncatedModel at the end of the file."""
        start = self.offset
        if start + n_bytes > len(self.buffer):
            raise TruncatedModel(self.path, start + n_bytes, len(self.buffer), "the GGUF header", "gguf-truncated")
        self.offset = start + n_bytes
        if self.offset > limits.MAX_HEADER_BYTES:
            limits.check(self.path, "bytes of header", self.offset, limits.MAX_HEADER_BYTES, "gguf-header-too-long")
        return start

    def scalar(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack_from(form, self.buffer, self.take(struct.calcsize(form)))[0]
        return value

    def integer(self, form: str) -> int:
        return int(self.scalar(form))

    def raw(self) -> memoryview:
        length = self.integer("<Q")
        limits.check(self.path, "bytes of a string", length, limits.MAX_STRING_BYTES, "gguf-string-too-long")
        start = self.take(length)
        return self.buffer[start : self.offset]

    def string(self) -> str:
        return decoded(self.raw(), self.path)

    def name(self, what: str, max_bytes: int, rule: str) -> str:
        raw = bytes(self.raw())
        if len(raw) > max_bytes or not VISIBLE.fullmatch(raw):
            raise InvalidModel(
                f"{self.path} holds the {what} {shown(raw)} of {len(raw):,} bytes; "
                f"1 to {max_bytes:,} bytes of printable ASCII without spaces are read.",
                rule,
            )
        return raw.decode("ascii")

    def value(self, type_code: int, key: str) -> Scalar | GgufArray:
        if type_code == STRING:
            return self.string()
        if type_code == ARRAY:
            return self.array(key)
        if type_code not in SCALARS:
            raise InvalidModel(
                f"{self.path} gives {shown(key)} the unknown type {type_code}; the header is damaged.",
                "gguf-value-type",
            )
        if type_code == BOOL:
            self.check_bools(1, key)
        return self.scalar(SCALARS[type_code])

    def array(self, key: str) -> GgufArray:
        element_type, count = self.integer("<I"), self.integer("<Q")
        limits.check(self.path, f"elements of {shown(key)}", count, limits.MAX_ARRAY_ELEMENTS, "gguf-array-too-long")
        array = GgufArray(element_type, count, self.offset)
        if element_type == STRING:
            self.skip_strings(count)
        elif element_type in SCALARS:
            if element_type == BOOL:
                self.check_bools(count, key)
            self.take(count * struct.calcsize(SCALARS[element_type]))
        elif element_type == ARRAY:
            raise InvalidModel(f"{self.path}: {shown(key)} is an array of arrays; none is read.", "gguf-nested-array")
        else:
            raise InvalidModel(
                f"{self.path} gives {shown(key)} elements of the unknown type {element_type}; the header is damaged.",
                "gguf-value-type",
            )
        return array

    def check_bools(self, count: int, key: str) -> None:
        rest = bytes(self.buffer[self.offset : self.offset + count]).strip(b"\x00\x01")
        if rest:
            raise InvalidModel(f"{self.path}: {shown(key)} holds a bool of {rest[0]}; 0 and 1 are read.", "gguf-bool")

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings; the tight loop keeps a real header (400 k strings) under 30 ms."""
        length_at = struct.Struct("<Q").unpack_from
        buffer, offset = self.buffer, self.offset
        try:
            for _ in range(count):
                offset += 8 + length_at(buffer, offset)[0]
        except (struct.error, OverflowError):  # past the end; past what an offset can be
            raise TruncatedModel(
                self.path, offset + 8, len(buffer), "a string array of the GGUF header", "gguf-truncated"
            ) from None
        self.take(offset - self.offset)


def read_array(buffer: memoryview, array: GgufArray, path: Path) -> list[Scalar]:
    """Decode an array that read_header stepped over."""
    cursor = Cursor(buffer, array.offset, path)
    if array.element_type == STRING:
        return [cursor.string() for _ in range(array.count)]
    form = f"<{array.count}{SCALARS[array.element_type][1]}"
    return list(struct.unpack_from(form, buffer, cursor.take(struct.calcsize(form))))


def decoded(raw: memoryview, path: Path) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise InvalidModel(f"{path} holds a string that is not UTF-8: {bytes(raw[:32])!r}…", "gguf-not-utf8") from None
