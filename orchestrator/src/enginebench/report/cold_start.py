"""`enginebench show RUN --cold-start`: what a cold start is made of, how long N tokens take, and who overtakes whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from enginebench.counted import counted
from enginebench.judge.plain_case import by_work, label

from .formats import NONE, markdown_escaped, markdown_row, rounded

PARTS = {
    "spawn": "spawn",
    "import": "import",
    "read": "read",
    "convert": "convert",
    "compile": "compile",
    "rest_of_load": "rest",
    "handover": "wait",
    "first_token": "1st token",
}
LEGEND = (
    "seconds, mean over launches. spawn: until the process runs its own first line; import: from there to hello, and",
    "in the load; read to compile: as the engine tells them apart (- where it does not); rest: of the load, not told",
    "apart; wait: between the steps; 1st token: TTFT of the first request; steady: TTFT once settled; settling:",
    "what the warm-up requests took longer than steady ones, besides the first token. Compiled kernels were cached in",
    "both states.",
)


def cold_start_text(result: dict[str, Any]) -> str:
    """Markdown: one block for each model, workload and start state."""
    lines: list[str] = []
    for _, _, cases in by_work(result):
        for state in ("disk-cold", "cache-warm"):
            lines += _block(result, [c for c in cases if state in c.get("anatomy", {})], state)
    return "\n".join(lines or ["this run holds no cold starts: it was made by an older enginebench"])


def _block(result: dict[str, Any], cases: Sequence[dict[str, Any]], state: str) -> list[str]:
    if not cases:
        return []
    first = cases[0]
    title = f"### {markdown_escaped(first['model'])}, {markdown_escaped(first['workload'])}: {state}"
    ordered = sorted(cases, key=lambda case: case["anatomy"][state]["total_ns"] or float("inf"))
    return [
        *(title, ""),
        *_table(["case", *PARTS.values(), "total", "steady", "settling"], (_anatomy(c, state) for c in ordered)),
        *("", *_remarks(ordered, state), *(LEGEND if state == "cache-warm" else ()), ""),
        *_courses(ordered, state),
        *_break_even(result, first, state),
    ]


def _anatomy(case: dict[str, Any], state: str) -> list[str]:
    found = case["anatomy"][state]
    values = [*(found["parts_ns"][name] for name in PARTS), found["total_ns"], found["steady_ttft_ns"]]
    return [label(case), *(_seconds(ns) for ns in [*values, found["settling_ns"]])]


def _seconds(ns: float | None) -> str:
    return NONE if ns is None else rounded(ns / 1e9)


def _remarks(cases: Iterable[dict[str, Any]], state: str) -> Iterator[str]:
    """Launches that were left out, and the reason."""
    for case in cases:
        for reason in case["anatomy"][state]["reasons"]:
            yield markdown_escaped(f"- {label(case)}: {reason}")


def _courses(cases: Sequence[dict[str, Any]], state: str) -> list[str]:
    rows = {label(c): c["time_to_tokens_ns"][state] for c in cases if state in c.get("time_to_tokens_ns", {})}
    if not rows:
        return []
    counts = list(next(iter(rows.values())))
    body = ([name, *(_seconds(course[n]) for n in counts)] for name, course in rows.items())
    head = "Seconds from the spawn to token number …, one request after the other:"
    return [head, "", *_table(["case", *counts], body), ""]


def _break_even(result: dict[str, Any], first: dict[str, Any], state: str) -> list[str]:
    work = (first["model"], first["workload"], state)
    found = [b for b in result.get("break_even", []) if (b["model"], b["workload"], b["state"]) == work]
    return [*(markdown_escaped(f"- {sentence(crossing)}") for crossing in found), *([""] if found else [])]


def sentence(crossing: dict[str, Any]) -> str:
    """ "X overtakes Y after 340 tokens (95 %: 300 to 390)" """
    text = f"{crossing['ahead']} overtakes {crossing['behind']} after {counted(crossing['tokens'] - 1, 'token')}"
    if crossing["interval"] is None or crossing["agreement"] is None:
        return f"{text} (too few launches to say how certain that is)"
    low, high = (bound - 1 for bound in crossing["interval"])
    doubt = "" if crossing["agreement"] >= 0.95 else f", but in {crossing['agreement']:.0%} of the resamples only"
    return f"{text} (95 %: {low} to {high}{doubt})"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield markdown_row(heads)
    yield markdown_row(["---", *["---:"] * (len(heads) - 1)])
    yield from map(markdown_row, rows)
