"""Where runs are kept: one folder each, below a results folder. Finds them by what a user may type."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from enginebench.errors import UsageError

NEWEST = 5
RESULT, JOURNAL = "result.json", "journal"


def find_run(name: str, results: Path) -> Path:
    """The folder of a run, or a result.json that stands alone. `name`: a run id or its unique beginning, a folder, a
    file, or `latest`. Raises UsageError with the near match.
    """
    for folder in (results / name, Path(name)):
        if is_run(folder):
            return folder
    if Path(name).is_file():
        return _folder_of(Path(name))
    known = run_names(results)
    if name == "latest" and known:
        return results / known[-1]
    found = [run for run in known if name and run.startswith(name)]
    if len(found) > 1:
        raise UsageError(f"run {name!r} begins {len(found)} names: {', '.join(found[:5])}; write more of it")
    if not found:
        raise _unknown(name, known)
    return results / found[0]


def _unknown(name: str, known: list[str]) -> UsageError:
    """There may be thousands: the near match among all, and the newest."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    newest = f"the newest are {', '.join(known[: -NEWEST - 1 : -1])}" if known else "there are none yet"
    return UsageError(f"unknown run {name!r}: {hint}{newest}")


def is_run(folder: Path) -> bool:
    return (folder / RESULT).is_file() or (folder / JOURNAL).is_file()


def run_names(results: Path) -> list[str]:
    """Names of the runs' folders, oldest first: they begin with their date."""
    return sorted(folder.name for folder in _folders(results) if is_run(folder))


def _folders(results: Path) -> Iterator[Path]:
    return (entry for entry in results.iterdir() if entry.is_dir()) if results.is_dir() else iter(())


def _folder_of(file: Path) -> Path:
    """A run's own file stands for its folder."""
    return file.parent if file.name in (RESULT, JOURNAL) else file
