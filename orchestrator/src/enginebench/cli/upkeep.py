"""`enginebench conform | sync | pins | new-engine`: what keeps the workspace and its engines in order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from enginebench_protocol.host import default_device

from enginebench.conformance import Check, run_conformance
from enginebench.errors import UnavailableError, unknown
from enginebench.plain_text import printable
from enginebench.plan import plan as planning
from enginebench.plan.fit import Demand
from enginebench.run.guard import Watchdog
from enginebench.run.model import find_model, memory_here
from enginebench.run.process import become_subreaper
from enginebench.workspace import discovery, environment, pins
from enginebench.workspace.discovery import ROOT, EngineInfo
from enginebench.workspace.new_engine import new_engine as write_engine

from .basics import EXIT_FAILED, ModelOption, say


def conform(
    engine: Annotated[str, typer.Argument(help="engine name, or the path of an executable that speaks the protocol")],
    model: ModelOption = "tiny",
    configuration: Annotated[str | None, typer.Option(help="default: the first one")] = None,
) -> None:
    """Run the conformance suite of the protocol against an engine."""
    room = memory_here(default_device()).room(default_device(), 1)
    found = find_model(model, "auto", None, Demand((planning.PRESETS["smoke"].workload,), room_bytes=room))
    become_subreaper()
    with Watchdog() as watchdog:
        checks = _conform(engine, found.located.path, configuration, watchdog)
    for check in checks:
        detail = "" if check.passed else f": {printable(check.detail)}"
        print(f"{'pass' if check.passed else 'FAIL'}  {check.name}{detail}")
    failed = [check for check in checks if not check.passed]
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed", file=sys.stderr)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _conform(engine: str, model_path: Path, configuration: str | None, watchdog: Watchdog) -> list[Check]:
    infos = discovery.discover()
    if engine in infos:
        info = infos[engine]
        chosen = configuration or next(iter(info.configurations))
        if chosen not in info.configurations:
            raise unknown(f"configuration of {info.name}", chosen, info.configurations)
        interpreter = environment.prepare(info, {}, say, extra=info.configurations[chosen].extra, watchdog=watchdog)
        command = [str(interpreter.python), "-m", info.module, "serve"]
        return run_conformance(command, model_path, info, configuration, watchdog)
    if Path(engine).is_file():
        return run_conformance([str(Path(engine).resolve())], model_path, None, configuration, watchdog)
    raise unknown("engine (or executable)", engine, infos)


def sync(engines: Annotated[list[str] | None, typer.Argument(help="default: all that can run here")] = None) -> None:
    """Install engine environments ahead of a run."""
    infos = {info.name: info for info, _ in discovery.select(engines or ["all"], discovery.discover())}
    with Watchdog() as watchdog:
        for info in infos.values():
            _sync(info, watchdog)


def _sync(info: EngineInfo, watchdog: Watchdog) -> None:
    reason = discovery.unavailable_reason(info, None, default_device())
    for extra in discovery.environments(info):
        label = f"{info.name}+{extra}" if extra else info.name
        try:
            if reason:
                raise UnavailableError(reason)
            environment.prepare(info, {}, say, extra=extra, watchdog=watchdog)
            print(f"{label}: ready")
        except UnavailableError as error:
            print(f"{label}: unavailable: {error}")


def write_pins(check: Annotated[bool, typer.Option("--check", help="fail on drift, write nothing")] = False) -> None:
    """Write each engine's pins.txt: the exact versions and hashes that its pyproject resolves to."""
    pins.lock_afresh()
    stale = [info for info in discovery.discover().values() if pins.drifted(info)]
    for info in stale:
        print(f"{info.name}: {'drifted' if check else 'written'}")
        if not check:
            pins.pins_file(info).write_text(pins.resolved_pins(info))
    if check and stale:
        print("pins are stale: run `just pins` and commit", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED)


def new_engine(name: Annotated[str, typer.Argument(help="lower-case letters, digits and dashes")]) -> None:
    """Write packages/engine-NAME from the template and add it to the conflict set."""
    for path in write_engine(name, ROOT):
        print(path.relative_to(ROOT))
