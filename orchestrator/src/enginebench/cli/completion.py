"""What a shell completes: engines, models, presets, quantisations, workloads, runs. No command is imported for it.

Typer's scripts ask (`enginebench --install-completion`). A stand-in with these words takes the place of a command; only
the names of options, and values that are not listed here, need the command itself.
"""

# Annotations are read while a stand-in is made: they are no text here.
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from enginebench_models.catalogue import entries
from typer.core import TyperCommand

from enginebench.plan.plan import PRESETS
from enginebench.plan.workload import named
from enginebench.store.run_folder import run_names
from enginebench.workspace.discovery import ROOT, discover
from enginebench.workspace.selection import quantisations

NEWEST_RUNS = 50
Words = Callable[[typer.Context, str], list[str]]


def engines(context: typer.Context, incomplete: str) -> list[str]:
    """Engines, and the configurations of one once there is a colon; bash makes three words of ENGINE:CONFIGURATION."""
    infos = discover()
    typed: Sequence[str] = context.params.get("words") or ()
    if len(typed) > 1 and typed[-1] == ":" and typed[-2] in infos:
        return list(infos[typed[-2]].configurations)
    name, colon, _ = incomplete.partition(":")
    if colon and name in infos:
        return [f"{name}:{configuration}" for configuration in infos[name].configurations]
    return ["all", *infos, *(alias for info in infos.values() for alias in info.aliases)]


def only_engines(_context: typer.Context, _incomplete: str) -> list[str]:
    return list(discover())


def models(_context: typer.Context, _incomplete: str) -> list[str]:
    return list(entries())


def runs(_context: typer.Context, _incomplete: str) -> list[str]:
    """Those of the default folder, newest first."""
    return ["latest", *run_names(ROOT / "results" / "runs")[: -NEWEST_RUNS - 1 : -1]]


def presets(_context: typer.Context, _incomplete: str) -> list[str]:
    return list(PRESETS)


def workloads(_context: typer.Context, _incomplete: str) -> list[str]:
    return list(named())


def holdings(_context: typer.Context, incomplete: str) -> list[str]:
    """Quantisations, each time after a comma."""
    before, comma, _ = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in quantisations(discover())]


def nothing(_context: typer.Context, _incomplete: str) -> list[str]:
    return []


def with_models(context: typer.Context, incomplete: str) -> list[str]:
    return ["pull", "remove", *models(context, incomplete)]


ARGUMENTS: dict[str, Words] = {
    **dict.fromkeys(("run", "chat", "verify", "history"), engines),
    **dict.fromkeys(("sync", "conform"), only_engines),
    **dict.fromkeys(("show", "compare", "report"), runs),
    "models": with_models,
    "prompt": nothing,
}
"""Command → what stands behind it without an option."""


class StandIn(TyperCommand):
    """`real`: makes the command itself."""

    real: Callable[[], Any]

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The names of its options."""
        return self.real().shell_complete(ctx, incomplete)


def stand_in(name: str, real: Callable[[], Any], last: str = "") -> Any:
    """For the command of this name; the command itself where these words are not enough. `last`: the word before."""
    command = _command(name, ARGUMENTS.get(name, nothing))
    command.real = real
    options = [option for parameter in command.params for option in parameter.opts]
    known = name in ARGUMENTS and (not last.startswith("-") or last in options)
    return command if known or last in _flags(real()) else real()


def _flags(command: Any) -> list[str]:
    """Options that take no value: what follows them is an argument again."""
    return [name for parameter in command.params if getattr(parameter, "is_flag", False) for name in parameter.opts]


def _command(name: str, arguments: Words) -> StandIn:
    app = typer.Typer(add_completion=False)
    lenient = {"ignore_unknown_options": True, "allow_extra_args": True}

    @app.command(name, cls=StandIn, context_settings=lenient, add_help_option=False)
    def complete(
        words: Annotated[list[str] | None, typer.Argument(autocompletion=arguments)] = None,
        model: Annotated[str | None, typer.Option("--model", "--model-path", autocompletion=models)] = None,
        preset: Annotated[str | None, typer.Option(autocompletion=presets)] = None,
        workload: Annotated[str | None, typer.Option("--workload", "-w", autocompletion=workloads)] = None,
        quantize: Annotated[str | None, typer.Option(autocompletion=holdings)] = None,
        framework: Annotated[str | None, typer.Option("--framework", "--engine", autocompletion=engines)] = None,
        without: Annotated[str | None, typer.Option("--no-compile", "--no-half", autocompletion=only_engines)] = None,
    ) -> None: ...

    found = typer.main.get_command(app)
    assert isinstance(found, StandIn)
    return found
