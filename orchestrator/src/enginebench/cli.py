"""The command line: `enginebench run | engines | models | show | conform`, and what maintains the workspace.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 all fine, 1 a case failed, 2 wrong usage,
3 inconclusive where a verdict was asked for.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from enginebench_models import catalogue
from enginebench_models.config import LlamaConfig
from enginebench_protocol.host import default_device, default_threads
from rich.console import Console

from . import discovery, environment, pins, table
from . import plan as planning
from .conformance import Check, run_conformance
from .discovery import ROOT, EngineInfo
from .errors import BenchError, UnavailableError, UsageError, unknown
from .new_engine import new_engine
from .progress import ProgressBar
from .result import read_result
from .run import Run, RunRequest, choose, find_model, plan_of

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

EXIT_FAILED, EXIT_USAGE = 1, 2
PIPED_WIDTH = 120
DEFAULT_RESULTS = ROOT / "results" / "runs"


class Weights(StrEnum):
    auto = "auto"
    real = "real"
    synthetic = "synthetic"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Output(StrEnum):
    table = "table"
    md = "md"
    json = "json"
    csv = "csv"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="how to print")]
ModelOption = Annotated[str, typer.Option(help="catalogue name, model file or directory")]
WeightsOption = Annotated[Weights, typer.Option(help="auto: real files where there are any, else synthetic")]


@app.command()
def run(
    engines: Annotated[list[str] | None, typer.Argument(help="ENGINE, ENGINE:CONFIGURATION or all")] = None,
    model: ModelOption = "llama3-1b",
    model_type: Annotated[str | None, typer.Option(help="refuse a file of another type")] = None,
    weights: WeightsOption = Weights.auto,
    preset: Annotated[str, typer.Option(help=", ".join(planning.PRESETS))] = "quick",
    n_prompt: Annotated[int | None, typer.Option(min=1, help="prompt tokens per request")] = None,
    n_gen: Annotated[int | None, typer.Option(min=1, help="generated tokens per request")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="measured requests per launch")] = None,
    time_budget: Annotated[float | None, typer.Option(min=1, help="seconds, after set-up")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="default: all of this machine")] = None,
    device: Device = Device.auto,
    seed: Annotated[int, typer.Option(help="of prompts and launch order")] = 0,
    results: Annotated[Path, typer.Option(help="where runs are kept", show_default="results/runs")] = DEFAULT_RESULTS,
    output: OutputOption = Output.table,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan, run nothing")] = False,
    python: Annotated[list[str] | None, typer.Option(help="engine-x=/path/to/python: use this interpreter")] = None,
    silence: Annotated[float, typer.Option(min=1, help="seconds an engine may be silent before it is killed")] = 1800.0,
    option: Annotated[list[str] | None, typer.Option(help="ENGINE.NAME=VALUE: a setting that only it has")] = None,
    ollama_host: Annotated[str | None, typer.Option(help="short for --option ollama.host=…")] = None,
) -> None:
    """Benchmark engines side by side: check each against the reference, then time it."""
    request = RunRequest(
        names=tuple(engines or ["all"]),
        model=model,
        model_type=model_type,
        weights=weights.value,
        preset=planning.preset(preset, n_prompt, n_gen, iterations, time_budget),
        device=default_device() if device is Device.auto else device.value,
        threads=threads or default_threads(),
        seed=seed,
        results=results,
        silence_seconds=silence,
        options=_options([*(option or []), *([f"ollama.host={ollama_host}"] if ollama_host else [])]),
        overrides=dict(_override(text) for text in python or []),
    )
    chosen = choose(request)
    with ProgressBar() as bar:
        found = find_model(model, weights.value, model_type, request.preset)
        if dry_run:
            _print_plan(plan_of(request, chosen, found), found.checkpoint.config, request.device)
            return
        session = Run(request, chosen, found, bar)
        path = session.execute()
    result = read_result(path)
    _print_result(result, output)
    print(f"raw data: {_shown(path)}", file=sys.stderr)
    if any(case["status"] in ("failed", "invalid") for case in result["cases"]):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def engines(output: OutputOption = Output.table) -> None:
    """List engines and configurations, and whether they can run on this machine."""
    rows = [_engine_row(info) for info in discovery.discover().values()]
    if output is Output.json:
        print(json.dumps({"engines": rows}, indent=2))
        return
    for row in rows:
        state = "available" if row["available"] else f"unavailable: {row['reason']}"
        print(f"{row['name']:<13} {row['role']:<11} {state}{'' if row['installed'] else ' (not installed yet)'}")
        for name, what in row["configurations"].items():
            print(f"  {row['name'] + ':' + name:<22} {what['description']}")


@app.command()
def models(output: OutputOption = Output.table) -> None:
    """List the models that have a name."""
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "description": entry.description,
            "parameters": entry.config.weight_elements(),
            "bytes_16_bit": 2 * entry.config.weight_elements(),
            "max_context": entry.config.max_context,
            "licence": entry.licence,
            "repository": entry.repository,
        }
        for entry in catalogue.entries().values()
    ]
    if output is Output.json:
        print(json.dumps({"models": rows}, indent=2))
        return
    for row in rows:
        size = f"{row['bytes_16_bit'] / 1e9:8.2f} GB in 16 bits"
        print(f"{row['name']:<12} {size}   context {row['max_context']:>7}   {row['description']}")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="run id, its folder, or a result.json")],
    output: OutputOption = Output.table,
    results: Annotated[Path, typer.Option(help="where runs are kept", show_default="results/runs")] = DEFAULT_RESULTS,
) -> None:
    """Print the table of an earlier run."""
    candidates = [results / run / "result.json", Path(run) / "result.json", Path(run)]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise unknown("run", run, [p.parent.name for p in results.glob("*/result.json")] or ["none yet"])
    _print_result(read_result(path), output)


@app.command()
def conform(
    engine: Annotated[str, typer.Argument(help="engine name, or the path of an executable that speaks the protocol")],
    model: ModelOption = "tiny",
    configuration: Annotated[str | None, typer.Option(help="default: the first one")] = None,
) -> None:
    """Run the conformance suite of the protocol against an engine."""
    found = find_model(model, "auto", None, planning.PRESETS["smoke"])
    checks = _conform(engine, found.located.path, configuration)
    for check in checks:
        print(f"{'pass' if check.passed else 'FAIL'}  {check.name}{'' if check.passed else ': ' + check.detail}")
    failed = [check for check in checks if not check.passed]
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed", file=sys.stderr)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _conform(engine: str, model_path: Path, configuration: str | None) -> list[Check]:
    infos = discovery.discover()
    if engine in infos:
        info = infos[engine]
        chosen = configuration or next(iter(info.configurations))
        if chosen not in info.configurations:
            raise unknown(f"configuration of {info.name}", chosen, info.configurations)
        interpreter = environment.prepare(info, {}, _say, extra=info.configurations[chosen].extra)
        command = [str(interpreter.python), "-m", info.module, "serve"]
        return run_conformance(command, model_path, info, configuration)
    if Path(engine).is_file():
        return run_conformance([str(Path(engine).resolve())], model_path, None, configuration)
    raise unknown("engine (or executable)", engine, infos)


@app.command()
def sync(engines: Annotated[list[str] | None, typer.Argument(help="default: all that can run here")] = None) -> None:
    """Install engine environments ahead of a run."""
    for info in {info.name: info for info, _ in discovery.select(engines or ["all"], discovery.discover())}.values():
        reason = discovery.unavailable_reason(info, None, default_device())
        for extra in discovery.environments(info):
            label = f"{info.name}+{extra}" if extra else info.name
            try:
                if reason:
                    raise UnavailableError(reason)
                environment.prepare(info, {}, _say, extra=extra)
                print(f"{label}: ready")
            except UnavailableError as error:
                print(f"{label}: unavailable: {error}")


@app.command(name="pins")
def pins_command(check: Annotated[bool, typer.Option("--check", help="fail on drift, write nothing")] = False) -> None:
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


@app.command(name="new-engine")
def new_engine_command(name: Annotated[str, typer.Argument(help="lower-case letters, digits and dashes")]) -> None:
    """Write packages/engine-NAME from the template and add it to the conflict set."""
    for path in new_engine(name, ROOT):
        print(path.relative_to(ROOT))


def _options(texts: list[str]) -> dict[str, dict[str, str]]:
    """Engine → name → value. Raises UsageError with the near match."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        engine, dot, setting = name.partition(".")
        if not (equals and dot and value):
            raise UsageError(f"--option {text!r}: write ENGINE.NAME=VALUE, like ollama.host=127.0.0.1:11434")
        known = {f"{info.name}.{own}" for info in discovery.discover().values() for own in info.options}
        if name not in known:
            raise unknown("option", name, known)
        found.setdefault(engine, {})[setting] = value
    return found


