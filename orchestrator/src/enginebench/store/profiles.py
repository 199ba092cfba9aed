"""What profiled launches leave in the folder of a run: profiles/CASE/, one trace of the engine's own and one of memory.

Names and files come from an engine: a name may hold no folder, and only a file of the launch's scratch folder is taken.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

FOLDER = "profiles"
MEMORY, TRACE = "memory.json", "trace.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class BadProfile(ValueError):
    """The engine named something that is not a file of its launch."""


def folder_of(run: Path, case_id: str) -> Path:
    return run / FOLDER / re.sub(r"[^A-Za-z0-9.+@-]+", "-", case_id)


def keep(files: Mapping[str, str], scratch: Path, folder: Path) -> None:
    """Copy the files of a launch. Raises BadProfile."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, given in files.items():
        path = Path(given)
        if not _NAME.fullmatch(name):
            raise BadProfile(f"the engine calls a file of its profile {name!r}: no name of letters, digits and . _ -")
        if path.is_symlink() or not path.is_file() or not path.resolve().is_relative_to(scratch.resolve()):
            raise BadProfile(f"{name} of the profile is not a file in the launch's own folder")
        shutil.copyfile(path, folder / name)


def found(run: Path) -> dict[str, Path]:
    """Case, as in `folder_of` → its folder; empty for a run without profiles."""
    return {path.name: path for path in sorted((run / FOLDER).glob("*")) if path.is_dir()}
