"""`enginebench prompt`: one question, the answer on stdout and nothing else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from enginebench_protocol.errors import EngineFailure

from enginebench.chat.beginning import process_began_ns
from enginebench.chat.choice import Choice, choose
from enginebench.chat.living_engine import EngineDied, started
from enginebench.chat.settings import DEFAULT_N_GEN, DEFAULT_TEMPERATURE, Settings
from enginebench.errors import UsageError
from enginebench.plain_text import for_terminal
from enginebench.report.turn import NO_TEMPLATE, meaningless

from . import talking
from .basics import (
    DEFAULT_MODEL,
    EXIT_FAILED,
    DebugOption,
    Device,
    ModelOption,
    PythonOption,
    Weights,
    WeightsOption,
    say,
)

if TYPE_CHECKING:  # it brings NumPy
    from enginebench.chat.single import Spoken


def prompt(
    text: Annotated[str, typer.Argument(help="the prompt; - reads it from stdin")],
    engine: talking.EngineOption = None,
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = Weights.auto,
    temperature: talking.TemperatureOption = DEFAULT_TEMPERATURE,
    seed: talking.SeedOption = None,
    timing: talking.TimingOption = False,
    n_gen: talking.NGenOption = DEFAULT_N_GEN,
    n_ctx: talking.NCtxOption = None,
    plain: talking.PlainOption = False,
    threads: talking.ThreadsOption = None,
    device: Device = Device.auto,
    model_type: talking.ModelTypeOption = None,
    shard: talking.ShardOption = 1,
    python: PythonOption = None,
    debug: DebugOption = False,
) -> None:
    """Answer one prompt. The answer goes to stdout, everything else to stderr."""
    settings = talking.settings(
        model, weights, temperature, seed, n_gen, n_ctx, plain, threads, device, python, debug, model_type, shard
    )
    if not text.strip():
        raise UsageError('the prompt is empty: write enginebench prompt "…", or - to read it from stdin')
    choice = choose(engine, settings.device)
    try:
        spoken = _spoken(choice, settings, text)
    except BrokenPipeError:  # the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end of the program
        return
    except (EngineFailure, EngineDied) as error:
        talking.tell_failure(choice.label, error, debug)
        raise typer.Exit(EXIT_FAILED) from None
    if spoken.model.synthetic:
        say(meaningless(spoken.model.found.name))
    if not spoken.templated and not plain:
        say(NO_TEMPLATE)
    if timing:
        from enginebench.chat.timing import lines  # noqa: PLC0415 - only here

        print("\n".join(lines(spoken, process_began_ns())), file=sys.stderr)


def _spoken(choice: Choice, settings: Settings, text: str) -> Spoken:
    progress = talking.progress()
    with started(choice, settings, progress) as engine:
        from enginebench.chat.single import answer  # noqa: PLC0415 - NumPy and all, while the engine starts

        spoken = answer(engine, settings, lambda: _read(text), _write, progress)
        _write("\n")
        return spoken


def _read(text: str) -> str:
    """Raises UsageError for what is not text."""
    if text != "-":
        return text
    try:
        read = sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8 text: byte {error.object[error.start]:#x} at {error.start}") from None
    if not read.strip():
        raise UsageError("stdin was empty: nothing to answer")
    return read


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text if not sys.stdout.isatty() else for_terminal(text))
        sys.stdout.flush()
