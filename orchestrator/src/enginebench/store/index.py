"""The index of a results folder: its runs as tables in one DuckDB file, so that thousands are asked at once.

A cache: it may be deleted at any time, and is brought up to date before each question, by the sizes and times of the
runs' files. Where it cannot be written, it is made in memory. Questions cannot change or read anything but its tables.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import msgspec

from enginebench.errors import BenchError, UsageError

from .journal import SCHEMA_VERSION
from .run_folder import JOURNAL, RESULT
from .tables import TABLES, VIEWS, RunRows, create_statement, sql_name

NAME = ".index.duckdb"
LAYOUT = f"3:{SCHEMA_VERSION}:{duckdb.__version__}"
"""Rises with any change of the tables: an index of another layout is made anew."""
BATCH = 200
"""Runs of one transaction."""
LOCK_SECONDS = 30.0

Reader = Callable[[Path], RunRows]
Told = Callable[[str], None]


@dataclass(frozen=True)
class Seen:
    """The state of a run's folder, by which a change is noticed."""

    folder: str
    modified_ns: int
    size: int


def open_index(results: Path, read: Reader, tell: Told = lambda _: None) -> duckdb.DuckDBPyConnection:
    """A connection that can only ask, to an index that is up to date. Raises UsageError for a newer schema."""
    if not results.is_dir():
        raise UsageError(f"no results in {results}: run a benchmark first, or give --results DIR")
    path = results / NAME
    try:
        _update(path, results, read, tell)
        return _locked_down(_connect(path, read_only=True))
    except (duckdb.IOException, OSError) as error:
        if _is_lock(error):
            raise BenchError(f"another enginebench has held {path.name} for {LOCK_SECONDS:.0f} s: {error}") from None
        connection = duckdb.connect(":memory:")
        _create(connection)
        _refresh(connection, results, read, tell)
        return _locked_down(connection)


def keep_up(results: Path, read: Reader) -> None:
    """After a run: take it in. The index is a convenience, so nothing that goes wrong with it is an error here."""
    with contextlib.suppress(duckdb.Error, OSError, BenchError):
        _update(results / NAME, results, read, lambda _: None)


def _update(path: Path, results: Path, read: Reader, tell: Told) -> None:
    if path.is_file() and not _is_current(path):
        path.unlink()
        path.with_name(NAME + ".wal").unlink(missing_ok=True)
    if path.is_file():
        with _connect(path, read_only=True) as connection:
            if not any(_changes(connection, results)):
                return
    with _connect(path, read_only=False) as connection:
        _create(connection)
        _refresh(connection, results, read, tell)


def _is_current(path: Path) -> bool:
    """False for an index of another layout, and for what is none."""
    try:
        with _connect(path, read_only=True) as connection:
            return connection.execute("SELECT layout FROM layout").fetchone() == (LAYOUT,)
    except duckdb.IOException as error:
        if _is_lock(error):
            raise
        return False
    except duckdb.Error:
        return False


