"""A GGUF file with the vocabulary of words.py in place of its own; metadata and tensors are copied as they are.

The tensor data starts at the same offset within a page as in the source, so that a file system that can share blocks
between files (btrfs, XFS) does, and nothing is stored twice. Format: ggml's docs/gguf.md.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

from enginebench_models.files import map_file
from enginebench_models.gguf_header import ARRAY, FIXED_BYTES, MAGIC, STRING, Cursor, read_header

from .words import Words

UINT32, INT32, BOOL = 4, 5, 7  # gguf.md, gguf_metadata_value_type
NORMAL = 1  # llama.cpp, enum llama_token_type
PAGE_BYTES = 4096
FILLER_KEY = "enginebench.filler"
COPY_BYTES = 1 << 26


def write_copy(source: Path, target: Path, words: Words, progress: Callable[[float], None]) -> str:
    """Returns the sha256 of what was written. Raises OSError, ModelError."""
    buffer = map_file(source)
    data_offset = read_header(buffer, source).data_offset
    header = header_of(buffer, source, words, data_offset % PAGE_BYTES)
    digest = hashlib.sha256(header)
    with source.open("rb") as given, target.open("wb") as out:
        out.write(header)
        out.flush()
        for start in range(data_offset, len(buffer), COPY_BYTES):
            end = min(start + COPY_BYTES, len(buffer))
            copy_range(given.fileno(), out.fileno(), start, end, len(header) - data_offset)
            digest.update(buffer[start:end])
            progress(end / len(buffer))
    return digest.hexdigest()


def copy_range(given: int, out: int, start: int, end: int, shift: int) -> None:
    """In the kernel, by reference where the file system can; the bytes land `shift` further on."""
    while start < end:
        copied = os.copy_file_range(given, out, end - start, start, start + shift)
        if copied == 0:
            raise OSError(f"the model file ends at byte {start}, {end} were there a moment ago")
        start += copied


def header_of(buffer: memoryview, path: Path, words: Words, offset_in_page: int) -> bytes:
    """The whole header, padded so that the data follow at `offset_in_page`."""
    version, n_tensors, n_keys = struct.unpack_from("<IQQ", buffer, 4)
    cursor = Cursor(buffer, FIXED_BYTES, path)
    kept = [entry for key, entry in (next_entry(cursor) for _ in range(n_keys)) if is_kept(key)]
    directory = bytes(buffer[cursor.offset : end_of_directory(cursor, n_tensors)])
    entries = kept + vocabulary(words)
    head = MAGIC + struct.pack("<IQQ", version, n_tensors, len(entries) + 1) + b"".join(entries)
    unfilled = len(head) + len(string_entry(FILLER_KEY, "")) + len(directory)
    filler = (offset_in_page - unfilled) % PAGE_BYTES
    return head + string_entry(FILLER_KEY, " " * filler) + directory


def next_entry(cursor: Cursor) -> tuple[str, bytes]:
    """The key, and key and value as they are."""
    start = cursor.offset
    key = cursor.string()
    cursor.value(cursor.integer("<I"), key)
    return key, bytes(cursor.buffer[start : cursor.offset])


def is_kept(key: str) -> bool:
    return not key.startswith("tokenizer.") and key != FILLER_KEY


def end_of_directory(cursor: Cursor, n_tensors: int) -> int:
    for _ in range(n_tensors):
        cursor.string()
        cursor.take(8 * cursor.integer("<I") + 4 + 8)  # sizes, type, offset
    return cursor.offset


def vocabulary(words: Words) -> list[bytes]:
    types = struct.pack(f"<{len(words)}i", *[NORMAL] * len(words))
    return [
        string_entry("tokenizer.ggml.model", "gpt2"),
        string_entry("tokenizer.ggml.pre", "llama-bpe"),
        array_entry("tokenizer.ggml.tokens", STRING, len(words), b"".join(map(string, words.tokens()))),
        array_entry("tokenizer.ggml.token_type", INT32, len(words), types),
        array_entry("tokenizer.ggml.merges", STRING, 0, b""),
        entry("tokenizer.ggml.bos_token_id", UINT32, struct.pack("<I", words.end)),
        entry("tokenizer.ggml.eos_token_id", UINT32, struct.pack("<I", words.end)),
        entry("tokenizer.ggml.add_bos_token", BOOL, b"\0"),
        entry("tokenizer.ggml.add_eos_token", BOOL, b"\0"),
    ]


def string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def entry(key: str, type_code: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", type_code) + value


def string_entry(key: str, text: str) -> bytes:
    return entry(key, STRING, string(text))


def array_entry(key: str, element_type: int, count: int, elements: bytes) -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", element_type, count) + elements)
