"""`enginebench compare`: two runs, and an exit code that says whether NEW is worse."""

from __future__ import annotations

from typing import Annotated

import typer

from enginebench.errors import UsageError
from enginebench.judge.regression import SPEED_LIMIT, Regression, compare_runs
from enginebench.report import regression
from enginebench.report.benchstat import benchstat
from enginebench.report.formats import Output
from enginebench.store.run_folder import find_run

from .basics import EXIT_FAILED, EXIT_INCONCLUSIVE
from .options import DEFAULT_RESULTS, RUN_HELP, OutputOption, ResultsOption, console, stored_run


def compare(
    base: Annotated[str, typer.Argument(help=RUN_HELP)],
    new: Annotated[str, typer.Argument(help=RUN_HELP)],
    fail_on_regression: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="ask for a verdict at this slow-down, like 2%; exit 3 if none")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="compare what is not comparable, and mark every row")] = False,
    results: ResultsOption = DEFAULT_RESULTS,
    output: OutputOption = Output.table,
) -> None:
    """Compare two runs. Exit 0: nothing is worse; 1: a regression; 2: not comparable; 3: asked for, but undecided."""
    limit = SPEED_LIMIT if fail_on_regression is None else share(fail_on_regression)
    before, after = (stored_run(find_run(name, results)) for name in (base, new))
    found = compare_runs(before, after, limit, force)
    _print(found, output)
    if found.outcome == "regression":
        raise typer.Exit(EXIT_FAILED)
    if found.outcome == "inconclusive" and fail_on_regression is not None:
        raise typer.Exit(EXIT_INCONCLUSIVE)


def _print(found: Regression, output: Output) -> None:
    if output is Output.table:
        console().print(regression.terminal(found))
    elif output is Output.benchstat:
        print(benchstat(found.base.result, found.new.result))
    else:
        print(regression.text(found, output))


def share(text: str) -> float:
    """2% → 0.02. Raises UsageError."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 < value < 1:
        raise UsageError(f"--fail-on-regression {text!r}: write a percentage above 0% and below 100%, like 2%")
    return value
