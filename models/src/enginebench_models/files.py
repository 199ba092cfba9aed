"""Which files hold the weights of a path, mapped into memory; and the JSON files beside them.

Only regular files are opened: a pipe would hang the reader, a device never ends.
"""

import mmap
import os
import re
import stat
from pathlib import Path

from enginebench_models import limits
from enginebench_models.errors import InvalidModel, ModelNotFound, NotAModel, shown
from enginebench_models.safetensors_header import Json, parse_object

INDEX = "model.safetensors.index.json"
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
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


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights of a file or directory path."""
    if not path.exists():
        raise ModelNotFound(
            f"There is no file or directory {path}. Check the path, or name a catalogue model.", "no-such-path"
        )
    if not path.is_dir():
        return [path]
    shards, ggufs = shard_files(path), sorted(path.glob("*.gguf"))
    if shards:
        return shards
    if len(ggufs) > 1:
        names = ", ".join(file.name for file in ggufs)
        raise NotAModel(f"{path} holds {len(ggufs)} GGUF files ({names}); give the path of one of them.", "no-weights")
    if not ggufs:
        raise NotAModel(
            f"{path} holds neither a .gguf nor a .safetensors file; give the model's directory.", "no-weights"
        )
    return ggufs


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
    return buffer


def refuse_packed(buffer: memoryview, path: Path) -> None:
    """The ninth byte of a safetensors file is "{": its length may begin with any of these bytes."""
    first = bytes(buffer[:9])
    for magic, what in PACKED.items():
        if first.startswith(magic) and first[8:9] != b"{":
            raise NotAModel(f"{path} is {what}; nothing is unpacked. Give a GGUF or a safetensors file.", "packed-file")


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory: those of the index, else all there are."""
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    names = read_json(index).get("weight_map", {})
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InvalidModel(f"{index}: weight_map is {shown(names)}; file names by tensor were expected.", "index")
    shards = sorted(set(names.values()))
    limits.check(index, "shards", len(shards), limits.MAX_SHARDS, "index")
    return [shard(folder, name) for name in shards]


def shard(folder: Path, name: str) -> Path:
    if not SHARD_NAME.fullmatch(name):
        raise InvalidModel(
            f"{folder / INDEX} names the shard {shown(name)}; a plain file name was expected, NAME.safetensors.",
            "index",
        )
    if not (folder / name).is_file():
        raise ModelNotFound(
            f"{folder / INDEX} names the shard {name!r}, which is not there. Download it again.", "missing-file"
        )
    return folder / name


def read_json(path: Path) -> Json:
    limits.check(path, "bytes", path.stat().st_size, limits.MAX_JSON_BYTES, "json-file")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as cause:
        raise InvalidModel(f"{path} is not UTF-8: {cause}.", "json-file") from None
    except OSError as cause:
        raise InvalidModel(f"{path} cannot be read: {cause.strerror}.", "json-file") from None
    return parse_object(text, path, "json-file")
