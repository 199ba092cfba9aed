"""The root of the command line as Typer sees it: commands are imported when they are asked for, not before.

Each takes `--debug`. What a shell completes is answered in `completion`, which imports no command for it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from enginebench.errors import unknown

from .completion import stand_in

DebugOption = Annotated[bool, typer.Option("--debug", help="on a fault, show where it happened")]


def group_of(commands: Mapping[str, str]) -> type[TyperGroup]:
    """`commands`: name → MODULE:FUNCTION of this package, or MODULE:TYPER where there are commands below it."""

    class LazyGroup(TyperGroup):
        def list_commands(self, _ctx: Any) -> list[str]:
            return list(commands)

        def get_command(self, ctx: Any, name: str) -> Any:
            return self._completed(name) if ctx.resilient_parsing else self._command(name)

        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
            if not ctx.resilient_parsing:
                return super().resolve_command(ctx, args)
            return args[0], self._completed(args[0], args[-1]), args[1:]

        def _command(self, name: str) -> Any:
            if name not in commands:
                raise unknown("command", name, commands)
            return loaded(name, commands[name])

        def _completed(self, name: str, last: str = "") -> Any:
            return stand_in(name, functools.partial(self._command, name), last) if name in commands else None

    return LazyGroup


class NamingCommand(TyperCommand):
    """A word that is none of those an option takes is answered as a name is everywhere else, with the near match."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        refuse_unknown_words(self, ctx, args)
        return super().parse_args(ctx, args)


class NamingGroup(TyperGroup):
    """Of commands below a command: so are their names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        refuse_unknown_words(self, ctx, args)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if not ctx.resilient_parsing and args[0] not in self.list_commands(ctx):
            raise unknown(f"command of {ctx.info_name}", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def refuse_unknown_words(command: Any, ctx: Any, args: Sequence[str]) -> None:
    """Raises UsageError."""
    if ctx.resilient_parsing:
        return
    typed = command.make_parser(ctx).parse_args(args=list(args))[0]
    for parameter in command.params:
        words = [choice.value for choice in parameter.type_descriptor.choices or ()]
        if words and (word := typed.get(parameter.name)) is not None and word not in words:
            raise unknown(f"value of {parameter.opts[0]}", word, words)


def loaded(name: str, place: str) -> Any:
    """The command, ready to be run by Typer."""
    module, attribute = place.split(":")
    found = getattr(importlib.import_module(f".{module}", __package__), attribute)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name)
    else:
        app.command(name=name, cls=NamingCommand)(with_debug(found))
    return typer.main.get_group(app).commands[name]


def with_debug(function: Callable[..., None]) -> Callable[..., None]:
    """The same, with an option `--debug` unless it has one: `main` looks for the word."""
    signature = inspect.signature(function, eval_str=True)
    if "debug" in signature.parameters:
        return function

    @functools.wraps(function)
    def command(*args: Any, debug: bool, **kwargs: Any) -> None:
        function(*args, **kwargs)

    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugOption)
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), debug])  # type: ignore[attr-defined]
    command.__annotations__ = {**function.__annotations__, "debug": DebugOption}
    return command
