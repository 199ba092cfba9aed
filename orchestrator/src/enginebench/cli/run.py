"""`enginebench run`: benchmark engines side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from enginebench_protocol.host import default_device, default_threads

from enginebench.errors import UsageError, unknown
from enginebench.judge.plain_case import is_spoiled
from enginebench.judge.rows import rows_of
from enginebench.plain_text import printable
from enginebench.plan import plan as planning
from enginebench.plan.sweep import Sweep, asked_for, merged, read_sweep
from enginebench.plan.workload import counts, named
from enginebench.report.formats import Output
from enginebench.report.profile import kernel_sheet
from enginebench.run.model import find_models, located_models
from enginebench.run.progress import ProgressBar
from enginebench.run.run import Run, RunRequest, choose, demand_of, plan_of
from enginebench.store import profiles
from enginebench.store.index import keep_up
from enginebench.store.result import read_result
from enginebench.workspace import discovery

from .basics import DEFAULT_MODEL, EXIT_FAILED, EXIT_INCONCLUSIVE, DebugOption, Device, Weights, WeightsOption, say
from .dry_run import able_here, print_plan
from .options import (
    DEFAULT_RESULTS,
    ModelsOption,
    OutputOption,
    ResultsOption,
    TimingOption,
    listed,
    print_result,
    print_sheet,
    shown,
)

QUANTIZE_HELP = "int8 nf4 float16 …: of each engine the configurations that hold the weights so"
FAIR_HELP = "fair: ranks and verdicts within one precision class; else each engine as it comes out of the box"
TEMPERATURE_HELP = "of no effect here: a benchmark always takes the likeliest token"
GREEDY = "a benchmark always takes the likeliest token, so that all engines do the same work; it is for prompt and chat"
WORKLOAD_HELP = f"{', '.join(named())}, or pp512+tg128@d4096; a list, or several times"


def run(
    engines: Annotated[list[str] | None, typer.Argument(help="ENGINE, ENGINE:CONFIGURATION or all")] = None,
    framework: Annotated[list[str] | None, typer.Option(help="the same, as the original suite called it")] = None,
    quantize: Annotated[list[str] | None, typer.Option(help=QUANTIZE_HELP)] = None,
    fair_comparison: Annotated[
        bool, typer.Option("--fair-comparison/--no-fair-comparison", help=FAIR_HELP, show_default="fair")
    ] = True,
    no_compile: Annotated[list[str] | None, typer.Option(help="ENGINE: what was chosen of it, not compiled")] = None,
    no_half: Annotated[list[str] | None, typer.Option(help="ENGINE: what was chosen of it, in float32")] = None,
    model: ModelsOption = None,
    model_type: Annotated[str | None, typer.Option(help="refuse a file of another type")] = None,
    weights: WeightsOption = Weights.auto,
    preset: Annotated[str, typer.Option(help=", ".join(planning.PRESETS))] = "quick",
    workload: Annotated[list[str] | None, typer.Option("--workload", "-w", help=WORKLOAD_HELP)] = None,
    n_prompt: Annotated[list[str] | None, typer.Option("--n-prompt", "-p", help="prompt tokens: 128,512")] = None,
    n_gen: Annotated[list[str] | None, typer.Option("--n-gen", "-n", help="generated tokens: 64-256*2")] = None,
    n_depth: Annotated[list[str] | None, typer.Option("--n-depth", "-d", help="tokens before: 0-4096+2048")] = None,
    sweep: Annotated[Path | None, typer.Option(help="a TOML file: models x workloads x engines x threads")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="measured requests per launch")] = None,
    cold: Annotated[int | None, typer.Option(min=0, help="launches with the model on the disk alone")] = None,
    time_budget: Annotated[float | None, typer.Option(min=1, help="seconds, after set-up")] = None,
    threads: Annotated[list[str] | None, typer.Option("--threads", "-t", help="default: all of this machine")] = None,
    device: Device = Device.auto,
    shard: Annotated[int, typer.Option(min=1, help="devices (on the CPU: ranks) that share the model")] = 1,
    seed: Annotated[int, typer.Option(help="of prompts and launch order")] = 0,
    results: ResultsOption = DEFAULT_RESULTS,
    output: OutputOption = Output.table,
    timing: TimingOption = False,
    temperature: Annotated[float | None, typer.Option(min=0, help=TEMPERATURE_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan, run nothing")] = False,
    python: Annotated[list[str] | None, typer.Option(help="engine-x=/path/to/python: use this interpreter")] = None,
    energy: Annotated[bool | None, typer.Option(help="joules per token; default: in presets with verdicts")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="one more launch each, under the engine's profiler")
    ] = False,
    debug: DebugOption = False,
    silence: Annotated[float, typer.Option(min=1, help="seconds an answer may take before the kill")] = 1800.0,
    option: Annotated[list[str] | None, typer.Option(help="ENGINE.NAME=VALUE: a setting that only it has")] = None,
    ollama_host: Annotated[str | None, typer.Option(help="short for --option ollama.host=…")] = None,
) -> None:
    """Benchmark engines side by side: check each against the reference, then time it."""
    if temperature:
        say(f"--temperature {temperature:g} has no effect: {GREEDY}")
    if timing and output is Output.benchstat:
        raise UsageError("--timing -o benchstat: its lines are launches; for requests take -o jsonl or -o csv")
    chosen_preset = planning.preset(preset, iterations, time_budget, cold)
    default = chosen_preset.workload
    typed = Sweep(
        engines=(*(engines or ()), *listed(framework)),
        models=tuple(model or ()),
        workloads=asked_for(workload or [], n_prompt or [], n_gen or [], n_depth or [], default),
        threads=tuple(counts("--threads", threads)) if threads else (),
    )
    wanted = merged(read_sweep(sweep, default), typed) if sweep else typed
    request = RunRequest(
        names=wanted.engines or ("all",),
        preset=chosen_preset,
        workloads=wanted.workloads or (default,),
        device=default_device() if device is Device.auto else device.value,
        threads=max(wanted.threads, default=default_threads()),
        seed=seed,
        results=results,
        silence_seconds=silence,
        options=_options([*(option or []), *([f"ollama.host={ollama_host}"] if ollama_host else [])]),
        overrides=dict(_override(text) for text in python or []),
        command=tuple(sys.argv[1:]),
        thread_counts=wanted.threads,
        precisions=wanted.precisions,
        shards=shard,
        fair=fair_comparison,
        quantisations=listed(quantize),
        without=_without({"no-compile": no_compile, "no-half": no_half}),
        energy=chosen_preset.verdicts if energy is None else energy,
        profile=profile,
        debug=debug,
    )
    chosen = choose(request)
    sought = (wanted.models or (DEFAULT_MODEL,), weights.value, model_type, demand_of(request, chosen))
    if dry_run:
        configs = {name: each.config for name, each in located_models(*sought).items()}
        able, reasons = able_here(chosen, request.device, request.options)
        print_plan(plan_of(request, able, configs), configs, request.device)
        for label, reason in reasons.items():
            print(printable(f"unavailable: {label}: {reason}"))
        return
    with ProgressBar() as bar:
        found = find_models(*sought)
        session = Run(request, chosen, found, bar)
        path = session.execute()
        keep_up(results, rows_of)
    result = read_result(path)
    print_result(result, output, timing)
    if profile:
        print_kernels(path.parent, output)
    print(f"raw data: {shown(path)}", file=sys.stderr)
    if code := exit_code(result):
        raise typer.Exit(code)


def exit_code(result: Mapping[str, Any]) -> int:
    """A case that the machine spoiled has not failed; but where verdicts were asked for, it has none."""
    bad = [case for case in result["cases"] if case["status"] in ("failed", "invalid")]
    if any(not is_spoiled(case) for case in bad):
        return EXIT_FAILED
    return EXIT_INCONCLUSIVE if bad and result["plan"]["verdicts"] else 0


def _without(options: Mapping[str, list[str] | None]) -> tuple[tuple[str, str], ...]:
    return tuple((engine, option) for option, texts in options.items() for engine in listed(texts))


def print_kernels(run: Path, output: Output) -> None:
    """Only where it does not break what another program reads."""
    if output in (Output.table, Output.md) and profiles.found(run):
        print_sheet(kernel_sheet(run), output)
    folder = shown(run / profiles.FOLDER)
    print(f"traces, for ui.perfetto.dev or chrome://tracing: {folder}", file=sys.stderr)


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
