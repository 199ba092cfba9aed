"""Files mapped into memory, and JSON files read: the gate that everything on the disk passes.

Only regular files are opened: a pipe would hang the reader, a device never ends.
"""

import mmap
import os
import re
import stat
from pathlib import Path

from enginebench_models import limits
from enginebench_models.errors import InvalidModel, NotAModel
from enginebench_models.safetensors_header import Json, parse_object

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""git-lfs, docs/spec.md: the first line of the text that stands for a large file."""
MAX_POINTER_BYTES = 1024
PACKED = {
    b"PK\x03\x04": "a zip archive (as PyTorch writes pickles)",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\xfd7zXZ\x00": "compressed by xz",
    b"BZh": "compressed by bzip2",
}


def map_file(path: Path) -> memoryview:
    """Read-only. Raises NotAModel for what is no regular file, cannot be read, is empty or packed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as cause:
        raise NotAModel(f"{path} cannot be read: {cause.strerror}.", "regular-file") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise NotAModel(f"{path} is no regular file.", "regular-file")
        if not facts.st_size:
            raise NotAModel(f"{path} is empty; copy or download the model again.", "empty-file")
        buffer = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
    refuse_packed(buffer, path)
    refuse_pointer(bytes(buffer[:MAX_POINTER_BYTES]), path)
    return buffer


def refuse_packed(buffer: memoryview, path: Path) -> None:
    """The ninth byte of a safetensors file is "{": its length may begin with any of these bytes."""
    first = bytes(buffer[:9])
    for magic, what in PACKED.items():
        if first.startswith(magic) and first[8:9] != b"{":
            raise NotAModel(f"{path} is {what}; nothing is unpacked. Give a GGUF or a safetensors file.", "packed-file")


def refuse_pointer(start: bytes, path: Path) -> None:
    """What a clone without Git LFS leaves in the place of a large file."""
    if not start.startswith(LFS_POINTER):
        return
    size = re.search(rb"^size (\d{1,15})$", start, re.MULTILINE)
    what = f"{int(size[1]):,} bytes" if size else "a large file"
    raise NotAModel(
        f"{path} is a Git LFS pointer, a few lines of text that stand for {what}: run `git lfs pull` in its "
        "repository, or download the model (enginebench models pull NAME).",
        "git-lfs-pointer",
    )


def read_json(path: Path) -> Json:
    limits.check(path, "bytes", path.stat().st_size, limits.MAX_JSON_BYTES, "json-file")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as cause:
        raise InvalidModel(f"{path} is not UTF-8: {cause}.", "json-file") from None
    except OSError as cause:
        raise InvalidModel(f"{path} cannot be read: {cause.strerror}.", "json-file") from None
    refuse_pointer(text[:MAX_POINTER_BYTES].encode(), path)
    return parse_object(text, path, "json-file")
