"""The command line: `enginebench run | show | query | compare | doctor | engines | models`, and the workspace.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 all fine, 1 a case failed, 2 wrong usage,
3 inconclusive where a verdict was asked for.
"""

from __future__ import annotations

import sys

import typer

from enginebench.errors import BenchError

from . import listing, upkeep
from .compare import compare
from .doctor import doctor
from .options import EXIT_USAGE
from .query import query
from .run import run
from .selftest import selftest

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command()(run)
app.command()(listing.engines)
app.command()(listing.models)
app.command()(listing.show)
app.command()(query)
app.command()(compare)
app.command()(doctor)
app.command()(selftest)
app.command()(upkeep.conform)
app.command()(upkeep.sync)
app.command(name="pins")(upkeep.write_pins)
app.command(name="new-engine")(upkeep.new_engine)


def main() -> None:
    """The script `enginebench`."""
    try:
        app()
    except BenchError as error:
        print(f"enginebench: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
