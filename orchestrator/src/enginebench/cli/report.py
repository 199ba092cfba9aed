"""`enginebench report`: runs as one HTML page that loads nothing, and its plots as files."""

from __future__ import annotations

import gc
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from enginebench.errors import UsageError
from enginebench.report.html.page import Report, html
from enginebench.report.html.page import report as report_of
from enginebench.report.plots import drawing
from enginebench.store.run_folder import find_run

from .options import DEFAULT_RESULTS, RUN_HELP, ResultsOption, shown, stored_run


class Format(StrEnum):
    svg = "svg"
    png = "png"


def report(
    runs: Annotated[list[str], typer.Argument(help=f"{RUN_HELP}; of several, each is compared with the first")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the page")] = Path("report.html"),
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write each plot as a file into this folder")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="of the plots")] = Format.svg,
    results: ResultsOption = DEFAULT_RESULTS,
) -> None:
    """Write a self-contained HTML report of one run, or of several."""
    stored = [stored_run(find_run(run, results)) for run in runs]
    gc.freeze()  # the records stay to the end, and looking through them again and again was a sixth of the time
    found = report_of(stored)
    _write(output, html(found).encode(), "-o names another file")
    print(shown(output))
    if plots is not None:
        _write_plots(found, plots, form)


def _write_plots(found: Report, folder: Path, form: Format) -> None:
    for name, plot in found.plots():
        file = folder / f"{name}.{form}"
        _write(file, drawing.file(plot, form.value), "--plots names another folder")
        print(shown(file))


def _write(file: Path, content: bytes, remedy: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}; {remedy}") from None
