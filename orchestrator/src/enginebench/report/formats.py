"""Rows in the forms that other programs read: Markdown, JSON, JSON lines, CSV, SQL; and plain text for people.

Values are as they were measured; only the text table rounds. `benchstat` has its own module: it prints launches.
"""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich import box
from rich.table import Table
from rich.text import Text

from enginebench.errors import UsageError
from enginebench.plain_text import for_terminal, harmless_json, printable

NONE = "-"
Cell = object
"""None, bool, int, float, str; lists and dicts of them where a query gives such."""


class Output(StrEnum):
    table = "table"
    md = "md"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    sql = "sql"
    benchstat = "benchstat"


@dataclass(frozen=True)
class Sheet:
    """Rows under named columns. `name` is the table that SQL makes."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Cell]]) -> Sheet:
        """Columns in the order of their first appearance."""
        columns = tuple(dict.fromkeys(column for row in rows for column in row))
        return cls(name, columns, [tuple(row.get(column) for column in columns) for row in rows])


def rendered(sheet: Sheet, output: Output) -> str:
    """Raises UsageError for benchstat: these rows are no launches."""
    writers = {
        Output.md: markdown,
        Output.json: to_json,
        Output.jsonl: to_jsonl,
        Output.csv: to_csv,
        Output.sql: to_sql,
    }
    if output not in writers:
        raise UsageError(f"-o {output}: these rows are no launches; benchstat is for `run`, `show` and `compare`")
    return writers[output](sheet)


def text_table(sheet: Sheet) -> Table:
    """For a terminal: numbers to three digits at least, nothing cut."""
    table = plain_table()
    for column, numeric in zip(sheet.columns, numeric_columns(sheet), strict=True):
        table.add_column(Text(printable(column)), justify="right" if numeric else "left", overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(printable(shown(cell))) for cell in row))
    return table


def numeric_columns(sheet: Sheet) -> list[bool]:
    """Those that hold nothing but numbers: they stand to the right."""
    return [all(_is_number(row[index]) for row in sheet.rows) for index in range(len(sheet.columns))]


def plain_table() -> Table:
    """Without columns yet: the one style of all tables on a terminal."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)


def shown(cell: Cell) -> str:
    if cell is None:
        return NONE
    if isinstance(cell, float):
        return rounded(cell)
    return str(_flat(cell))


def rounded(value: float) -> str:
    decimals = next((d for d, least in ((0, 100.0), (1, 10.0), (2, 1.0)) if abs(value) >= least), 3)
    return f"{value:.{decimals}f}"


def markdown(sheet: Sheet) -> str:
    lines = [
        markdown_row(sheet.columns),
        markdown_row(["---:" if right else "---" for right in numeric_columns(sheet)]),
    ]
    return "\n".join([*lines, *(markdown_row([shown(cell) for cell in row]) for row in sheet.rows)])


def markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(markdown_escaped(cell) for cell in cells)} |"


def markdown_escaped(text: str) -> str:
    """No cell, tag, link, picture or code begins in it."""
    return re.sub(r"[\\|]|\](?=[(\[:])", r"\\\g<0>", printable(text)).replace("<", "&lt;")


def to_json(sheet: Sheet) -> str:
    return harmless_json(json.dumps(_objects(sheet), indent=1, ensure_ascii=False, allow_nan=False))


def to_jsonl(sheet: Sheet) -> str:
    return "\n".join(harmless_json(json.dumps(row, ensure_ascii=False, allow_nan=False)) for row in _objects(sheet))


def _objects(sheet: Sheet) -> list[dict[str, object]]:
    return [dict(zip(sheet.columns, map(_plain, row), strict=True)) for row in sheet.rows]


def to_csv(sheet: Sheet) -> str:
    """Empty where there is no value. A text that a spreadsheet would compute has an apostrophe in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_no_formula, sheet.columns))
    writer.writerows([_no_formula(_flat(cell)) for cell in row] for row in sheet.rows)
    return text.getvalue().rstrip("\n")


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What may begin a formula (OWASP, "CSV Injection")."""


def _no_formula(cell: Cell) -> Cell:
    if not isinstance(cell, str):
        return cell
    text = for_terminal(cell)
    return f"'{text}" if text.startswith(FORMULA) else text


def to_sql(sheet: Sheet) -> str:
    """A table and its rows, in the words that SQLite, DuckDB and PostgreSQL share."""
    columns = zip(
        sheet.columns, zip(*sheet.rows, strict=True) if sheet.rows else [()] * len(sheet.columns), strict=True
    )
    declared = ", ".join(f"{_quoted(name)} {_sql_type(cells)}" for name, cells in columns)
    into = f"INSERT INTO {_quoted(sheet.name)} ({', '.join(map(_quoted, sheet.columns))}) VALUES"
    rows = [f"{into} ({', '.join(map(_literal, row))});" for row in sheet.rows]
    return "\n".join([f"CREATE TABLE IF NOT EXISTS {_quoted(sheet.name)} ({declared});", *rows])


def _sql_type(cells: Iterable[Cell]) -> str:
    """DOUBLE PRECISION has the affinity REAL in SQLite."""
    kinds = {type(_plain(cell)) for cell in cells} - {type(None)}
    if kinds and kinds <= {int}:
        return "BIGINT"
    return "DOUBLE PRECISION" if kinds and kinds <= {int, float} else "TEXT"


def _literal(cell: Cell) -> str:
    plain = _flat(cell)
    if plain is None:
        return "NULL"
    if isinstance(plain, int | float) and not isinstance(plain, bool):
        return repr(plain)
    return "'" + for_terminal(str(plain)).replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + for_terminal(name).replace('"', '""') + '"'


def _is_number(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, int | float | decimal.Decimal) and not isinstance(cell, bool))


def _flat(cell: Cell) -> Cell:
    """One value: lists and dicts as JSON, truth as true and false."""
    plain = _plain(cell)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, dict | list | bool) else plain


def _plain(cell: Cell) -> Cell:
    """In JSON's types. What is not a number becomes null: JSON and SQL have no word for it."""
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if cell is None or isinstance(cell, str | int):
        return cell
    kind = next((kind for kind in _CONVERTED if isinstance(cell, kind)), None)
    return _CONVERTED[kind](cell) if kind else str(cell)


_CONVERTED: dict[type, Callable[..., Cell]] = {
    decimal.Decimal: lambda number: _plain(float(number)),
    dt.datetime: lambda date: date.isoformat(timespec="seconds"),
    dict: lambda cells: {str(name): _plain(cell) for name, cell in cells.items()},
    list: lambda cells: [_plain(cell) for cell in cells],
    tuple: lambda cells: [_plain(cell) for cell in cells],
}
