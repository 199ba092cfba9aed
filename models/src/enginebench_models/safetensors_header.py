"""The header of a safetensors file: every rule of the format, checked before a byte of data is touched.

Read here, not by the safetensors library, which copies bfloat16 tensors into other types. Stricter than the library in
what JSON may hold: whatever is accepted here, it loads. Format: huggingface/safetensors README, "Format", and
`Metadata::validate` of its lib.rs.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from enginebench_models.errors import InvalidModel, ModelError, NotAModel, TruncatedModel, shown
from enginebench_models.limits import (
    MAX_ELEMENTS,
    MAX_JSON_BYTES,
    MAX_SAFETENSORS_DIMENSIONS,
    MAX_TENSORS,
    check,
)

METADATA = "__metadata__"
FIELDS = {"dtype", "shape", "data_offsets"}
BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
Json = dict[str, Any]


@dataclass(frozen=True)
class SafeTensor:
    """One entry; `begin` and `end` count from the data, which follow the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """The entries in the order of the header, the remarks, and where the data start."""

    tensors: Mapping[str, SafeTensor]
    metadata: Mapping[str, str]
    data_offset: int


def read_safetensors_header(buffer: memoryview, path: Path) -> SafetensorsHeader:
    """Raises NotAModel, TruncatedModel or InvalidModel."""
    if len(buffer) < 8:
        raise NotAModel(f"{path} has {len(buffer)} bytes: it is no safetensors file.", "not-a-model")
    length = struct.unpack_from("<Q", buffer)[0]
    if bytes(buffer[8:9]) != b"{":
        raise NotAModel(f"{path} does not start as a safetensors file does.", "not-a-model")
    check(path, "bytes of header", length, MAX_JSON_BYTES, "safetensors-header-too-long")
    if 8 + length > len(buffer):
        raise TruncatedModel(path, 8 + length, len(buffer), "the safetensors header", "safetensors-truncated")
    directory = parse_header(bytes(buffer[8 : 8 + length]), path)
    metadata = remarks(directory.pop(METADATA, {}), path)
    check(path, "tensors", len(directory), MAX_TENSORS, "safetensors-too-many-tensors")
    tensors = {name: tensor(name, entry, path) for name, entry in directory.items()}
    check_data(tensors, path, 8 + length, len(buffer))
    return SafetensorsHeader(tensors, metadata, 8 + length)


def parse_header(raw: bytes, path: Path) -> Json:
    """Only what the format has: strings, integers from 0, lists and objects."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise InvalidModel(f"{path}: the header is not UTF-8: {cause}.", "safetensors-not-utf8") from None
    return parse_object(text, path, "safetensors-json", parse_float=no_number, parse_int=whole)


def parse_object(text: str, path: Path, rule: str, **numbers: Any) -> Json:
    """A JSON object with every key once. Raises InvalidModel."""
    try:
        value = json.loads(
            text, object_pairs_hook=lambda pairs: unique(pairs, path, rule), parse_constant=no_number, **numbers
        )
    except ModelError:
        raise
    except (ValueError, RecursionError) as cause:
        raise InvalidModel(f"{path} holds JSON that cannot be read: {shown(str(cause))}.", rule) from None
    if not isinstance(value, dict):
        raise InvalidModel(f"{path} holds a JSON {type(value).__name__}; an object was expected.", rule)
    return value


def no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is no number that belongs there")


def whole(text: str) -> int:
    """Lengths and offsets: 0 to 2^64 - 1."""
    if text.startswith("-") or len(text) > 20 or int(text) >= 1 << 64:
        no_number(text)
    return int(text)


def unique(pairs: list[tuple[str, Any]], path: Path, rule: str) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidModel(f"{path} holds a JSON key twice; the file is damaged.", rule)
    for name in found:
        check_text(name, path, rule)
    return found


def check_text(text: str, path: Path, rule: str) -> None:
    """JSON can escape half a character (a lone surrogate), which is no text."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidModel(f"{path} holds half a character, {shown(text)}, as a JSON string.", rule)


def remarks(found: Any, path: Path) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InvalidModel(
            f"{path}: {METADATA} is {shown(found)}; strings by name were expected.", "safetensors-metadata"
        )
    for value in found.values():
        check_text(value, path, "safetensors-json")
    return found


def tensor(name: str, entry: Any, path: Path) -> SafeTensor:
    """Raises InvalidModel for an entry that cannot be."""
    if not (
        isinstance(entry, dict)
        and set(entry) == FIELDS
        and whole_list(entry["shape"])
        and whole_list(entry["data_offsets"])
    ):
        raise InvalidModel(
            f"{path}: the entry of {shown(name)} is {shown(entry)}; dtype, shape and data_offsets were expected.",
            "safetensors-entry",
        )
    dtype, shape, offsets = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if len(offsets) != 2:
        raise InvalidModel(
            f"{path}: {shown(name)} has {len(offsets)} data_offsets; 2 belong there.", "safetensors-entry"
        )
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InvalidModel(
            f"{path}: {shown(name)} is stored as {shown(dtype)}; the format has no such dtype.", "safetensors-dtype"
        )
    found = SafeTensor(name, dtype, shape, *offsets)
    check_size(found, path)
    return found


def whole_list(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def check_size(found: SafeTensor, path: Path) -> None:
    check(
        path,
        f"dimensions of {shown(found.name)}",
        len(found.shape),
        MAX_SAFETENSORS_DIMENSIONS,
        "safetensors-dimensions",
    )
    elements = 1
    for size in found.shape:
        elements *= size
        # Also between: the library multiplies from the left in 64 bits, so that 2^60 x 2^60 x 0 overflows there.
        check(path, f"elements of {shown(found.name)}", elements, MAX_ELEMENTS, "safetensors-too-many-elements")
    bits = elements * BITS[found.dtype]
    if bits % 8:
        raise InvalidModel(f"{path}: {shown(found.name)} takes {bits} bits, not whole bytes.", "safetensors-bits")
    if found.end - found.begin != bits // 8:
        raise InvalidModel(
            f"{path}: {shown(found.name)} {found.dtype} {list(found.shape)} cannot fill the bytes "
            f"{found.begin} to {found.end}.",
            "safetensors-size",
        )


def check_data(tensors: Mapping[str, SafeTensor], path: Path, start: int, file_bytes: int) -> None:
    """Every byte behind the header belongs to one tensor: no hole, no overlap, nothing behind the last."""
    expected = 0
    for found in sorted(tensors.values(), key=lambda each: (each.begin, each.end)):
        if found.begin != expected:
            rule = "safetensors-overlap" if found.begin < expected else "safetensors-gap"
            raise InvalidModel(
                f"{path}: {shown(found.name)} starts at {found.begin:,} of the data, {expected:,} was expected.", rule
            )
        expected = found.end
        if start + expected > file_bytes:
            raise TruncatedModel(
                path, start + expected, file_bytes, f"tensor {found.name}", "safetensors-data-truncated"
            )
    if start + expected != file_bytes:
        raise InvalidModel(
            f"{path}: {file_bytes - start - expected:,} bytes follow the last tensor; nothing may.",
            "safetensors-trailing-bytes",
        )
