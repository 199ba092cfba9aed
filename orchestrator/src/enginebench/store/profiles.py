"""What profiled launches leave in the folder of a run: profiles/CASE/, one trace of the engine's own and one of memory.

Names and files come from an engine: names are plain, and only a file of the launch's scratch folder is taken.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from enginebench_models.plain_name import Stray, is_plain, own_file

FOLDER = "profiles"
MEMORY, TRACE = "memory.json", "trace.json"


class BadProfile(ValueError):
    """The engine named something that is not a file of its launch."""


def folder_of(run: Path, case_id: str) -> Path:
    return run / FOLDER / re.sub(r"[^A-Za-z0-9.+@-]+", "-", case_id)


def keep(files: Mapping[str, str], scratch: Path, folder: Path) -> None:
    """Copy the files of a launch. Raises BadProfile."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, given in files.items():
        if not is_plain(name):
            raise BadProfile(f"the engine calls a file of its profile {name!r}: no name of letters, digits and . _ -")
        try:
            path = own_file(given, scratch, f"{name} of the profile")
        except Stray as error:
            raise BadProfile(str(error)) from None
        shutil.copyfile(path, folder / name, follow_symlinks=False)


def found(run: Path) -> dict[str, Path]:
    """Case, as in `folder_of` → its folder; empty for a run without profiles."""
    return {path.name: path for path in sorted((run / FOLDER).glob("*")) if path.is_dir()}
