"""What lies in the cache folder: real models, synthetic ones, and downloads that broke off."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from enginebench_models.catalogue import entries
from enginebench_models.synthetic_weights import RECIPE

UNFINISHED = ".unfinished"
"""Below the cache folder: a folder for each download, NAME@COMMIT."""


@dataclass(frozen=True)
class Held:
    """`kind`: "real", "synthetic" or "unfinished"."""

    name: str
    kind: str
    path: Path
    size_bytes: int


def inventory(cache: Path) -> list[Held]:
    """Of catalogue names, and synthetic models of the recipe that is made today."""
    return [*_real(cache), *_synthetic(cache), *_unfinished(cache)]


def _real(cache: Path) -> Iterator[Held]:
    for name in entries():
        if (path := cache / name).exists():
            yield Held(name, "real", path, size_of(path))


def _synthetic(cache: Path) -> Iterator[Held]:
    for name in entries():
        if (path := synthetic_path(cache, name)).is_file():
            yield Held(name, "synthetic", path, size_of(path))


def synthetic_path(cache: Path, name: str) -> Path:
    return cache / "synthetic" / f"{name}-{RECIPE}.gguf"


def _unfinished(cache: Path) -> Iterator[Held]:
    for path in sorted((cache / UNFINISHED).glob("*@*")):
        if path.is_dir() and (name := path.name.partition("@")[0]) in entries():
            yield Held(name, "unfinished", path, size_of(path))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(map(_bytes_of, below if path.is_dir() else [path]))


def _bytes_of(file: Path) -> int:
    """0 for what is no file, or is gone: a download renames its parts."""
    try:
        found = file.stat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
