"""The header of a GGUF file: metadata and tensor directory, read without touching the tensor data.

A reader of its own because gguf's builds an array object per token and takes seconds on a vocabulary of
128 k; here string arrays are stepped over and decoded only when asked for. Every length is checked against
the bytes that remain. Little-endian versions 2 and 3. Format: ggml's docs/gguf.md.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginebench_models import limits
from enginebench_models.errors import InvalidModel, NotAModel, TruncatedModel, UnsupportedModel

MAGIC = b"GGUF"
FIXED_BYTES = 24

# gguf.md, gguf_metadata_value_type: code -> struct format of the scalars.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING = 8
ARRAY = 9

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
    """Metadata, tensor directory and where the data starts."""

    version: int
    metadata: Mapping[str, Scalar | GgufArray]
    tensors: Mapping[str, GgufTensor]
    data_offset: int


def read_header(buffer: memoryview, path: Path) -> GgufHeader:
    """Raises NotAModel, UnsupportedModel, TruncatedModel or InvalidModel."""
    if bytes(buffer[:4]) != MAGIC:
        raise NotAModel(f"{path} starts with {bytes(buffer[:4])!r}, not with {MAGIC!r}: it is no GGUF file.")
    if len(buffer) < FIXED_BYTES:
        raise TruncatedModel(path, FIXED_BYTES, len(buffer), "the GGUF header")
    version, n_tensors, n_keys = struct.unpack_from("<IQQ", buffer, 4)
    check_preamble(version, n_tensors, n_keys, path)
    cursor = Cursor(buffer, FIXED_BYTES, path)
    metadata = read_metadata(cursor, n_keys)
    tensors = read_directory(cursor, n_tensors)
    return GgufHeader(version, metadata, tensors, aligned(cursor.offset, alignment(metadata, path)))


def check_preamble(version: int, n_tensors: int, n_keys: int, path: Path) -> None:
    if version not in (2, 3):
        raise UnsupportedModel(
            f"{path} is GGUF version {version}; versions 2 and 3 (little-endian) are read. "
            "Convert it with a current converter."
        )
    limits.check(path, "tensors", n_tensors, limits.MAX_TENSORS)
    limits.check(path, "metadata keys", n_keys, limits.MAX_KEYS)


def read_metadata(cursor: "Cursor", n_keys: int) -> dict[str, Scalar | GgufArray]:
    metadata: dict[str, Scalar | GgufArray] = {}
    for _ in range(n_keys):
        key = cursor.string()
        if key in metadata:
            raise InvalidModel(f"{cursor.path} holds the metadata key {key!r} twice; the header is damaged.")
        metadata[key] = cursor.value(cursor.integer("<I"), key)
    return metadata


def read_directory(cursor: "Cursor", n_tensors: int) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    for _ in range(n_tensors):
        name = cursor.string()
        if name in tensors:
            raise InvalidModel(f"{cursor.path} holds the tensor {name!r} twice; the header is damaged.")
        n_dims = cursor.integer("<I")
        limits.check(cursor.path, f"dimensions of {name}", n_dims, limits.MAX_DIMENSIONS)
        shape = tuple(cursor.integer("<Q") for _ in range(n_dims))[::-1]
        tensors[name] = GgufTensor(name, shape, cursor.integer("<I"), cursor.integer("<Q"))
    return tensors


def alignment(metadata: Mapping[str, Scalar | GgufArray], path: Path) -> int:
    value = metadata.get("general.alignment", 32)
    if not isinstance(value, int) or not 8 <= value <= 65536 or value & (value - 1):
        raise InvalidModel(f"{path} gives general.alignment {value!r}; a power of two from 8 to 65536 is allowed.")
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
            raise TruncatedModel(self.path, start + n_bytes, len(self.buffer), "the GGUF header")
        self.offset = start + n_bytes
        return start

    def scalar(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack_from(form, self.buffer, self.take(struct.calcsize(form)))[0]
        return value

    def integer(self, form: str) -> int:
        return int(self.scalar(form))

    def string(self) -> str:
        length = self.integer("<Q")
        limits.check(self.path, "bytes of a string", length, limits.MAX_STRING_BYTES)
        start = self.take(length)
        return decoded(self.buffer[start : self.offset], self.path)

    def value(self, type_code: int, key: str) -> Scalar | GgufArray:
        if type_code == STRING:
            return self.string()
        if type_code == ARRAY:
            return self.array(key)
        if type_code not in SCALARS:
            raise InvalidModel(f"{self.path} gives {key!r} the unknown type {type_code}; the header is damaged.")
        return self.scalar(SCALARS[type_code])

    def array(self, key: str) -> GgufArray:
        element_type, count = self.integer("<I"), self.integer("<Q")
        limits.check(self.path, f"elements of {key}", count, limits.MAX_ARRAY_ELEMENTS)
        array = GgufArray(element_type, count, self.offset)
        if element_type == STRING:
            self.skip_strings(count)
        elif element_type in SCALARS:
            self.take(count * struct.calcsize(SCALARS[element_type]))
        else:
            raise InvalidModel(
                f"{self.path} gives {key!r} elements of type {element_type}; nested arrays are not read."
            )
        return array

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings; the tight loop keeps a real header (400 k strings) under 30 ms."""
        length_at = struct.Struct("<Q").unpack_from
        buffer, offset = self.buffer, self.offset
        try:
            for _ in range(count):
                offset += 8 + length_at(buffer, offset)[0]
        except (struct.error, OverflowError):  # past the end; past what an offset can be
            raise TruncatedModel(self.path, offset + 8, len(buffer), "a string array of the GGUF header") from None
        self.offset = offset
        self.take(0)


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
        raise InvalidModel(f"{path} holds a string that is not UTF-8: {bytes(raw[:32])!r}…") from None
