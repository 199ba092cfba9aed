"""What several commands share: their options, how a stored run is read, and how a result is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from enginebench.judge.stored_run import StoredRun, read_run
from enginebench.report import requests, table
from enginebench.report.benchstat import benchstat
from enginebench.report.case_sheet import case_sheet
from enginebench.report.formats import Output, Sheet, rendered, text_table
from enginebench.workspace.discovery import ROOT

from .basics import DEFAULT_MODEL, say

PIPED_WIDTH = 120
RUN_HELP = "run id or its beginning, `latest`, a run's folder, or a result.json"
DEFAULT_RESULTS = ROOT / "results" / "runs"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="how to print")]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "--model-path",
        help="catalogue name, model file or directory; several times",
        show_default=DEFAULT_MODEL,
    ),
]
TimingOption = Annotated[bool, typer.Option("--timing", help="every request too, not only what follows from them")]
ResultsOption = Annotated[Path, typer.Option(help="where runs are kept", show_default="results/runs")]


def stored_run(place: Path) -> StoredRun:
    """What there is to say of how it was read goes to stderr."""
    run = read_run(place)
    for remark in run.remarks:
        say(remark)
    return run


def print_result(result: dict[str, Any], output: Output, timing: bool = False) -> None:
    """`timing`: with every request, as `-o json` always has it."""
    if timing and output in (Output.jsonl, Output.csv, Output.sql, Output.benchstat):
        print(rendered(requests.request_sheet(result), output))
        return
    _print_cases(result, output)
    if timing and output is not Output.json:
        print_sheet(requests.request_table(result), output)


def _print_cases(result: dict[str, Any], output: Output) -> None:
    if output is Output.table:
        console().print(table.rich_table(result))
    elif output is Output.benchstat:
        print(benchstat(result))
    elif output in (Output.md, Output.json):
        print({Output.md: table.markdown, Output.json: table.to_json}[output](result))
    else:
        print(rendered(case_sheet(result), output))


def print_sheet(sheet: Sheet, output: Output) -> None:
    if output is Output.table:
        console().print(text_table(sheet))
    else:
        print(rendered(sheet, output))


def console() -> Console:
    """As wide as the terminal; of a fixed width where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=PIPED_WIDTH)


def listed(texts: list[str] | None) -> tuple[str, ...]:
    """What was given several times, or with commas."""
    return tuple(name for text in texts or () for name in text.split(",") if name)


def shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
