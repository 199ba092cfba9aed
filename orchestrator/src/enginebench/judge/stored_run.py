"""A run as it can be believed: its result where the seal holds, else what its journal still says.

What was torn or edited is named in `remarks` and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from enginebench.errors import UsageError
from enginebench.store.journal import SCHEMA_VERSION, Journalled, read_journal
from enginebench.store.manifest import Manifest, broken_seals, read_manifest
from enginebench.store.record import Launch
from enginebench.store.result import read_result, schema_fault
from enginebench.store.run_folder import JOURNAL, RESULT

from .assemble import CaseFacts, assemble

EDITED = "is not the file that the run wrote"


@dataclass(frozen=True)
class StoredRun:
    """`rebuilt`: made again from the journal, because there was no result or an edited one."""

    result: dict[str, Any]
    rebuilt: bool = False
    remarks: list[str] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        return str(self.result["run_id"])


def read_run(place: Path) -> StoredRun:
    """`place`: the folder of a run, or a result.json alone. Raises UsageError where nothing can be believed."""
    if place.is_file():
        return StoredRun(read_result(place))
    manifest = read_manifest(place)
    broken = broken_seals(place, manifest) if manifest else []
    remarks = _journal_remarks(place) if JOURNAL in broken else []
    if (place / RESULT).is_file() and RESULT not in broken:
        sealed = manifest is not None and RESULT in manifest.files
        return StoredRun(read_result(place / RESULT, sealed), remarks=remarks)
    return _rebuilt(place, manifest)


def _journal_remarks(folder: Path) -> list[str]:
    """The lines that were touched. An edit that kept every checksum is still one."""
    if not (folder / JOURNAL).is_file():
        return [f"{folder.name}/{JOURNAL} is gone"]
    try:
        damaged = _damage(folder, read_journal(folder / JOURNAL))
    except UsageError as error:
        damaged = [str(error)]
    return damaged or [f"{folder.name}/{JOURNAL} {EDITED}, though every checksum in it holds"]


def _damage(folder: Path, content: Journalled) -> list[str]:
    return [f"{folder.name}/{JOURNAL} {damage}; left out" for damage in content.damaged]


def _rebuilt(folder: Path, manifest: Manifest | None) -> StoredRun:
    """Raises UsageError if there is no journal, or none that says what its cases are."""
    fault = f"{folder.name}/{RESULT} {EDITED if (folder / RESULT).is_file() else 'is missing'}"
    if not (folder / JOURNAL).is_file():
        raise UsageError(f"{fault}, and there is no journal to make it again: restore it")
    content = read_journal(folder / JOURNAL)
    if "cases" not in content.header:
        raise UsageError(f"{folder.name}/{JOURNAL} was written by an older enginebench: it cannot be made a result")
    left_out = "what its journal does not say" if manifest else "the rest: the run did not end"
    done = {**_done(content.launches), "left_out": [left_out], "interrupted": manifest is None}
    told, cases = _told(folder, content, {**done, "resumed": msgspec.to_builtins(content.resumed)})
    result = assemble(told["run_id"], told["environment"], told["plan"], cases, content.launches)
    return StoredRun(result, rebuilt=True, remarks=[f"{fault}: made again from the journal", *_damage(folder, content)])


def _told(folder: Path, content: Journalled, done: Mapping[str, Any]) -> tuple[dict[str, Any], list[CaseFacts]]:
    """The parts of a result that the header tells, `done` among its plan. Checksums guard against no forgery, so they
    are held against the schema before anything is made of them. Raises UsageError.
    """
    header = content.header
    try:
        told = {"run_id": header["run_id"], "environment": header["environment"], "plan": {**header["plan"], **done}}
        cases = msgspec.convert(header["cases"], list[CaseFacts])
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise UsageError(f"{folder.name}/{JOURNAL} does not say what its run was: {error}") from None
    if fault := schema_fault({"schema_version": SCHEMA_VERSION, **told, "cases": [], "comparisons": []}):
        raise UsageError(f"{folder.name}/{JOURNAL} does not say what its run was: {fault}")
    return told, cases


def _done(launches: Sequence[Launch]) -> Mapping[str, int]:
    """What a run that was cut off got through."""
    timed = [launch for launch in launches if launch.kind == "timed"]
    measured = [len(launch.measured) for launch in timed]
    warmup = [len(launch.warmup) for launch in timed]
    blocks = {launch.block for launch in timed}
    return {"launches": len(blocks), "iterations": max(measured, default=0), "warmup": max(warmup, default=0)}
