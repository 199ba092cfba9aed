"""`enginebench models pull | remove`: put a catalogue model on this machine, or take it away."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer
from enginebench_models.catalogue import entry
from enginebench_models.errors import ModelError, ModelNotFound
from enginebench_models.inventory import inventory
from enginebench_models.pull import Download, downloaded, planned
from enginebench_protocol.host import cache_folder
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from enginebench.errors import UsageError
from enginebench.report.models import size

from .basics import EXIT_FAILED, say

BIG_BYTES = 10_000_000_000
"""From here on it is asked before it is downloaded."""
INTERRUPTED = 130
YesOption = Annotated[bool, typer.Option("--yes", help="do not ask")]
NameArgument = Annotated[str, typer.Argument(help="a name of the catalogue: enginebench models")]


def pull(name: NameArgument, yes: YesOption = False) -> None:
    """Download a model; a download that broke off goes on where it ended."""
    say(f"{name} is in {download(name, yes=yes)}")


def download(name: str, *, yes: bool = False) -> Path:
    """Its folder. Raises UsageError for a name that has nothing to download; ends the program where it fails."""
    cache = cache_folder() / "models"
    try:
        model = entry(name)
        if (cache / model.name).exists():
            return cache / model.name
        found = planned(model, cache)
        _agree(found, yes=yes)
        with Bar(found) as bar:
            return downloaded(found, bar.say)
    except ModelNotFound as error:
        raise UsageError(str(error)) from None
    except ModelError as error:
        say(f"enginebench: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        say("enginebench: stopped. What has arrived is kept: the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None


def remove(name: NameArgument, yes: YesOption = False) -> None:
    """Delete a downloaded model and unfinished downloads of it."""
    held = [each for each in inventory(cache_folder() / "models") if each.name == name and each.kind != "synthetic"]
    if not held:
        raise UsageError(f"nothing of {name!r} was downloaded; `enginebench models` lists what is here")
    what = ", ".join(f"{each.path} ({each.kind}, {size(each.size_bytes)})" for each in held)
    if not yes and not _answered(f"Delete {what}?"):
        raise typer.Exit(EXIT_FAILED)
    for each in held:
        _delete(each.path)


def _delete(path: Path) -> None:
    """Of a link, which leads to another disk, the link alone. Raises UsageError."""
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be deleted: {error.strerror or error}") from None


def _agree(found: Download, *, yes: bool) -> None:
    """Big downloads are asked about; where nobody can answer, --yes is the answer."""
    what = f"{found.entry.name}: {size(found.total_bytes)} from {found.source.repository} at {found.source.commit[:12]}"
    rest = found.missing_bytes
    say(what + (f", {size(rest)} of it missing" if rest < found.total_bytes else ""))
    if rest >= BIG_BYTES and not yes and not _answered("Download it?"):
        raise typer.Exit(EXIT_FAILED)


def _answered(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked here: say --yes")
    return typer.confirm(question, err=True)


class Bar:
    """On a terminal a bar with speed and time left; elsewhere a line for each file."""

    def __init__(self, found: Download) -> None:
        self.console = Console(stderr=True)
        self._file = ""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        here = found.total_bytes - found.missing_bytes
        self._task = self._bar.add_task("", total=found.total_bytes, completed=here)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, file: str, done: int) -> None:
        if file != self._file and not self.console.is_terminal:
            say(file)
        self._file = file
        self._bar.update(self._task, description=file, completed=done)
