"""`enginebench selftest`: how often the suite itself is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enginebench.errors import unknown
from enginebench.selftest.page import Part, write_page
from enginebench.selftest.parts import PARTS, Effort
from enginebench.store.record import Workload

from .basics import EXIT_FAILED, ModelOption, say


def selftest(
    parts: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(PARTS)}; default: all")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="comparisons of each kind by real launches")] = 20,
    launches: Annotated[int, typer.Option(min=3, help="launches on each side of a comparison")] = 10,
    experiments: Annotated[int, typer.Option(min=100, help="simulated experiments of each kind")] = 5000,
    engine: Annotated[str | None, typer.Option(help="ENGINE:CONFIGURATION: an A/A test of a real engine too")] = None,
    model: ModelOption = "tiny",
    n_prompt: Annotated[int, typer.Option("--n-prompt", "-p", min=1, help="of the A/A test")] = 128,
    n_gen: Annotated[int, typer.Option("--n-gen", "-n", min=2, help="of the A/A test")] = 128,
    write: Annotated[Path | None, typer.Option(help="write selftest.md and selftest.json into this folder")] = None,
) -> None:
    """Measure the suite's own errors: false verdicts, slow-downs found, coverage, gates, cost of measuring."""
    for name in parts or []:
        if name not in PARTS:
            raise unknown("part of the self-test", name, PARTS)
    effort = Effort(pairs, launches, experiments, engine, model, Workload(n_prompt=n_prompt, n_gen=n_gen))
    measured: dict[str, Part] = {}
    for name in parts or [n for n in PARTS if n != "engine" or engine]:
        say(f"measuring {name}")
        measured[name] = PARTS[name](effort, say)
        for row in measured[name].rows:
            target = f" (target {row.target})" if row.target else ""
            print(f"{'ok  ' if row.passed else 'MISS'}  {row.what}: {row.value}{target}")
    if write is not None:
        write_page(write, measured)
    if not all(row.passed for part in measured.values() for row in part.rows):
        raise typer.Exit(EXIT_FAILED)
