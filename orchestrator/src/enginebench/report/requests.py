"""Every request of a run, one row each: what --timing shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginebench.judge.plain_case import case_id, label
from enginebench.judge.rows import rows
from enginebench.judge.stored_run import StoredRun
from enginebench.store.tables import REQUEST_TIMES

from .formats import Sheet

KINDS = ("timed", "cold")
"""Launches whose requests are measurements; the others check, or count energy."""
HEADINGS = {"block": "launch", "iteration": "request", "n_prompt": "prompt", "n_tokens": "tokens"}
MS = 1e6


def request_sheet(result: Mapping[str, Any]) -> Sheet:
    """Unrounded, with the names of `enginebench query`."""
    return Sheet.of("requests", _requests(result))


def request_table(result: Mapping[str, Any]) -> Sheet:
    """For people: case, launch from 1, times in ms."""
    alone = len(result["plan"]["models"]) == len(result["plan"]["workloads"]) == 1
    labels = {case_id(case): label(case) if alone else case_id(case) for case in result["cases"]}
    return Sheet.of("requests", [_row(request, labels) for request in _requests(result)])


def _requests(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for row in rows(StoredRun(dict(result))).tables["requests"] if row["kind"] in KINDS]


def _row(request: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    times = {f"{name.removesuffix('_ns')} ms": _ms(request[name]) for name in REQUEST_TIMES}
    return {
        "case": labels[request["case_id"]],
        **{heading: request[name] for name, heading in HEADINGS.items()},
        "launch": request["block"] + 1,
        "phase": request["phase"] if request["kind"] == "timed" else f"{request['phase']}, {request['kind']}",
        **times,
        "doubts": request["doubts"] or "",
    }


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / MS
