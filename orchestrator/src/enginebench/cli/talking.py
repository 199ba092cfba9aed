"""The options of `chat` and `prompt`, and what both say on stderr."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from enginebench_protocol.host import default_device, default_threads

from enginebench.chat.living_engine import EngineDied, Say
from enginebench.chat.settings import DEFAULT_N_CTX, Settings
from enginebench.machine.devices import check_device, device_count
from enginebench.plain_text import printable
from enginebench.plan.sharding import check_devices

from .basics import Device, Weights, interpreters, say

LAST_LINES = 5

EngineOption = Annotated[str | None, typer.Option(help="ENGINE or ENGINE:CONFIGURATION; default: one installed")]
TemperatureOption = Annotated[float, typer.Option(min=0, max=10, help="0: always the likeliest token")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="of the draws; default: another one each time")]
TimingOption = Annotated[bool, typer.Option("--timing", help="where the time went, per token, on stderr")]
NGenOption = Annotated[int, typer.Option("--n-gen", "-n", min=1, help="the longest answer, in tokens")]
NCtxOption = Annotated[int | None, typer.Option(min=2, help="positions to hold", show_default=str(DEFAULT_N_CTX))]
PlainOption = Annotated[bool, typer.Option("--plain", help="the text as it stands, without the model's chat template")]
ModelTypeOption = Annotated[str | None, typer.Option(help="refuse a model of another type")]
ShardOption = Annotated[int, typer.Option(min=1, help="devices (on the CPU: ranks) that share the model")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", "-t", min=1, help="default: all of this machine")]


def settings(
    model: str,
    weights: Weights,
    temperature: float,
    seed: int | None,
    n_gen: int,
    n_ctx: int | None,
    plain: bool,
    threads: int | None,
    device: Device,
    python: list[str] | None,
    debug: bool,
    model_type: str | None,
    shards: int,
) -> Settings:
    chosen = default_device() if device is Device.auto else device.value
    check_device(chosen)
    check_devices(shards, chosen, device_count(chosen) if shards > 1 else None)
    return Settings(
        model=model,
        model_type=model_type,
        shards=shards,
        weights=weights.value,
        device=chosen,
        threads=threads or default_threads(),
        temperature=temperature,
        seed=seed,
        n_gen=n_gen,
        n_ctx=n_ctx,
        plain=plain,
        debug=debug,
        overrides=interpreters(python),
    )


def progress() -> Say:
    """One line that is written over, on a terminal; elsewhere nothing but what takes minutes."""
    if not sys.stderr.isatty():
        return lambda text: say(text) if text.startswith("installing") else None

    def on_one_line(text: str) -> None:
        print(f"\r\x1b[2K{printable(text)}", end="", file=sys.stderr, flush=True)

    return on_one_line


def tell_failure(label: str, error: Exception, debug: bool) -> None:
    """What happened to the engine, and its last words."""
    say(f"enginebench: {label}: {error}")
    lines = error.last_lines if isinstance(error, EngineDied) else []
    for line in lines if debug else lines[-LAST_LINES:]:
        say(f"  {line}")
