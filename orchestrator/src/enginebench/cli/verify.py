"""`enginebench verify`: the fidelity ladder alone. Are the answers right? Nothing is timed."""

from __future__ import annotations

from typing import Annotated

import typer
from enginebench_models.errors import ModelError
from enginebench_models.tokenizer import load_tokenizer
from enginebench_protocol.host import default_device, default_threads

from enginebench.errors import UnavailableError
from enginebench.judge.ladder import Rung, tokenizer_rung
from enginebench.plain_text import printable
from enginebench.plan.fit import Demand
from enginebench.run.guard import Watchdog
from enginebench.run.model import Model, find_model, memory_here
from enginebench.run.process import become_subreaper
from enginebench.run.verify import Unverified, VerifyOrder, verify
from enginebench.workspace import discovery, environment
from enginebench.workspace.discovery import EngineInfo

from .basics import EXIT_FAILED, Device, ModelOption, Weights, WeightsOption, say

SMALL_BYTES = 100_000_000
SEQUENCES_SMALL, SEQUENCES_LARGE = 32, 4
"""The reference takes 20 s for a sequence of a 1B model on two processors, once: it is kept."""


def verify_engines(
    engines: Annotated[list[str] | None, typer.Argument(help="ENGINE, ENGINE:CONFIGURATION or all")] = None,
    model: ModelOption = "tiny",
    weights: WeightsOption = Weights.auto,
    sequences: Annotated[int | None, typer.Option(min=1, help="to score, and to answer; default 32, or 4")] = None,
    n_gen: Annotated[int, typer.Option(min=2, max=512, help="ids of a greedy answer")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, help="default: all of this machine")] = None,
    device: Device = Device.auto,
    silence: Annotated[float, typer.Option(min=1, help="seconds an engine may be silent")] = 1800.0,
) -> None:
    """Hold answers against the float32 reference, rung by rung; exit 1 if one fails."""
    chosen = _chosen(engines or ["all"])
    name = default_device() if device is Device.auto else device.value
    precisions = tuple(info.configurations[configuration].precision for info, configuration in chosen)
    found = find_model(model, weights.value, None, Demand((), precisions, room_bytes=memory_here(name).room(name, 1)))
    count = sequences or (SEQUENCES_SMALL if found.checkpoint.file_bytes < SMALL_BYTES else SEQUENCES_LARGE)
    become_subreaper()
    print(
        f"{found.name}, {found.located.weights} weights: {count} sequences of 64 + 64 ids, as many answers of {n_gen}"
    )
    passed = _shown("tokenizer", [_tokenizer(found)])
    for info, configuration in chosen:
        say(f"{info.name}:{configuration}")
        order = VerifyOrder(
            engine=info.name,
            configuration=configuration,
            module=info.module,
            model_path=found.located.path,
            device=name,
            threads=threads or default_threads(),
            cache=environment.kernel_cache(info),
            n_sequences=count,
            n_greedy=n_gen,
            silence_seconds=silence,
        )
        passed &= _shown(f"{info.name}:{configuration}", _rungs(info, order, found))
    if not passed:
        raise typer.Exit(EXIT_FAILED)


def _chosen(names: list[str]) -> list[tuple[EngineInfo, str]]:
    """Without the instruments that nobody named."""
    infos = discovery.discover()
    named = [discovery.find_engine(name.partition(":")[0], infos).name for name in names if name != "all"]
    chosen = discovery.select(names, infos)
    return [(info, name) for info, name in chosen if info.role == "engine" or info.name in named]


def _rungs(info: EngineInfo, order: VerifyOrder, model: Model) -> list[Rung]:
    """An engine that cannot run here has not failed, nor has one without answers; neither has passed."""
    if info.role != "engine":
        return [Rung("-", None, "computes no model: there is no answer to verify")]
    reason = discovery.unavailable_reason(info, order.configuration, order.device)
    if reason is None and model.checkpoint.format not in info.formats:
        reason = f"reads {' and '.join(info.formats)} files, this model is {model.checkpoint.format}"
    if reason is not None:
        return [Rung("-", None, f"unavailable: {reason}")]
    try:
        with Watchdog() as watchdog:
            extra = info.configurations[order.configuration].extra
            interpreter = environment.prepare(info, {}, say, extra=extra, watchdog=watchdog)
            return verify(order, model.checkpoint, interpreter, watchdog)
    except UnavailableError as error:
        return [Rung("-", None, f"unavailable: {error}")]
    except Unverified as error:
        return [Rung("-", False, str(error))]


def _tokenizer(model: Model) -> Rung:
    try:
        return tokenizer_rung(load_tokenizer(model.checkpoint))
    except ModelError as error:
        return Rung("G0", None, str(error))


def _shown(label: str, rungs: list[Rung]) -> bool:
    """Printed as soon as it is known: a case can take minutes. False if a rung failed."""
    for number, rung in enumerate(rungs):
        print(f"{'' if number else label:<24} {rung.name:<7} {_word(rung.passed)}  {printable(rung.found)}", flush=True)
    return not any(rung.passed is False for rung in rungs)


def _word(passed: bool | None) -> str:
    return "-   " if passed is None else "pass" if passed else "FAIL"
