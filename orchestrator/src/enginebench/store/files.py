"""The operations by which results reach the disk, one function each.

Tests put a disk in their place that fails, or loses its power, at any of them. What they are called for, and what an
error of theirs means, is the business of `journal`, `result` and `manifest`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from enginebench.errors import BenchError, StorageError


def create(path: Path) -> int:
    """A descriptor to append to a new file. Raises FileExistsError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)


def reopen(path: Path) -> int:
    """A descriptor to append to a file that exists."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)


def scratch(path: Path) -> int:
    """A descriptor of an empty file; what a crash has left under that name is gone."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)


def lock(descriptor: int) -> bool:
    """Until it is closed, or its process dies, nobody else gets this lock. False: somebody has it.

    Raises BenchError where the file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise BenchError(f"the folder of results knows no locks ({error.strerror}): take another, --results") from None
    return True


def write(descriptor: int, data: memoryview) -> int:
    """How many bytes were taken: perhaps not all."""
    return os.write(descriptor, data)


def sync(descriptor: int) -> None:
    os.fsync(descriptor)


def truncate(descriptor: int, size: int) -> None:
    os.ftruncate(descriptor, size)


def close(descriptor: int) -> None:
    os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    old.replace(new)


def remove(path: Path) -> None:
    """Nothing where there is nothing."""
    path.unlink(missing_ok=True)


def make(folder: Path) -> None:
    """Raises FileExistsError."""
    folder.mkdir()


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- of more than one operation -------------------------------------------------------------------------------


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[write(descriptor, rest) :]


def make_folder(path: Path) -> None:
    """With what is missing above it, each name durable. Raises FileExistsError."""
    if not path.parent.exists():
        make_folder(path.parent)
    make(path)
    sync_folder(path.parent)


FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
"""What is the disk's fault, not the program's."""


def failed(error: OSError, what: str, folder: Path) -> StorageError:
    """`what` was to be done."""
    return StorageError(f"cannot {what} in {folder}: {error.strerror or error}")
