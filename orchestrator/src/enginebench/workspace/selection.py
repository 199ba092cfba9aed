"""Which configurations are compared: names, and what fairness, a quantisation and --no-compile make of them.

Everything follows from the engines' tables. An engine without the quantisation that was asked for keeps its place, as a
configuration that cannot run and says what is nearest to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from enginebench.errors import UsageError, unknown

from .discovery import Configuration, EngineInfo, find_engine, instruments, select, unavailable_reason
from .environment import is_synced

WITHOUT = {"no-compile": "compilation benefit", "no-half": "precision impact"}
"""Option → the comparison whose base is the configuration without it."""
UNQUANTISED = "float16"
"""The word for weights that stay as they are, in 16 bits."""
ORIGINAL_QUANTISATIONS = (UNQUANTISED, "int8", "nf4")

Engines = Mapping[str, EngineInfo]
Chosen = list[tuple[EngineInfo, str]]


@dataclass(frozen=True)
class Selection:
    """What was asked for. `without`: (engine, option of WITHOUT), for all that was chosen of this engine."""

    names: tuple[str, ...] = ("all",)
    fair: bool = True
    """False: an engine without a configuration stands for what it does out of the box, and nothing else."""
    quantisations: tuple[str, ...] = ()
    without: tuple[tuple[str, str], ...] = ()


def selected(wish: Selection, engines: Engines) -> Chosen:
    """With the instruments. Raises UsageError on a name that does not exist, and on what no table holds."""
    if wish.quantisations:
        chosen = _quantised(wish, engines)
    else:
        chosen = select(wish.names if wish.fair else out_of_the_box(wish.names, engines), engines)
    for name, option in wish.without:
        chosen = _without(chosen, find_engine(name, engines).name, option)
    return chosen


def fairest(names: Sequence[str], engines: Engines) -> tuple[str, ...]:
    """ENGINE → ENGINE:CONFIGURATION, the one that stands for it beside others; what names a configuration stays."""
    return tuple(name if ":" in name else f"{info.name}:{info.fair}" for name, info in _by_name(names, engines))


def out_of_the_box(names: Sequence[str], engines: Engines) -> tuple[str, ...]:
    return tuple(
        name if ":" in name else f"{info.name}:{info.out_of_the_box}" for name, info in _by_name(names, engines)
    )


def labels(chosen: Chosen) -> list[str]:
    """Of what was asked for: instruments come by themselves."""
    return [f"{info.name}:{configuration}" for info, configuration in chosen if info.role != "instrument"]


def one_able(chosen: Chosen, device: str) -> str:
    """The label of one that can run here, the one that can begin soonest.

    Raises UsageError where none can, with the reasons.
    """
    engines = [pair for pair in chosen if pair[0].role != "instrument"]
    if not engines:
        raise UsageError("an instrument shows what the device can do, and answers nothing: name an engine")
    reasons = [unavailable_reason(info, name, device) for info, name in engines]
    able = [pair for pair, reason in zip(engines, reasons, strict=True) if reason is None]
    if not able:
        raise UsageError("; ".join(map(": ".join, zip(labels(engines), filter(None, reasons), strict=True))))
    return labels([soonest(able)])[0]


def soonest(able: Chosen) -> tuple[EngineInfo, str]:
    """Installed ones first, and before others those whose table speaks of chat."""

    def delay(pair: tuple[EngineInfo, str]) -> tuple[bool, bool]:
        info, name = pair
        return not is_synced(info, extra=info.configurations[name].extra), not info.chat

    return min(able, key=delay)


def quantisations(engines: Engines) -> list[str]:
    """Every word that --quantize understands."""
    own = {c.quantisation for info in engines.values() for c in info.configurations.values()} - {""}
    offered = {asked for info in engines.values() for asked in info.nearest}
    return sorted({*ORIGINAL_QUANTISATIONS, *own, *offered})


def _by_name(names: Sequence[str], engines: Engines) -> list[tuple[str, EngineInfo]]:
    """Each name with its engine; `all` is every engine that is neither instrument nor test."""
    found: dict[str, EngineInfo] = {}
    for name in names:
        if name == "all":
            found |= {info.name: info for info in engines.values() if info.role == "engine"}
        else:
            found[name] = find_engine(name.partition(":")[0], engines)
    return list(found.items())


def _quantised(wish: Selection, engines: Engines) -> Chosen:
    known = quantisations(engines)
    for quantisation in wish.quantisations:
        if quantisation not in known:
            raise unknown("quantisation", quantisation, known)
    chosen = instruments(engines)
    for name, info in _by_name(wish.names, engines):
        if ":" in name:
            raise UsageError(f"{name} and --quantize both name a configuration: write {info.name}, or leave it out")
        chosen += _of_engine(info, wish)
    return chosen


def _of_engine(info: EngineInfo, wish: Selection) -> Chosen:
    """Its configurations of each quantisation; where there is none, one that says so."""
    names: list[str] = []
    lacking: dict[str, Configuration] = {}
    for quantisation in wish.quantisations:
        found = _unquantised(info, wish.fair) if quantisation == UNQUANTISED else _holding(info, quantisation)
        if not found:
            lacking[quantisation] = _lack(info, quantisation)
        names += found or [quantisation]
    info = msgspec.structs.replace(info, configurations={**info.configurations, **lacking})
    return [(info, name) for name in names]


def _holding(info: EngineInfo, quantisation: str) -> list[str]:
    return [name for name, c in info.configurations.items() if c.quantisation == quantisation]


def _unquantised(info: EngineInfo, fair: bool) -> list[str]:
    """The one of 16 bits that stands for the engine; else the first."""
    found = [name for name, c in info.configurations.items() if c.precision == "16-bit" and not c.quantisation]
    wanted = info.fair if fair else info.out_of_the_box
    return [wanted] if wanted in found else found[:1]


def _lack(info: EngineInfo, quantisation: str) -> Configuration:
    own = [c.quantisation for c in info.configurations.values() if c.quantisation]
    offer = info.nearest.get(quantisation)
    if offer is None:
        offers = f"it has {', '.join(dict.fromkeys(own))}" if own else "it makes no quantised weights"
    else:
        offers = f"nearest: --quantize {offer}"
    return Configuration(
        description="", precision=quantisation, quantisation=quantisation, in_all=False,
        lack=f"no {quantisation}; {offers}",
    )  # fmt: skip


def _without(chosen: Chosen, engine: str, option: str) -> Chosen:
    if all(info.name != engine for info, _ in chosen):
        raise UsageError(f"--{option} {engine}: {engine} is not among the engines that were asked for")
    bases = [(i, _base(i, name, option) if i.name == engine else name) for i, name in chosen]
    return list({(info.name, name): (info, name) for info, name in bases}.values())


def _base(info: EngineInfo, name: str, option: str) -> str:
    """The configuration that differs in this alone; itself, if it is that already."""
    comparison = WITHOUT[option]
    configurations = info.configurations
    if (base := configurations[name].compares.get(comparison)) is not None:
        return base
    if name in (c.compares.get(comparison) for c in configurations.values()):
        return name
    possible = [f"{info.name}:{n}" for n, c in configurations.items() if comparison in c.compares]
    remedy = f"it can be left out of {', '.join(possible)}" if possible else f"{info.name} has no such configuration"
    raise UsageError(f"--{option} {info.name}: nothing is known of {info.name}:{name} without it; {remedy}")
