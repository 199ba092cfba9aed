"""The cases of a result as rows of one sheet, for the formats that other programs read."""

from __future__ import annotations

from typing import Any

from enginebench.judge.rows import rows
from enginebench.judge.stored_run import StoredRun

from .formats import Sheet

IDENTITY = ("engine", "configuration", "model", "workload", "role", "status", "reason")
OF_RUN = ("run_id", "date", "commit", "machine", "device", "preset")
OF_CASE = (
    "n_prompt",
    "n_gen",
    "n_depth",
    "batch_size",
    "threads",
    "shards",
    "weights",
    "weight_dtype",
    "kv_dtype",
    "engine_versions",
)


def case_sheet(result: dict[str, Any]) -> Sheet:
    """One row per case: its run, what it is, every metric unrounded. `invalid`: those not to be used."""
    tables = rows(StoredRun(result)).tables
    run = tables["runs"][0]
    names = sorted({name for case in result["cases"] for name in case["metrics"]})
    sheet = []
    for case, facts in zip(result["cases"], tables["cases"], strict=True):
        metrics = {name: case["metrics"].get(name, {}).get("value") for name in names}
        invalid = " ".join(name for name in names if not case["metrics"].get(name, {"valid": True})["valid"])
        told = {name: run[name] for name in OF_RUN} | {name: facts[name] for name in (*IDENTITY, *OF_CASE)}
        sheet.append(told | metrics | {"invalid": invalid})
    return Sheet.of("cases", sheet)
