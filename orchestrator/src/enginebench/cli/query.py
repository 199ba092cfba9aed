"""`enginebench query`: SQL over all stored runs."""

from __future__ import annotations

from typing import Annotated

import duckdb
import typer

from enginebench.counted import counted
from enginebench.errors import UsageError, unknown
from enginebench.judge.rows import rows_of
from enginebench.report.formats import Output, Sheet
from enginebench.store.index import open_index
from enginebench.store.tables import TABLES, VIEWS

from .basics import say
from .options import DEFAULT_RESULTS, OutputOption, ResultsOption, print_sheet


def query(
    sql: Annotated[str | None, typer.Argument(help="SELECT …; without it, the tables and their columns")] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    output: OutputOption = Output.table,
) -> None:
    """Ask all stored runs in SQL (DuckDB's). Nothing can be changed."""
    if sql is None:
        print_sheet(_tables(), output)
        return
    with open_index(results, rows_of, say) as connection:
        unread = connection.execute("SELECT count(*) FROM unread").fetchone()
        print_sheet(_answer(connection, sql), output)
    if unread and unread[0]:
        say(f"{counted(unread[0], 'folder')} without a run that can be read: see the view `unread`")


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> Sheet:
    """Raises UsageError with DuckDB's own words, which name the near match."""
    try:
        answer = connection.execute(sql)
        columns = tuple(str(column[0]) for column in answer.description or ())
        return Sheet("query", columns, answer.fetchall())
    except duckdb.CatalogException as error:
        raise unknown_table(error) from None
    except duckdb.Error as error:
        raise UsageError(f"{error}\n(the tables: enginebench query)") from None


def unknown_table(error: duckdb.Error) -> UsageError:
    first = str(error).splitlines()[0]
    name = first.partition("with name ")[2].split(" ")[0]
    known = [*(table.name for table in TABLES), *VIEWS]
    return unknown("table", name, known) if first.startswith("Catalog Error: Table") else UsageError(str(error))


def _tables() -> Sheet:
    rows = [(table.name, c.name, c.kind, c.meaning) for table in TABLES for c in table.columns]
    views = [(name, "*", "view", meaning) for name, (meaning, _) in VIEWS.items()]
    return Sheet("tables", ("table", "column", "type", "meaning"), [*rows, *views])
