"""`enginebench --version`: the version and the commit that it was run from."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from enginebench.machine.repository import repository
from enginebench.workspace.discovery import ROOT

COMMIT_DIGITS = 12


def version_text(root: Path = ROOT) -> str:
    """`modified`: there are changes that no commit holds."""
    found = repository(root)
    if found is None or found.commit is None:
        checkout = "no commit is known: not run from a repository"
    else:
        checkout = f"commit {found.commit[:COMMIT_DIGITS]}{', modified' if found.dirty else ''}"
    return f"enginebench {version('enginebench')} ({checkout})"


def _print_version(asked: bool) -> None:
    if asked:
        print(version_text())
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="version and commit")
]
