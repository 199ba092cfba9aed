"""`enginebench run`: benchmark engines side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from enginebench_protocol.host import default_device, default_threads

from enginebench.counted import counted
from enginebench.errors import UsageError, unknown
from enginebench.judge.plain_case import is_spoiled
from enginebench.judge.rows import rows_of
from enginebench.plain_text import printable
from enginebench.plan import plan as planning
from enginebench.plan.fit import Demand
from enginebench.plan.sweep import Sweep, asked_for, merged, read_sweep
from enginebench.plan.workload import counts, named
from enginebench.report.formats import Output
from enginebench.report.profile import kernel_sheet
from enginebench.run.guard import watchdogs
from enginebench.run.interrupts import Interrupts
from enginebench.run.limits import Ladder
from enginebench.run.model import find_models, located_models
from enginebench.run.process import sweep_descendants
from enginebench.run.progress import ProgressBar
from enginebench.run.request import RunRequest, choose, demand_of, plan_of
from enginebench.run.resume import Begun, find_begun
from enginebench.run.run import Run
from enginebench.store import profiles
from enginebench.store.index import keep_up
from enginebench.store.result import read_result
from enginebench.workspace import discovery
from enginebench.workspace.discovery import EngineInfo

from .basics import (
    DEFAULT_MODEL,
    EXIT_FAILED,
    EXIT_INCONCLUSIVE,
    DebugOption,
    Device,
    PythonOption,
    Weights,
    WeightsOption,
    interpreters,
    say,
)
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
RESUME_HELP = "go on with a run that was interrupted, as it was asked for: its id, the beginning of it, or `latest`"
BESIDE_RESUME = ("resume", "results", "output", "timing", "debug")
WORKLOAD_HELP = f"{', '.join(named())}, or pp512+tg128@d4096; a list, or several times"


def run(
    context: typer.Context,
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
    resume: Annotated[str | None, typer.Option(metavar="RUN", help=RESUME_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan, run nothing")] = False,
    python: PythonOption = None,
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
    if resume is not None:
        _refuse_other_words(context)
        go_on(resume, results, output, timing, debug)
        return
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
        models=wanted.models or (DEFAULT_MODEL,),
        weights=weights.value,
        model_type=model_type,
        options=_options([*(option or []), *([f"ollama.host={ollama_host}"] if ollama_host else [])]),
        overrides=interpreters(python),
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
    if dry_run:
        show_plan(request)
        return
    measure(request, output, timing)


def show_plan(request: RunRequest) -> None:
    chosen = choose(request)
    configs = {name: each.config for name, each in located_models(*_sought(request, chosen)).items()}
    able, reasons = able_here(chosen, request.device, request.options)
    print_plan(plan_of(request, able, configs), configs, request.device)
    for label, reason in reasons.items():
        print(printable(f"unavailable: {label}: {reason}"))


def measure(request: RunRequest, output: Output, timing: bool, begun: Begun | None = None) -> None:
    """A run, or the rest of one that was begun. Ends with an exit code where not all is well."""
    chosen = choose(request)
    bar = ProgressBar()
    with Interrupts(at_once=lambda: end_all(bar)) as interrupts:
        try:
            with bar:
                found = find_models(*_sought(request, chosen))
                session = Run(request, chosen, found, bar, interrupts, begun)
                path = session.execute()
        except KeyboardInterrupt:
            say("interrupted before anything was measured")
            raise typer.Exit(interrupts.exit_code) from None
        keep_up(request.results, rows_of)
        result = read_result(path)
        with suppress(OSError) if session.interrupted else nullcontext():  # SIGHUP: nobody is there to read
            print_run(result, path, request.profile, output, timing)
            if session.interrupted:
                run = session.run_id if request.results == DEFAULT_RESULTS else shown(session.folder)
                say(f"interrupted: enginebench run --resume {run} goes on from here")
    if code := interrupts.exit_code if session.interrupted and interrupts.number else exit_code(result):
        raise typer.Exit(code)


def end_all(bar: ProgressBar) -> None:
    bar.console.show_cursor(True)
    sweep_descendants(keep=watchdogs(), seconds=Ladder().sweep)


def print_run(result: dict[str, Any], path: Path, profile: bool, output: Output, timing: bool) -> None:
    print_result(result, output, timing)
    if profile:
        print_kernels(path.parent, output)
    print(f"raw data: {shown(path)}", file=sys.stderr)


def go_on(name: str, results: Path, output: Output, timing: bool, debug: bool) -> None:
    with find_begun(name, results, debug) as begun:
        done = len(begun.content.launches)
        if begun.finished:
            say(f"{begun.run_id} has ended, with {counted(done, 'launch')}: enginebench show {begun.run_id}")
            return
        say(f"{begun.run_id}: {counted(done, 'launch')} in its journal")
        for damage in begun.content.damaged:
            say(f"journal {damage}; left out")
        measure(begun.request, output, timing, begun)


def _refuse_other_words(context: typer.Context) -> None:
    """What was asked of the run stands in its journal."""
    given = [
        parameter
        for parameter in context.command.params
        if parameter.name not in BESIDE_RESUME and _was_typed(context, parameter.name or "")
    ]
    if given:
        raise UsageError(f"--resume goes on with what was asked at the beginning: leave out {given[0].opts[0]}")


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _sought(
    request: RunRequest, chosen: list[tuple[EngineInfo, str]]
) -> tuple[tuple[str, ...], str, str | None, Demand]:
    return request.models, request.weights, request.model_type, demand_of(request, chosen)


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
