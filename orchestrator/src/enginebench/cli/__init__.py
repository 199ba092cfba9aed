"""The command line: `enginebench run | show | query | compare | history | doctor | …`, and what keeps the workspace.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 all fine, 1 a case or the disk failed, 2 wrong
usage, 3 inconclusive where a verdict was asked for, 70 a fault of enginebench itself, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Sequence

import typer

from enginebench.errors import BenchError, StorageError
from enginebench.plain_text import for_terminal
from enginebench.workspace.discovery import discover

from .basics import EXIT_FAILED
from .group import group_of
from .original import is_original, spelled_out, translated
from .version import VersionOption

EXIT_USAGE, EXIT_FAULT = 2, 70
FAULT = (
    "this is a fault of enginebench: please report it with the command and what `enginebench --version` prints; "
    "--debug shows where it happened"
)
EPILOG = (
    "Without a command, on a terminal: chat. The options of the original suite stand without one too: "
    "--prompt TEXT, --benchmark, --download; with --framework, --model, --quantize, --iterations, … "
    '(docs/user-guide.md, "Coming from the original suite").'
)
COMMANDS = {
    "run": "run:run",
    "chat": "chat:chat",
    "prompt": "prompt:prompt",
    "engines": "listing:engines",
    "models": "models:models",
    "show": "listing:show",
    "report": "report:report",
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


def command_line() -> typer.Typer:
    """Each command is imported when it is asked for: all of them together take a second."""
    app = typer.Typer(cls=group_of(COMMANDS), no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback(help=__doc__, epilog=EPILOG)(_root)
    return app


def _root(version: VersionOption = False) -> None:
    """What may stand in front of a command."""


def main() -> None:
    """The script `enginebench`."""
    words = sys.argv[1:]
    try:
        _obey(words)
    except BenchError as error:
        _trace(words)
        print(for_terminal(f"enginebench: {error}"), file=sys.stderr)
        raise SystemExit(EXIT_FAILED if isinstance(error, StorageError) else EXIT_USAGE) from None
    except Exception as error:  # noqa: BLE001 (whatever it is, its user is told in one line)
        _trace(words)
        print(for_terminal(f"enginebench: {type(error).__name__}: {error} ({FAULT})"), file=sys.stderr)
        raise SystemExit(EXIT_FAULT) from None


def _obey(words: Sequence[str]) -> None:
    """Words of the original suite are said again as commands of today, and those are run."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if not is_original(words, interactive):
        _run(spelled_out(words, discover()) if words[:1] == ["run"] else words)
        return
    for command in translated(words, discover()):
        print(f"= enginebench {shlex.join(command)}", file=sys.stderr)
        _run(command)


def _run(words: Sequence[str]) -> None:
    """Typer leaves the program after a command; a good end is not the last word where another command follows."""
    try:
        command_line()(list(words), prog_name="enginebench")
    except SystemExit as done:
        if done.code:
            raise


def _trace(words: Sequence[str]) -> None:
    if "--debug" in words:
        traceback.print_exc()
