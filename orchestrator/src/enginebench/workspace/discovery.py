"""Which engines there are: the `[tool.enginebench.engine]` tables under packages/, read with tomllib.

Imports no engine and names none. Whether an engine is installed is `environment`.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from enginebench.errors import UsageError, unknown

ROOT = Path(__file__).resolve().parents[4]
"""The workspace: members are installed editable, so the checkout is where this file is."""

GIB = 2**30
COMPARISONS = ("compilation benefit", "precision impact", "quantisation impact", "tuning benefit")
"""What a configuration may say of another of the same engine."""


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to run an engine. `in_all` false: only when named, because it is slow or special."""

    description: str
    precision: str
    in_all: bool = True
    programs: list[str] = []
    """Programs on PATH without which this configuration cannot run."""
    compares: dict[str, str] = {}
    """Name of a comparison (COMPARISONS) → configuration of the same engine that is its base."""
    extra: str = ""
    """Optional dependencies of the package that it needs: it runs in an environment of its own."""
    quantisation: str = ""
    """What it makes of the weights before it computes with them: int8, nf4, q8_0, …; "": they stay as they are."""
    lack: str = ""
    """Why the engine cannot do this at all: said by `selection`, of what was asked for and is in no table."""


class Option(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A setting that only this engine has (protocol, Engine.options)."""

    description: str
    replaces: list[str] = []
    """Programs that are not needed where it is given."""


class EngineInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The engine table of one pyproject.toml."""

    name: str
    module: str
    description: str
    role: Literal["engine", "instrument", "test"]
    formats: list[Literal["gguf", "safetensors"]]
    gpu: Literal["required", "optional", "none"]
    configurations: dict[str, Configuration]
    minimum_driver: str | None = None
    programs: list[str] = []
    program_sources: dict[str, str] = {}
    """Where a program is to be had, for the message that it is missing."""
    options: dict[str, Option] = {}
    aliases: list[str] = []
    fair: str = ""
    """The configuration that stands for it beside other engines: 16-bit, with its sensible optimisations. The first
    one, if the table says nothing else; so with `out_of_the_box`."""
    out_of_the_box: str = ""
    """The configuration that changes nothing of what the engine does by itself."""
    chat: str = ""
    """The configuration that answers in a conversation where none is named; "": the first of 16 bits. Engines with
    one are preferred where no engine is named."""
    nearest: dict[str, str] = {}
    """A quantisation that it cannot do → the one of its own that comes nearest."""
    shards: bool = False
    """It can spread one model over several devices."""
    whole_on_each: list[Literal["table", "head"]] = []
    """What each of several devices then holds whole, of the tables of the vocabulary (plan/fit.py)."""
    profiles: bool = False
    """It answers `profile` with traces."""
    test_extra: str | None = None
    """The tests run in the environment with this extra, also where the engine itself cannot run."""
    package: str = ""
    folder: str = ""


def discover(root: Path = ROOT) -> dict[str, EngineInfo]:
    """Engine name → its table. Raises UsageError on a malformed one."""
    engines: dict[str, EngineInfo] = {}
    for pyproject in sorted(root.glob("packages/*/pyproject.toml")):
        table = tomllib.loads(pyproject.read_text())
        engine = table.get("tool", {}).get("enginebench", {}).get("engine")
        if engine is None:
            continue
        first = next(iter(engine.get("configurations", {})), "")
        places = {"package": table["project"]["name"], "folder": str(pyproject.parent)}
        facts = {"fair": first, "out_of_the_box": first, **engine, **places}
        try:
            info = msgspec.convert(facts, EngineInfo)
        except msgspec.ValidationError as error:
            raise UsageError(f"{pyproject.relative_to(root)}: [tool.enginebench.engine]: {error}") from None
        _check_choices(info, str(pyproject.relative_to(root)))
        _check_bases(info, str(pyproject.relative_to(root)))
        _check_quantisations(info, str(pyproject.relative_to(root)))
        engines[info.name] = info
    return engines


def _check_choices(info: EngineInfo, file: str) -> None:
    for key in ("fair", "out_of_the_box", "chat"):
        if (name := getattr(info, key)) not in info.configurations and (name or key != "chat"):
            raise unknown(f"{file}: {key}", name, info.configurations)


def _check_bases(info: EngineInfo, file: str) -> None:
    for name, configuration in info.configurations.items():
        for comparison, base in configuration.compares.items():
            if comparison not in COMPARISONS:
                raise unknown(f"{file}: comparison of configuration {name}", comparison, COMPARISONS)
            if base not in info.configurations:
                raise unknown(f"{file}: base of {comparison} of configuration {name}", base, info.configurations)


def _check_quantisations(info: EngineInfo, file: str) -> None:
    """A quantised configuration is for those who ask for it, and what is offered instead of another exists."""
    for name, configuration in info.configurations.items():
        if configuration.quantisation and configuration.in_all:
            raise UsageError(f"{file}: configuration {name} is quantised: write in_all = false")
    own = {configuration.quantisation for configuration in info.configurations.values()} - {""}
    for asked, offered in info.nearest.items():
        if offered not in own:
            raise unknown(f"{file}: quantisation nearest to {asked}", offered, own)


def select(names: Sequence[str], engines: Mapping[str, EngineInfo]) -> list[tuple[EngineInfo, str]]:
    """What `all`, ENGINE and ENGINE:CONFIGURATION stand for; and every instrument: a rate needs its limit beside it."""
    pairs = [*instruments(engines), *(pair for name in names or ["all"] for pair in _expand(name, engines))]
    return list({(info.name, configuration): (info, configuration) for info, configuration in pairs}.values())


def instruments(engines: Mapping[str, EngineInfo]) -> list[tuple[EngineInfo, str]]:
    return [pair for info in engines.values() if info.role == "instrument" for pair in _in_all(info)]


def _expand(name: str, engines: Mapping[str, EngineInfo]) -> list[tuple[EngineInfo, str]]:
    if name == "all":
        return [pair for info in engines.values() if info.role == "engine" for pair in _in_all(info)]
    engine_name, _, configuration = name.partition(":")
    info = find_engine(engine_name, engines)
    if not configuration:
        return _in_all(info)
    if configuration not in info.configurations:
        raise unknown(f"configuration of {info.name}", configuration, info.configurations)
    return [(info, configuration)]


def find_engine(name: str, engines: Mapping[str, EngineInfo]) -> EngineInfo:
    """By its name or an alias. Raises UsageError with the near match."""
    aliases = {alias: info for info in engines.values() for alias in info.aliases}
    info = engines.get(name) or aliases.get(name)
    if info is None:
        raise unknown("engine", name, [*engines, "all"])
    return info


def _in_all(info: EngineInfo) -> list[tuple[EngineInfo, str]]:
    return [(info, name) for name, configuration in info.configurations.items() if configuration.in_all]


def environments(info: EngineInfo) -> list[str]:
    """The extras that make this engine's environments, "" for none, each once."""
    return list(dict.fromkeys(configuration.extra for configuration in info.configurations.values()))


def unavailable_reason(
    info: EngineInfo, configuration: str | None, device: str, options: Collection[str] = ()
) -> str | None:
    """Why this engine (or configuration) cannot run on this machine; None if nothing speaks against it.

    `options`: those of its own that the user gave.
    """
    if configuration is not None and (lack := info.configurations[configuration].lack):
        return lack
    if info.gpu == "required" and device != "cuda":
        return "needs an NVIDIA GPU"
    if info.gpu == "none" and device == "cuda":
        return "runs on the CPU only"
    programs = list(info.programs)
    if configuration is not None:
        programs += info.configurations[configuration].programs
    replaced = {program for name in options for program in info.options[name].replaces}
    missing = [program for program in programs if program not in replaced and shutil.which(program) is None]
    if missing:
        source = info.program_sources.get(missing[0])
        return f"program `{missing[0]}` not found on PATH" + (f"; get it from {source}" if source else "")
    return None
