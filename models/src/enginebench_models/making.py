"""A folder beside a target in which that is made, to be renamed to it: nobody ever finds half of it.

What was left by a maker that was killed is removed by the next one beside it. A lock, which the kernel takes back from
the dead, tells it from one at work.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PREFIX = ".making-"
YOUNG_SECONDS = 60.0
"""A folder is made before it is locked."""


@contextlib.contextmanager
def making(target: Path) -> Iterator[Path]:
    """An empty folder on the same file system; gone at the end, with what is still in it. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_abandoned(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target.parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: nobody removes anything there
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """One file that becomes `path` when all of it is written. Raises OSError."""
    with making(path) as folder:
        part = folder / path.name
        with part.open("wb") as file:
            yield file
        part.replace(path)


def _remove_abandoned(folder: Path) -> None:
    """Raises OSError where its maker is at work."""
    if time.time() - folder.lstat().st_mtime < YOUNG_SECONDS:
        return
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
