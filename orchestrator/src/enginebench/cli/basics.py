"""What most commands need of each other, without what prints results: `chat` and `prompt` start at once."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from enginebench.plain_text import for_terminal

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
WeightsOption = Annotated[Weights, typer.Option(help="auto: real files where there are any, else synthetic")]


def say(text: str) -> None:
    """What an engine or a file said may be in it."""
    print(for_terminal(text), file=sys.stderr)