def _connect(path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Waits for another process that writes. Raises duckdb.IOException after that."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return duckdb.connect(str(path), read_only=read_only)
        except duckdb.IOException as error:
            if not _is_lock(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _is_lock(error: BaseException) -> bool:
    """By DuckDB's words: the message names a file too, and "lock" may be a part of its name."""
    return "could not set lock" in str(error).lower()


def _locked_down(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """No file, no extension, no network; and no way to allow them again."""
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    if connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'layout'").fetchone():
        return
    with _transaction(connection):
        connection.execute("CREATE TABLE layout AS SELECT ? AS layout", [LAYOUT])
        connection.execute(
            "CREATE TABLE files (folder VARCHAR, modified_ns BIGINT, size BIGINT, run_id VARCHAR, reason VARCHAR)"
        )
        for table in TABLES:
            connection.execute(create_statement(table))
        for name, (_, select) in VIEWS.items():
            connection.execute(f"CREATE VIEW {sql_name(name)} AS {select}")


class _transaction:  # noqa: N801 (used like a function)
    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.begin()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._connection.commit()
        else:
            self._connection.rollback()


# ---- keeping up -----------------------------------------------------------------------------------------------


def _changes(connection: duckdb.DuckDBPyConnection, results: Path) -> tuple[list[Seen], list[str]]:
    """Folders that are new or changed, and names of those that are gone."""
    known = {
        folder: Seen(folder, modified, size)
        for folder, modified, size in connection.execute("SELECT folder, modified_ns, size FROM files").fetchall()
    }
    seen = {state.folder: state for state in _seen(results)}
    changed = [state for folder, state in sorted(seen.items()) if known.get(folder) != state]
    return changed, sorted(known.keys() - seen.keys())


def _seen(results: Path) -> Iterator[Seen]:
    for folder in results.iterdir():
        for name in (RESULT, JOURNAL):
            try:
                status = (folder / name).stat()
            except OSError:
                continue
            yield Seen(folder.name, status.st_mtime_ns, status.st_size)
            break


def _refresh(connection: duckdb.DuckDBPyConnection, results: Path, read: Reader, tell: Told) -> None:
    changed, gone = _changes(connection, results)
    _forget(connection, [*gone, *(state.folder for state in changed)])
    if len(changed) > BATCH:
        tell(f"reading {len(changed)} runs into {NAME}; only new ones are read next time")
    for start in range(0, len(changed), BATCH):
        _add(connection, results, changed[start : start + BATCH], read)


def _forget(connection: duckdb.DuckDBPyConnection, folders: Sequence[str]) -> None:
    if not folders:
        return
    with _transaction(connection):
        for table in TABLES:
            connection.execute(
                f"DELETE FROM {sql_name(table.name)} WHERE run_id IN "  # noqa: S608 (a name of ours)
                "(SELECT run_id FROM files WHERE folder IN (SELECT unnest(?)) AND reason IS NULL)",
                [list(folders)],
            )
        connection.execute("DELETE FROM files WHERE folder IN (SELECT unnest(?))", [list(folders)])


UNFIT = (duckdb.DataError, duckdb.ProgrammingError, ValueError, OverflowError)
"""What is raised for a value that no column takes; a full disk is not among it."""


def _add(connection: duckdb.DuckDBPyConnection, results: Path, states: Sequence[Seen], read: Reader) -> None:
    """All at once; where one of them does not fit into the tables, one after the other, and that one is unread."""
    try:
        _add_all(connection, results, states, read)
    except UNFIT as error:
        if len(states) == 1:
            (state,) = states
            unread = (state.folder, state.modified_ns, state.size, None, _reason(error))
            connection.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?)", unread)
            return
        for state in states:
            _add(connection, results, [state], read)


def _add_all(connection: duckdb.DuckDBPyConnection, results: Path, states: Sequence[Seen], read: Reader) -> None:
    known = dict(connection.execute("SELECT run_id, folder FROM files WHERE reason IS NULL").fetchall())
    files, taken = [], []
    for state in states:
        rows, reason = _read(results / state.folder, read, known)
        files.append((state.folder, state.modified_ns, state.size, rows.run_id if rows else None, reason))
        if rows:
            taken.append(rows)
            known[rows.run_id] = state.folder
    with _transaction(connection):
        connection.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", files)
        for table in TABLES:
            _insert(connection, table.name, [row for rows in taken for row in rows.tables[table.name]])


def _read(folder: Path, read: Reader, known: dict[str, str]) -> tuple[RunRows | None, str | None]:
    """The rows of a run, or why it has none. Raises UsageError for a newer schema: that is no damage."""
    try:
        rows = read(folder)
    except UsageError as error:
        if "update enginebench" in str(error):
            raise
        return None, str(error)
    except Exception as error:  # noqa: BLE001 (what one folder holds must not take the other runs away)
        return None, _reason(error)
    if rows.run_id in known:
        return None, f"a copy of the run in {known[rows.run_id]}"
    return rows, None


def _reason(error: Exception) -> str:
    first_line = str(error).partition("\n")[0]
    return f"not as a run writes it: {type(error).__name__}: {first_line}"


def _insert(connection: duckdb.DuckDBPyConnection, name: str, rows: Sequence[dict[str, object]]) -> None:
    """Through a file of JSON lines: DuckDB's fast way in that needs no further library. It has no name to be left."""
    if not rows:
        return
    table = next(table for table in TABLES if table.name == name)
    types = ", ".join(f"{column.name!r}: {column.kind!r}" for column in table.columns)
    columns = ", ".join(sql_name(column.name) for column in table.columns)
    with tempfile.TemporaryFile() as file:
        file.write(b"\n".join(map(msgspec.json.encode, rows)))
        file.flush()
        connection.execute(
            f"INSERT INTO {sql_name(name)} SELECT {columns} FROM "  # noqa: S608 (names of ours)
            f"read_json(?, format = 'newline_delimited', columns = {{{types}}})",
            [f"/proc/self/fd/{file.fileno()}"],
        )
