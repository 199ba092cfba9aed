"""Two runs side by side: what both share is said once, what differs is listed, and then one row per metric and case."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from enginebench.counted import counted
from enginebench.judge.regression import Regression, Row
from enginebench.plain_text import harmless_json, printable

from .formats import NONE, Output, Sheet, markdown, markdown_escaped, rendered, rounded, text_table
from .table import Notes

UNITS = {"tok/s": ("tok/s", 1.0), "ns": ("s", 1e9), "bytes": ("GB", 1e9)}
NAMES = {"decode_tps": "decode", "prefill_tps": "prefill", "load_ns": "load", "peak_memory_bytes": "memory"}
SAID = {
    "ok": "no regression",
    "regression": "REGRESSION",
    "inconclusive": "inconclusive: a regression is neither shown nor excluded",
}


def terminal(found: Regression) -> RenderableType:
    parts: list[RenderableType] = [*map(Text, above(found))]
    if different(found):
        parts.append(text_table(different_sheet(found)))
    parts.append(text_table(without_equal_columns(found)))
    return Group(*parts, *map(Text, below(found)))


def text(found: Regression, output: Output) -> str:
    if output is Output.json:
        return harmless_json(json.dumps(as_object(found), indent=1, ensure_ascii=False, allow_nan=False))
    if output is not Output.md:
        return rendered(raw_sheet(found), output)
    tables = [different_sheet(found)] if different(found) else []
    parts = ["  \n".join(map(markdown_escaped, above(found))), *map(markdown, [*tables, without_equal_columns(found)])]
    return "\n\n".join([*parts, "  \n".join(map(markdown_escaped, below(found)))])


def above(found: Regression) -> list[str]:
    """What both runs share, and what all rows share."""
    same = [f"{name} {base}" for name, (base, new) in found.facts.items() if base == new and base is not None]
    rows = [f"{name} {value}" for name, value in shared_columns(found).items()]
    lines = [f"both: {'; '.join(same)}"] if same else []
    if rows:
        lines.append(f"all rows: {'; '.join(rows)}")
    lines += [f"NOT COMPARABLE, forced: {objection}" for objection in found.objections]
    return [printable(line) for line in lines]


def below(found: Regression) -> list[str]:
    lines = [f"{index:>2}  {note}" for index, note in enumerate(numbered_notes(found).texts, start=1)]
    lines += [f"only in BASE: {', '.join(found.only_base)}"] if found.only_base else []
    lines += [f"no speed in BASE: {', '.join(found.without_base)}"] if found.without_base else []
    lines += [f"only in NEW: {', '.join(found.only_new)}"] if found.only_new else []
    family = max((row.comparison.family for row in found.rows if row.comparison), default=0)
    lines.append(
        "ratio: speed of NEW ÷ BASE (memory: BASE ÷ NEW), above 1 is better; "
        f"verdicts are corrected for {family} comparisons"
    )
    limits = {NAMES[row.metric]: f"{NAMES[row.metric]} {row.limit:.3g}" for row in found.rows}
    lines.append(f"{SAID[found.outcome]} (limits, as shares of BASE: {', '.join(limits.values())})")
    return [printable(line) for line in lines]


def different(found: Regression) -> dict[str, tuple[Any, Any]]:
    return {name: told for name, told in found.facts.items() if told[0] != told[1]}


def different_sheet(found: Regression) -> Sheet:
    rows = [
        (name, *(NONE if value is None else str(value) for value in told)) for name, told in different(found).items()
    ]
    return Sheet("different", ("", "BASE", "NEW"), rows)


# ---- rows -----------------------------------------------------------------------------------------------------

IDENTITY = ("case", "model", "workload", "threads")
SHARDS = re.compile(r"/x\d+$")
"""The end of a case id where devices share the model: shown with the case, whose kind of run it is."""


def without_equal_columns(found: Regression) -> Sheet:
    """For people: rounded, and without what all rows share."""
    notes = numbered_notes(found)
    hidden = {*shared_columns(found), *(() if notes.texts else ("note",))}
    rows = [_shown(row, found, notes) for row in found.rows]
    return Sheet.of("comparison", [{k: v for k, v in row.items() if k not in hidden} for row in rows])


def numbered_notes(found: Regression) -> Notes:
    return Notes(list(dict.fromkeys(note for row in found.rows for note in _notes(row))))


def shared_columns(found: Regression) -> dict[str, str]:
    """Of what says which case a row is; the case itself is always shown."""
    identities = [_identity(row) for row in found.rows]
    return {
        name: identities[0][name]
        for name in IDENTITY[1:]
        if identities and identities[0][name] and len({identity[name] for identity in identities}) == 1
    }


def _identity(row: Row) -> dict[str, str]:
    parts = dict(zip(IDENTITY, SHARDS.sub("", row.case_id).split("/"), strict=False))
    if shards := SHARDS.search(row.case_id):
        parts["case"] += f" {shards[0].removeprefix('/')}"
    return {name: parts.get(name, "") for name in IDENTITY}


def _shown(row: Row, found: Regression, notes: Notes) -> dict[str, Any]:
    unit, scale = UNITS[row.unit]
    values = (NONE if value is None else rounded(value / scale) for value in (row.base, row.new))
    threads = {} if any(_identity(other)["threads"] for other in found.rows) else {"threads"}
    return {
        **{name: value for name, value in _identity(row).items() if name not in threads},
        "metric": f"{NAMES[row.metric]} {unit}",
        **dict(zip(("BASE", "NEW"), values, strict=True)),
        "ratio": NONE if row.ratio is None else f"{row.ratio:.3f}",
        "95 %": NONE if row.interval is None else "{:.3f} to {:.3f}".format(*row.interval),
        "verdict": row.verdict if row.outcome != "regression" else f"{row.verdict}, REGRESSION",
        "note": ",".join(str(notes.number(note)) for note in _notes(row)),
    }


def _notes(row: Row) -> Iterator[str]:
    yield from row.notes
    further = row.comparison.further_launches if row.comparison else None
    if further:
        yield f"about {counted(further, 'more launch')} of each would decide"


def raw_sheet(found: Regression) -> Sheet:
    return Sheet.of("comparison", [_raw(row, found) for row in found.rows])


def _raw(row: Row, found: Regression) -> dict[str, Any]:
    compared, interval = row.comparison, row.interval or (None, None)
    return {
        "base_run": found.base.run_id,
        "new_run": found.new.run_id,
        "case_id": row.case_id,
        "metric": row.metric,
        "unit": row.unit,
        "base": row.base,
        "new": row.new,
        "ratio": row.ratio,
        "low": interval[0],
        "high": interval[1],
        "p_holm": compared.p_holm if compared else None,
        "n_base": compared.n_base if compared else None,
        "n_new": compared.n_new if compared else None,
        "verdict": row.verdict,
        "limit": row.limit,
        "outcome": row.outcome,
        "further_launches": compared.further_launches if compared else None,
        "notes": "; ".join(row.notes) or None,
    }


def as_object(found: Regression) -> dict[str, Any]:
    names = ("BASE", "NEW")
    return {
        "outcome": found.outcome,
        "objections": found.objections,
        "same": {name: base for name, (base, new) in found.facts.items() if base == new},
        "different": {name: dict(zip(names, told, strict=True)) for name, told in different(found).items()},
        "rows": [_raw(row, found) for row in found.rows],
        "only_base": found.only_base,
        "only_new": found.only_new,
        "without_base": found.without_base,
    }
