"""What the self-test measured, as a page: a statement, its value, its target, and whether it was reached.

A part that is measured again replaces its old rows; the others stay, each with its own date, commit and machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from enginebench.machine import facts as machine
from enginebench.store.record import Record

RAW, PAGE = "selftest.json", "selftest.md"
TITLE = "The suite's own errors, measured"
INTRODUCTION = """\
Written by `enginebench selftest`; the same values are in selftest.json. How often a verdict is false, which slow-down
is found, what an interval covers, whether each gate fires, what measuring costs. docs/methodology.md has the rules."""


class Row(Record, frozen=True):
    """One measured statement; `target` is what was asked for, in words."""

    what: str
    value: str
    target: str
    passed: bool


class Part(Record, frozen=True):
    """Rows that were measured together, and on what."""

    rows: list[Row]
    date: str
    commit: str | None
    cpu: str
    how: str


def part(rows: list[Row], how: str) -> Part:
    found = machine.read_environment()
    commit = found.repository.commit if found.repository else None
    return Part(rows=rows, date=found.date, commit=commit, cpu=found.cpu.model, how=how)


def write_page(folder: Path, parts: Mapping[str, Part]) -> dict[str, Part]:
    """selftest.json and selftest.md in `folder`, with the parts that were there before and not measured now."""
    raw = folder / RAW
    merged = {**(read_parts(raw) if raw.exists() else {}), **parts}
    raw.write_text(json.dumps(msgspec.to_builtins(merged), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(markdown(merged), encoding="utf-8")
    return merged


def read_parts(raw: Path) -> dict[str, Part]:
    """Raises OSError, msgspec.DecodeError."""
    return msgspec.json.decode(raw.read_bytes(), type=dict[str, Part])


def markdown(parts: Mapping[str, Part]) -> str:
    lines = [f"# {TITLE}", "", INTRODUCTION, "", "| what | measured | target | reached |", "|---|---|---|---|"]
    lines += [_cells(row.what, row.value, row.target, _reached(row)) for p in parts.values() for row in p.rows]
    lines += ["", "| part | when and at which commit | with |", "|---|---|---|"]
    for name, p in parts.items():
        lines.append(_cells(name, f"{p.date[:16]}, {(p.commit or 'no commit')[:9]}", f"{p.cpu}, {p.how}"))
    return "\n".join(lines) + "\n"


def _reached(row: Row) -> str:
    return "yes" if row.passed else "**no**"


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
