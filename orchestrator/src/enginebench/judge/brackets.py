"""Rows that did the same work under other conditions: bracketed, with what differs, and not refused.

Threads and device are held against the plan, data types against most rows of the same precision class; the class
itself against most rows, where the comparison is not a fair one. Without a majority every row says so. Works on the
plain cases of a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from enginebench.counted import counted

from .plain_case import elements_read

RAN = ("ok", "invalid")
WORDS = {"kv_dtype": "KV cache", "activation_dtype": "activations"}
DTYPE_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
BYTES_TOLERANCE = 0.1
"""Norms may stay in float32, a copy of a table may be counted: far from the factor of two between the types."""

Case = Mapping[str, Any]


def bracketed(result: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the result whose cases have `brackets`: sentences, empty where nothing differs."""
    return {**result, "cases": [{**case, "brackets": list(_brackets(case, result))} for case in result["cases"]]}


def _brackets(case: Case, result: Mapping[str, Any]) -> Iterator[str]:
    loaded = case["loaded"]
    if case["status"] not in RAN or case["role"] == "instrument" or not loaded:
        return
    peers = [c for c in result["cases"] if _peers(c, case)]
    yield from _against_plan(case, result["plan"])
    if not result["plan"].get("fair_comparison"):  # which sets the classes apart
        yield from _against_most(loaded["precision"], [c["loaded"]["precision"] for c in peers], "precision class")
    same_class = [c for c in peers if c["loaded"]["precision"] == loaded["precision"]]
    for facet, word in WORDS.items():
        yield from _against_most(loaded[facet], [c["loaded"][facet] for c in same_class], word)
    yield from _dtype_by_bytes(case, result["plan"])


def _peers(other: Case, case: Case) -> bool:
    same_work = (other["model"], other["workload"], other["role"]) == (case["model"], case["workload"], case["role"])
    return same_work and other["status"] in RAN and bool(other["loaded"])


def _against_plan(case: Case, plan: Mapping[str, Any]) -> Iterator[str]:
    loaded, threads = case["loaded"], case.get("threads") or plan["threads"]
    if loaded["threads"] != threads:
        yield f"{counted(loaded['threads'], 'thread')}, {threads} were asked for"
    if plan["device"] == "cpu" and not _is_cpu(loaded["device"]):
        yield f"device {loaded['device']}, cpu was asked for"
    if plan["device"] != "cpu" and _is_cpu(loaded["device"]):
        yield f"device {loaded['device']}, {plan['device']} was asked for"


def _is_cpu(device: str) -> bool:
    return device.lower().startswith("cpu")


def _against_most(own: str, all_of_them: Sequence[str], word: str) -> Iterator[str]:
    counts = Counter(all_of_them).most_common()
    if len(counts) < 2:
        return
    if counts[0][1] == counts[1][1]:
        yield f"{word} {own}; the rows are {' and '.join(f'{n} x {value}' for value, n in sorted(counts))}"
    elif own != counts[0][0]:
        yield f"{word} {own}, most rows have {counts[0][0]}"


def _dtype_by_bytes(case: Case, plan: Mapping[str, Any]) -> Iterator[str]:
    """The name of the weights' type against the bytes that a token reads: a name alone proves nothing."""
    loaded, elements = case["loaded"], elements_read(case, plan)
    named, told = DTYPE_BYTES.get(loaded["weight_dtype"]), loaded["read_bytes_per_token"]
    if elements is None or named is None or not told:
        return
    found = told / elements
    if abs(found / named - 1) > BYTES_TOLERANCE:
        called = f"weights are called {loaded['weight_dtype']}"
        yield f"{called}, but a token reads {found:.2g} bytes for each, not {named:g}"
