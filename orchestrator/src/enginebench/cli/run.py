"""`enginebench run`: benchmark engines side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from enginebench_models.config import LlamaConfig
from enginebench_protocol.host import default_device, default_threads

from enginebench.errors import UsageError, unknown
from enginebench.plan import plan as planning
from enginebench.run.progress import ProgressBar
from enginebench.run.run import Run, RunRequest, choose, find_model, plan_of
from enginebench.store.result import read_result
from enginebench.workspace import discovery

from .options import (
    DEFAULT_RESULTS,
    EXIT_FAILED,
    Device,
    ModelOption,
    Output,
    OutputOption,
    ResultsOption,
    Weights,
    WeightsOption,
    print_result,
    shown,
)


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
    results: ResultsOption = DEFAULT_RESULTS,
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
        command=tuple(sys.argv[1:]),
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
    print_result(result, output)
    print(f"raw data: {shown(path)}", file=sys.stderr)
    if any(case["status"] in ("failed", "invalid") for case in result["cases"]):
        raise typer.Exit(EXIT_FAILED)


def _print_plan(plan: planning.Plan, config: LlamaConfig, device: str) -> None:
    workload, preset = plan.preset.workload, plan.preset
    print(f"{plan.cases[0].model}  {workload.name}  preset {preset.name}: one check launch per case, then")
    print(f"{preset.launches} launches x ({preset.warmup} warm-up + {preset.iterations} measured) requests of")
    for case in plan.cases:
        print(f"  {case.label}")
    minutes = planning.rough_seconds(plan, config, device) / 60
    print(f"about {minutes:.0f} min after set-up, if the machine is as fast as assumed; a run measures its own pilot")


def _options(texts: list[str]) -> dict[str, dict[str, str]]:
    """Engine → name → value. Raises UsageError with the near match."""
    known = {f"{info.name}.{own}" for info in discovery.discover().values() for own in info.options}
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        engine, dot, setting = name.partition(".")
        if not (equals and dot and value):
            raise UsageError(f"--option {text!r}: write ENGINE.NAME=VALUE, like ollama.host=127.0.0.1:11434")
        if name not in known:
            raise unknown("option", name, known)
        found.setdefault(engine, {})[setting] = value
    return found


def _override(text: str) -> tuple[str, Path]:
    package, _, path = text.partition("=")
    if not path or not Path(path).is_file():
        raise UsageError(f"--python {text!r}: write engine-x=/path/to/python, with an interpreter that exists")
    return package, Path(path)
