"""What equal cases were seen to differ by on this machine: the A/A floor, kept from the self-test for later runs.

A floor belongs to one case on one processor or GPU with so many threads; elsewhere it says nothing. It raises the
least difference that counts as one (judge.comparison) and never lowers it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .record import Case, Record

NAME = "aa-floors.json"


class Place(Record, frozen=True):
    """Where a floor holds."""

    case: str
    """Case id, without threads."""
    processor: str
    device: str
    threads: int


class Floor(Record, frozen=True):
    """Metric → the 95th percentile of |ratio − 1| over `pairs` comparisons of the case with itself."""

    place: Place
    shares: dict[str, float]
    pairs: int
    date: str


def place_of(case: Case, environment: Mapping[str, Any], device: str, threads: int) -> Place:
    """`environment` as a result holds it. `threads`: of the run, unless the case has its own."""
    gpus = environment["gpus"] if device == "cuda" else None
    processor = gpus[0]["name"] if gpus else environment["cpu"]["model"]
    id_ = msgspec.structs.replace(case, threads=None).id
    return Place(case=id_, processor=processor, device=device, threads=case.threads or threads)


def floors(folder: Path) -> dict[Place, Floor]:
    """All that are known. A file that cannot be read is no floor at all: the least difference is then 1 %."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        found = msgspec.json.decode((folder / NAME).read_bytes(), type=list[Floor])
        return {floor.place: floor for floor in found}
    return {}


def keep(folder: Path, floor: Floor) -> None:
    """Replaces what was known of the same place."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {**floors(folder), floor.place: floor}
    scratch = folder / f".{NAME}"
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(list(known.values()))) + b"\n")
    scratch.replace(folder / NAME)
