"""`enginebench doctor`: is this machine fit to measure on? Every noise gate, what it saw, and what to do."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from enginebench.machine.examination import examine
from enginebench.machine.gates import Finding
from enginebench.machine.sandbox import in_force

from .basics import EXIT_FAILED

WORDS = {"ok": "ok", "warn": "warn", "invalid": "would invalidate", "unreadable": "cannot be read here"}


class Form(StrEnum):
    table = "table"
    json = "json"


def doctor(
    output: Annotated[Form, typer.Option("--output", "-o", help="how to print")] = Form.table,
    seconds: Annotated[float, typer.Option(min=0.5, help="how long to watch the counters")] = 2.0,
) -> None:
    """Look at everything that spoils a measurement. Exit code 1 if a run would be invalid here as things stand."""
    found = examine(seconds)
    if output is Form.json:
        told = {"gates": [as_row(finding) for finding in found], "sandbox": in_force()}
        print(json.dumps(told, indent=2))
    else:
        print("\n".join(line for finding in found for line in as_lines(finding)))
        print("\n".join(f"{'':<19} {'sandbox':<21} {who}: {what}" for who, what in in_force().items()))
        print(_tally(found), file=sys.stderr)
    if any(finding.state == "invalid" for finding in found):
        raise typer.Exit(EXIT_FAILED)


def as_row(finding: Finding) -> dict[str, str]:
    gate = finding.gate
    return {
        "gate": gate.name,
        "state": finding.state,
        "severity": gate.severity,
        "seen": finding.sight.seen,
        "why": gate.why,
        "remedy": gate.remedy,
    }


def as_lines(finding: Finding) -> list[str]:
    """One line; where the gate fired, two more with the reason and the remedy."""
    lines = [f"{WORDS[finding.state]:<19} {finding.gate.name:<21} {finding.sight.seen}"]
    if finding.sight.fired:
        lines += [f"{'':<19} why: {finding.gate.why}", f"{'':<19} do:  {finding.gate.remedy}"]
    return lines


def _tally(found: list[Finding]) -> str:
    counts = {state: sum(finding.state == state for finding in found) for state in WORDS}
    return ", ".join(f"{count} {WORDS[state]}" for state, count in counts.items())
