"""`enginebench validate`: is this model file sound? Asked in a process of its own, as before every run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from enginebench_models.rules import RULES
from enginebench_models.validation import Verdict, validate_path

from enginebench.errors import UsageError
from enginebench.plain_text import for_terminal
from enginebench.report.formats import Output

from .basics import EXIT_FAILED
from .options import OutputOption


def validate(
    path: Annotated[Path, typer.Argument(help="a GGUF or safetensors file, or a model's directory")],
    output: OutputOption = Output.table,
) -> None:
    """Check a model file against the rules of its format, without any engine."""
    found = validate_path(path)
    if found.rule == "no-such-path":
        raise UsageError(found.message)
    print(for_terminal(_lines(found)) if output is Output.table else json.dumps(_facts(found), indent=2))
    if found.kind != "valid":
        raise typer.Exit(EXIT_FAILED)


def _facts(found: Verdict) -> dict[str, object]:
    return {**found.facts, "verdict": found.kind, "rule": found.rule or None, "message": found.message or None}


def _lines(found: Verdict) -> str:
    if found.kind != "valid":
        return f"{found.kind}: {found.message}\nrule {found.rule}: {RULES[found.rule]}"
    facts = found.facts
    head = f"valid: {facts['format']}, {facts['n_tensors']} weights, fingerprint {facts['fingerprint'][:16]}"
    files = [f"  {f['name']}  {f['size_bytes']:,} bytes, header {f['header_bytes']:,}" for f in facts["files"]]
    return "\n".join([head, *files])
