"""What is multiplied in a run: models, workloads, thread counts and configurations; from options or a TOML file.

A sweep file says in one place what the command line says in several options; it cannot hold how much evidence to
gather. Its format is described in docs/user-guide.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from enginebench.errors import UsageError, unknown
from enginebench.store.record import Case, Workload

from . import workload as grammar

Numbers = int | str | list[int | str]
"""512, "128-512*2" or [128, "512-2048*2"]"""
PRECISIONS = ("float32", "16-bit")


class SweepFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of a sweep file; all are optional."""

    engines: list[str] = []
    models: list[str] = []
    precisions: list[str] = []
    workloads: list[str] = []
    n_prompt: Numbers = []
    n_gen: Numbers = []
    n_depth: Numbers = []
    threads: Numbers = []


@dataclass(frozen=True)
class Sweep:
    """What is run beside each other. Empty: the default of a run, and no part of the product."""

    engines: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    workloads: tuple[Workload, ...] = ()
    threads: tuple[int, ...] = ()


def read_sweep(path: Path, default: Workload) -> Sweep:
    """Raises UsageError with the key, the value and the near match."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"sweep {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"sweep {path}: {error}") from None
    return _sweep(_checked(path, raw), default)


def _checked(path: Path, raw: dict[str, Any]) -> SweepFile:
    keys = SweepFile.__struct_fields__
    for key in raw:
        if key not in keys:
            raise unknown(f"key in {path.name}", key, keys)
    try:
        return msgspec.convert(raw, SweepFile)
    except msgspec.ValidationError as error:
        raise UsageError(f"sweep {path.name}: {error}") from None


def _sweep(file: SweepFile, default: Workload) -> Sweep:
    for precision in file.precisions:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
    return Sweep(
        engines=tuple(file.engines),
        models=tuple(file.models),
        precisions=tuple(file.precisions),
        workloads=asked_for(file.workloads, _texts(file.n_prompt), _texts(file.n_gen), _texts(file.n_depth), default),
        threads=tuple(grammar.counts("threads", _texts(file.threads))) if _texts(file.threads) else (),
    )


def _texts(numbers: Numbers) -> list[str]:
    return [str(number) for number in (numbers if isinstance(numbers, list) else [numbers])]


def asked_for(
    names: Sequence[str], n_prompt: Sequence[str], n_gen: Sequence[str], n_depth: Sequence[str], default: Workload
) -> tuple[Workload, ...]:
    """Workloads by name, or the product of the counts, where `default` fills in what is not counted.

    A depth given beside names holds for those that have none. Empty if nothing was asked for. Raises UsageError.
    """
    if names and (n_prompt or n_gen):
        raise UsageError("a workload is given by its name or by n_prompt and n_gen, not by both: choose one")
    depths = grammar.counts("--n-depth", n_depth, least=0) if n_depth else [default.n_depth]
    if names:
        return _deepened(grammar.workloads(names), depths)
    if not (n_prompt or n_gen or n_depth):
        return ()
    prompts = grammar.counts("--n-prompt", n_prompt) if n_prompt else [default.n_prompt]
    generated = grammar.counts("--n-gen", n_gen) if n_gen else [default.n_gen]
    return grammar.grid(prompts, generated, depths)


def _deepened(found: Sequence[Workload], depths: Sequence[int]) -> tuple[Workload, ...]:
    replace = msgspec.structs.replace
    deep = [w if w.n_depth else replace(w, n_depth=depth) for depth in depths for w in found]
    return tuple({workload.name: workload for workload in deep}.values())


def merged(sweep: Sweep, options: Sweep) -> Sweep:
    """A sweep file and the command line beside it. Raises UsageError on what both of them say."""
    fields = ("engines", "models", "workloads", "threads")
    for field in fields:
        if getattr(sweep, field) and getattr(options, field):
            raise UsageError(f"{field} is given in the sweep file and on the command line: give it in one place")
    return Sweep(
        precisions=sweep.precisions, **{field: getattr(sweep, field) or getattr(options, field) for field in fields}
    )


def cases(
    chosen: Sequence[tuple[str, str]], models: Sequence[str], workloads: Sequence[Workload], threads: Sequence[int]
) -> tuple[Case, ...]:
    """The product, in the order of the tables. Threads are part of a case only where they are swept."""
    swept: Sequence[int | None] = threads if len(threads) > 1 else [None]
    return tuple(
        Case(engine=engine, configuration=configuration, model=model, workload=workload, threads=count)
        for model in models
        for workload in workloads
        for engine, configuration in chosen
        for count in swept
    )
