"""Before a model is written: is there room, and does nobody else write it?"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
