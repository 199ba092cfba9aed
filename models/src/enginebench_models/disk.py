"""Writing what is large or shared: is there room, does nobody else write it, and is it never half there."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from enginebench_models.errors import NoRoom


def check_room(what: str, needed_bytes: int, folder: Path) -> None:
    """Asked before the first byte. Raises NoRoom. `folder` must exist."""
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise NoRoom(
            f"{what} takes {needed_bytes / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free. "
            "Make room or use a smaller model."
        )


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """One at a time, also between processes; the kernel gives the lock back whatever becomes of us."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name, which takes `path` when all is written and is removed when that fails.

    Its folder must exist.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
