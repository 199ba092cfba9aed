"""Is there room on the disk for a model that is about to be written? Asked before the first byte."""

import shutil
from pathlib import Path

from enginebench_models.errors import NoRoom


def check_room(what: str, needed_bytes: int, folder: Path) -> None:
    """Raises NoRoom. `folder` must exist."""
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise NoRoom(
            f"{what} takes {needed_bytes / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free. "
            "Make room or use a smaller model."
        )
