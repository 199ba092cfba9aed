"""`enginebench engines | show`: what there is, and what was measured."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from enginebench_protocol.host import default_device

from enginebench.report.cold_start import cold_start_text
from enginebench.report.formats import Output, Sheet
from enginebench.report.profile import kernel_sheet
from enginebench.report.terminal_bars import bar_lines
from enginebench.store.run_folder import find_run
from enginebench.workspace import discovery, environment
from enginebench.workspace.discovery import EngineInfo

from .options import (
    DEFAULT_RESULTS,
    RUN_HELP,
    OutputOption,
    ResultsOption,
    TimingOption,
    console,
    print_result,
    print_sheet,
    stored_run,
)


def engines(output: OutputOption = Output.table) -> None:
    """List engines and configurations, and whether they can run on this machine."""
    rows = [_engine_row(info) for info in discovery.discover().values()]
    if output is Output.json:
        print(json.dumps({"engines": rows}, indent=2))
        return
    if output is not Output.table:
        print_sheet(_configurations(rows), output)
        return
    for row in rows:
        state = "available" if row["available"] else f"unavailable: {row['reason']}"
        print(f"{row['name']:<13} {row['role']:<11} {state}{'' if row['installed'] else ' (not installed yet)'}")
        for name, what in row["configurations"].items():
            print(f"  {row['name'] + ':' + name:<22} {what['description']}")


def show(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    output: OutputOption = Output.table,
    results: ResultsOption = DEFAULT_RESULTS,
    timing: TimingOption = False,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="what a cold start is made of, time to N tokens, break-even points")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="the kernels of its profiled cases")] = False,
    plots: Annotated[bool, typer.Option("--plots", help="bars of decode rate and time to first token")] = False,
) -> None:
    """Print the table of an earlier run."""
    place = find_run(run, results)
    stored = stored_run(place)
    if cold_start:
        print(cold_start_text(stored.result))
        return
    if plots:
        print("\n".join(bar_lines(stored.result, console().width)))
        return
    if profile:
        print_sheet(kernel_sheet(place if place.is_dir() else place.parent), output)
        return
    print_result(stored.result, output, timing)


def _configurations(engines: list[dict[str, Any]]) -> Sheet:
    """One row per configuration."""
    kept = ("role", "available", "installed", "gpu")
    rows = [
        {"engine": row["name"], **{name: row[name] for name in kept}, "configuration": name, **configuration}
        for row in engines
        for name, configuration in row["configurations"].items()
    ]
    return Sheet.of("engines", rows)


def _engine_row(info: EngineInfo) -> dict[str, Any]:
    reason = discovery.unavailable_reason(info, None, default_device())
    return {
        "name": info.name,
        "role": info.role,
        "description": info.description,
        "available": reason is None,
        "reason": reason,
        "installed": any(environment.is_synced(info, extra=extra) for extra in discovery.environments(info)),
        "formats": info.formats,
        "gpu": info.gpu,
        "configurations": {
            name: {
                "description": c.description,
                "precision": c.precision,
                "in_all": c.in_all,
                "reason": discovery.unavailable_reason(info, name, default_device()),
            }
            for name, c in info.configurations.items()
        },
    }
