"""What several commands share: their options, their exit codes, and how a result is printed."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from enginebench.report import table
from enginebench.report.benchstat import benchstat
from enginebench.report.formats import Output, Sheet, rendered, text_table
from enginebench.workspace.discovery import ROOT

EXIT_FAILED, EXIT_INCONCLUSIVE = 1, 3
PIPED_WIDTH = 120
RUN_HELP = "run id or its beginning, `latest`, a run's folder, or a result.json"
DEFAULT_MODEL = "llama3-1b"
DEFAULT_RESULTS = ROOT / "results" / "runs"


class Weights(StrEnum):
    auto = "auto"
    real = "real"
    synthetic = "synthetic"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="how to print")]
ModelOption = Annotated[str, typer.Option(help="catalogue name, model file or directory")]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="catalogue name, model file or directory; several times", show_default=DEFAULT_MODEL),
]
WeightsOption = Annotated[Weights, typer.Option(help="auto: real files where there are any, else synthetic")]
ResultsOption = Annotated[Path, typer.Option(help="where runs are kept", show_default="results/runs")]


def print_result(result: dict[str, Any], output: Output) -> None:
    if output is Output.table:
        console().print(table.rich_table(result))
    elif output is Output.benchstat:
        print(benchstat(result))
    elif output in (Output.md, Output.json):
        print({Output.md: table.markdown, Output.json: table.to_json}[output](result))
    else:
        print(rendered(table.case_sheet(result), output))


def print_sheet(sheet: Sheet, output: Output) -> None:
    if output is Output.table:
        console().print(text_table(sheet))
    else:
        print(rendered(sheet, output))


def console() -> Console:
    """As wide as the terminal; of a fixed width where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=PIPED_WIDTH)


def shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def say(text: str) -> None:
    print(text, file=sys.stderr)
