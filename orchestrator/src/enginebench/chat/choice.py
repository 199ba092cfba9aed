"""Which engine answers: the one that was named, or the first that can be started at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enginebench.errors import UnavailableError, UsageError, unknown
from enginebench.workspace import discovery
from enginebench.workspace.discovery import EngineInfo
from enginebench.workspace.selection import soonest

SIXTEEN_BIT = "16-bit"


@dataclass(frozen=True)
class Choice:
    """One configuration of an engine."""

    info: EngineInfo
    configuration: str

    @property
    def label(self) -> str:
        return f"{self.info.name}:{self.configuration}"

    @property
    def precision(self) -> str:
        return self.info.configurations[self.configuration].precision

    @property
    def extra(self) -> str:
        return self.info.configurations[self.configuration].extra


def choose(name: str | None, device: str, engines: Mapping[str, EngineInfo] | None = None) -> Choice:
    """ENGINE or ENGINE:CONFIGURATION; None: any. Raises UsageError with the near match, or why it cannot run here."""
    found = dict(engines or discovery.discover())
    choice = _first(found, device) if name is None else _named(name, found)
    reason = discovery.unavailable_reason(choice.info, choice.configuration, device)
    if reason is not None:
        raise UsageError(f"{choice.label} cannot run here: it {reason}")
    return choice


def _named(name: str, engines: Mapping[str, EngineInfo]) -> Choice:
    engine, _, configuration = name.partition(":")
    by_name = {alias: info for info in engines.values() for alias in (info.name, *info.aliases)}
    answering = {name: info for name, info in by_name.items() if info.role != "instrument"}
    info = answering.get(engine)
    if info is None:
        raise unknown("engine", engine, answering)
    if not configuration:
        return Choice(info, default_configuration(info))
    if configuration not in info.configurations:
        raise unknown(f"configuration of {info.name}", configuration, info.configurations)
    return Choice(info, configuration)


def default_configuration(info: EngineInfo) -> str:
    """What the engine's table names for chat; else the first of 16 bits among the ordinary ones; else the first."""
    ordinary = [name for name, c in info.configurations.items() if c.in_all] or list(info.configurations)
    halves = [name for name in ordinary if info.configurations[name].precision == SIXTEEN_BIT]
    return info.chat or (halves or ordinary)[0]


def _first(engines: Mapping[str, EngineInfo], device: str) -> Choice:
    """Of those that can run here."""
    pairs = [(info, default_configuration(info)) for info in engines.values() if info.role == "engine"]
    able = [pair for pair in pairs if discovery.unavailable_reason(*pair, device) is None]
    if not able:
        raise UnavailableError("no engine can run on this machine: see `enginebench engines`")
    return Choice(*soonest(able))
