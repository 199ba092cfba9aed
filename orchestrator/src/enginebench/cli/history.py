"""`enginebench history`: one case over all stored runs."""

from __future__ import annotations

from typing import Annotated

import typer

from enginebench.judge import history as judged
from enginebench.judge.rows import rows_of
from enginebench.report import history as report
from enginebench.report.formats import Output
from enginebench.store.index import open_index

from .basics import say
from .options import DEFAULT_RESULTS, OutputOption, ResultsOption, console


def history(
    case: Annotated[str, typer.Argument(help="ENGINE:CONFIGURATION, with /MODEL/WORKLOAD where there are several")],
    metric: Annotated[str, typer.Option(help="a name of the table metrics")] = "decode_tps",
    machine: Annotated[str, typer.Option(help="part of its name; default: that of the newest run")] = "",
    last: Annotated[int, typer.Option(min=1, help="rows of the table")] = 30,
    results: ResultsOption = DEFAULT_RESULTS,
    output: OutputOption = Output.table,
) -> None:
    """Follow one case over time, and find where its level stepped."""
    with open_index(results, rows_of, say) as connection:
        found = judged.history(connection, case, metric, machine)
    if output is Output.table:
        console().print(report.terminal(found, last))
    else:
        print(report.text(found, output, last))
