"""The command line: `enginebench run | show | query | compare | history | doctor | …`, and what keeps the workspace.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 all fine, 1 a case failed, 2 wrong usage,
3 inconclusive where a verdict was asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable

import typer

from enginebench.errors import BenchError

EXIT_USAGE = 2
COMMANDS = {
    "run": "run:run",
    "prompt": "prompt:prompt",
    "engines": "listing:engines",
    "models": "models:models",
    "show": "listing:show",
    "query": "query:query",
    "compare": "compare:compare",
    "history": "history:history",
    "doctor": "doctor:doctor",
    "selftest": "selftest:selftest",
    "validate": "validate:validate",
    "verify": "verify:verify_engines",
    "conform": "upkeep:conform",
    "sync": "upkeep:sync",
    "pins": "upkeep:write_pins",
    "new-engine": "upkeep:new_engine",
}
"""Name → module of this package, and its function, or its Typer where there are commands below it."""


def command_line(names: Iterable[str] = tuple(COMMANDS)) -> typer.Typer:
    """With the commands of these names only: each imports what it needs, all of them together take a second."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
    app.callback()(_root)
    for name in names:
        module, function = COMMANDS[name].split(":")
        found = getattr(importlib.import_module(f".{module}", __name__), function)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name=name)(found)
    return app


def _root() -> None:
    """A callback keeps Typer from making the only command of an app its whole command line."""


_root.__doc__ = __doc__


def main() -> None:
    """The script `enginebench`."""
    asked = [word for word in sys.argv[1:2] if word in COMMANDS]
    try:
        command_line(asked or COMMANDS)()
    except BenchError as error:
        print(f"enginebench: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
