"""Whom the self-test launches: the engine of known speed, or a real one that was named."""

from __future__ import annotations

from pathlib import Path

from enginebench_models.store import locate
from enginebench_protocol.host import default_device, default_threads

from enginebench.errors import BenchError, UsageError
from enginebench.plan.plan import PRESETS
from enginebench.store.record import Workload
from enginebench.workspace import discovery, environment
from enginebench.workspace.discovery import EngineInfo

from .pairs import Subject

STANDARD = PRESETS["standard"]


def of_known_speed(workload: Workload, iterations: int, configuration: str | None = None) -> Subject:
    """Raises BenchError where there is none, UnavailableError where it cannot be installed."""
    info = next((info for info in discovery.discover().values() if info.role == "test"), None)
    if info is None:
        raise BenchError("no engine of role `test` is in this workspace: nothing has a known speed")
    return _subject(info, configuration or next(iter(info.configurations)), "tiny", workload, 1, iterations)


def of_engine(asked: str | None, model: str, workload: Workload) -> Subject:
    """Raises UsageError for a name that is not one engine's one configuration, or cannot run here."""
    if asked is None:
        raise UsageError("which engine? the part `engine` needs --engine ENGINE:CONFIGURATION")
    name = asked.partition(":")[0]
    chosen = discovery.select((asked,), discovery.discover())  # with the instruments of a table, unasked
    (info, configuration), *more = [(info, found) for info, found in chosen if info.name == name]
    if more:
        raise UsageError(f"--engine {asked}: name one configuration, like {info.name}:{configuration}")
    if reason := discovery.unavailable_reason(info, configuration, default_device(), {}):
        raise UsageError(f"{info.name}:{configuration} is unavailable: {reason}")
    return _subject(info, configuration, model, workload, STANDARD.warmup, STANDARD.iterations)


def _subject(
    info: EngineInfo, configuration: str, model: str, workload: Workload, warmup: int, iterations: int
) -> Subject:
    extra = info.configurations[configuration].extra
    return Subject(
        info=info,
        configuration=configuration,
        interpreter=environment.prepare(info, {}, lambda text: None, extra=extra),
        model=model,
        model_path=Path(locate(model).path),
        device=default_device(),
        threads=default_threads(),
        cache=environment.kernel_cache(info),
        workload=workload,
        warmup=warmup,
        iterations=iterations,
    )
