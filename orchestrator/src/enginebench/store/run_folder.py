"""Where runs are kept: one folder each, below a results folder. Finds them by what a user may type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from enginebench.errors import UsageError, unknown

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
        raise unknown("run", name, known[-20:] or ["none yet"])
    return results / found[0]


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
