"""The file of a result: result.json, whole or not at all, checked against its schema on writing and on reading.

Its fields are described in results/SCHEMA.md and in results/result.schema.json. What is in it is made by
`judge.assemble`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from enginebench.errors import BenchError, UsageError
from enginebench.workspace.discovery import ROOT

from . import files
from .journal import refuse_newer

SCHEMA_FILE = ROOT / "results" / "result.schema.json"


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Raises BenchError if `result` breaks the schema."""
    fault = schema_fault(result)
    if fault is not None:
        raise BenchError(f"the result breaks its own schema at {fault}; the raw data is in the journal beside it")
    write_whole(path, dumped(result))


def write_whole(path: Path, text: str) -> None:
    """A reader sees the old file or the whole new one, also after a loss of power. Raises StorageError.

    One writer at a time: what a crash leaves half written is overwritten by the next.
    """
    half = path.with_name(f".{path.name}")
    try:
        descriptor = files.scratch(half)
        try:
            files.write_all(descriptor, text.encode())
            files.sync(descriptor)
        finally:
            files.close(descriptor)
        files.rename(half, path)
        files.sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            files.remove(half)
        raise files.failed(error, f"write {path.name}", path.parent) from error


def read_result(path: Path, sealed: bool = False) -> dict[str, Any]:
    """Raises UsageError for what is no result, is damaged, or was written by a newer version.

    `sealed`: its checksum was found to hold, so it is what was checked against the schema when it was written.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; give the result.json of a run") from None
    if not isinstance(result, dict):
        raise UsageError(f"{path} holds no result of a run: give a result.json")
    refuse_newer(result.get("schema_version"), path.name)
    fault = None if sealed else schema_fault(result)
    if fault is not None:
        raise UsageError(f"{path} is damaged at {fault}")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def schema_fault(result: Mapping[str, Any]) -> str | None:
    """The place and nature of the most telling violation of the schema; None if there is none."""
    error = jsonschema.exceptions.best_match(_validator().iter_errors(result))
    if error is None:
        return None
    return f"{error.json_path}: {error.message[:300]}"


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


_NUMBER_LIST = re.compile(r"\[\n\s+(-?\d[\d.eE+-]*(?:,\n\s+-?\d[\d.eE+-]*)*)\n\s+\]")
"""A list of plain numbers as json.dumps indents it. A string cannot match: its line breaks are escaped."""


def dumped(result: Mapping[str, Any]) -> str:
    """Indented JSON with each list of numbers on one line. Raises ValueError on NaN."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    return _NUMBER_LIST.sub(lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text) + "\n"