def _override(text: str) -> tuple[str, Path]:
    package, _, path = text.partition("=")
    if not path or not Path(path).is_file():
        raise UsageError(f"--python {text!r}: write engine-x=/path/to/python, with an interpreter that exists")
    return package, Path(path)


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


def _print_plan(plan: planning.Plan, config: LlamaConfig, device: str) -> None:
    workload, preset = plan.preset.workload, plan.preset
    print(f"{plan.cases[0].model}  {workload.name}  preset {preset.name}: one check launch per case, then")
    print(f"{preset.launches} launches x ({preset.warmup} warm-up + {preset.iterations} measured) requests of")
    for case in plan.cases:
        print(f"  {case.label}")
    minutes = planning.rough_seconds(plan, config, device) / 60
    print(f"about {minutes:.0f} min after set-up, if the machine is as fast as assumed; a run measures its own pilot")


def _print_result(result: dict[str, Any], output: Output) -> None:
    if output is Output.table:
        console = Console()
        (console if console.is_terminal else Console(width=PIPED_WIDTH)).print(table.rich_table(result))
    else:
        print({Output.md: table.markdown, Output.json: table.to_json, Output.csv: table.to_csv}[output](result))


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> None:
    """The script `enginebench`."""
    try:
        app()
    except BenchError as error:
        print(f"enginebench: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
