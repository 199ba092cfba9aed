"""`enginebench chat`: questions and answers, with one engine or several side by side."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from enginebench.chat.chat import Chat
from enginebench.chat.settings import DEFAULT_N_GEN, DEFAULT_TEMPERATURE
from enginebench.chat.terminal import Terminal
from enginebench.errors import UsageError

from . import talking
from .basics import DEFAULT_MODEL, EXIT_FAILED, DebugOption, Device, ModelOption, PythonOption, Weights, WeightsOption


def chat(
    engines: Annotated[
        list[str] | None, typer.Argument(help="ENGINE or ENGINE:CONFIGURATION; several: all answer")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = Weights.auto,
    temperature: talking.TemperatureOption = DEFAULT_TEMPERATURE,
    seed: talking.SeedOption = None,
    timing: talking.TimingOption = False,
    compare: Annotated[bool, typer.Option("--compare", help="two engines or more answer side by side")] = False,
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
    """Talk to a model through an engine; Ctrl-C stops an answer, Ctrl-D ends."""
    names = engines or []
    if compare and len(names) < 2:
        raise UsageError("--compare needs two engines or more: enginebench chat --compare ENGINE ENGINE")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("chat needs a terminal; from a pipe: enginebench prompt -")
    settings = talking.settings(
        model, weights, temperature, seed, n_gen, n_ctx, plain, threads, device, python, debug, model_type, shard
    )
    room = Chat(settings, names, talking.progress())
    room.timing = timing
    try:
        room.open()
        if len(room.troubles) == len(room.partners):
            for partner, error in room.troubles:
                talking.tell_failure(partner.choice.label, error, debug)
            raise typer.Exit(EXIT_FAILED)
        Terminal(room).run()
    finally:
        room.close()
