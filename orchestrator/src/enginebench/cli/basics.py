"""What most commands need of each other, without what prints results: `chat` and `prompt` start at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from enginebench.errors import UsageError, unknown
from enginebench.plain_text import for_terminal
from enginebench.workspace.discovery import discover

EXIT_FAILED, EXIT_INCONCLUSIVE = 1, 3
DEFAULT_MODEL = "llama3-1b"


class Weights(StrEnum):
    auto = "auto"
    real = "real"
    synthetic = "synthetic"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DebugOption = Annotated[bool, typer.Option("--debug", help="protocol frames, engines' stderr, where a fault happened")]
ModelOption = Annotated[str, typer.Option(help="catalogue name, model file or directory")]
PythonOption = Annotated[list[str] | None, typer.Option(help="engine-x=/path/to/python: use this interpreter")]
WeightsOption = Annotated[Weights, typer.Option(help="auto: real files where there are any, else synthetic")]


def say(text: str) -> None:
    """What an engine or a file said may be in it."""
    print(for_terminal(text), file=sys.stderr)


def interpreters(texts: Sequence[str] | None) -> dict[str, Path]:
    """Package or engine → what was given with --python. Raises UsageError."""
    return dict(_interpreter(text) for text in texts or ())


def _interpreter(text: str) -> tuple[str, Path]:
    package, _, path = text.partition("=")
    if not path or not Path(path).is_file():
        raise UsageError(f"--python {text!r}: write engine-x=/path/to/python, with an interpreter that exists")
    infos = discover().values()
    if package not in [name for info in infos for name in (info.package, info.name)]:
        raise unknown("package of --python", package, [info.package for info in infos])
    return package, Path(path)
