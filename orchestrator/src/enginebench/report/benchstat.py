"""A result as Go benchmark results, one line per timed launch: what `benchstat`, and all that reads its format, takes.

Format: golang.org/design/14313-benchmark-format and golang.org/design/43744-unit-metadata (`Unit` lines). Case facts
stand in the name as /key=value, run facts in lines before. A case whose speed must not be shown is a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from enginebench.judge.evidence import median_of
from enginebench.judge.metrics import RATES, TIMES, prefill_token_ns
from enginebench.judge.rows import machine_of
from enginebench.plain_text import printable
from enginebench.store.record import Launch

UNITS = {
    "ns/tok": ("lower", median_of(TIMES["tpot_ns"])),
    "tok/s": ("higher", lambda launch: _inverted(median_of(RATES["decode_tps"])(launch))),
    "prefill-tok/s": ("higher", lambda launch: _inverted(prefill_token_ns(launch))),
    "ttft-ns": ("lower", median_of(TIMES["ttft_ns"])),
    "load-ns": ("lower", lambda launch: launch.load_ns),
}
"""Unit → which direction is better, and the launch's value. benchstat shows ns as seconds, times 10^-9."""
MEMORY = "peak-B"
_OTHER = re.compile(r"[\s/]")
"""What ends a name or a part of it."""


def benchstat(*results: dict[str, Any]) -> str:
    lines = [f"Unit {unit} better={better}" for unit, (better, _) in UNITS.items()]
    lines.append(f"Unit {MEMORY} better=lower")
    for result in results:
        several = len(results) > 1
        lines += [*_configuration(result, several), *(line for case in result["cases"] for line in _case(case))]
    return "\n".join(lines)


def _configuration(result: dict[str, Any], several: bool) -> Iterator[str]:
    """benchstat makes a table of its own for every difference here, so only what results must share to be compared is
    told as configuration; and the run where there are several, for `-col run`.
    """
    environment, plan = result["environment"], result["plan"]
    facts = {
        **({"run": result["run_id"]} if several else {}),
        "cpu": environment["cpu"]["model"],
        "machine": machine_of(environment),
        "device": plan["device"],
        "threads": plan["threads"],
    }
    commit = (environment["repository"] or {}).get("commit")
    yield ""
    yield printable(f"# run {result['run_id']}, {environment['date']}, preset {plan['preset']}, commit {commit}")
    yield from (f"{key}: {printable(str(value))}" for key, value in facts.items() if value is not None)


def _case(case: dict[str, Any]) -> Iterator[str]:
    name = _name(case)
    speed = case["metrics"].get("tpot_ns")
    if case["status"] != "ok" or speed is None or not speed["valid"]:
        why = case["reason"] or "; ".join(speed["reasons"] if speed else ["no speed"])
        yield f"# {name}: {case['status']}: {printable(why)}"
        return
    launches = msgspec.convert(case["launches"], list[Launch])
    for launch in launches:
        if launch.counts:
            values = {unit: value_of(launch) for unit, (_, value_of) in UNITS.items()}
            yield from _line(name, len(launch.measured), values)
    yield from _line(name, 1, {MEMORY: case["metrics"]["peak_memory_bytes"]["value"]})


def _line(name: str, iterations: int, values: dict[str, float | None]) -> Iterator[str]:
    told = [f"{value!r} {unit}" for unit, value in values.items() if value is not None]
    if told and iterations:
        yield " ".join([name, str(iterations), *told])


def _name(case: dict[str, Any]) -> str:
    """The workload comes last: benchstat takes a number behind a last dash for the processors of a Go program."""
    keys = ("engine", "configuration", "model", "threads", "workload")
    parts = [f"{key}={_OTHER.sub('_', printable(str(case[key])))}" for key in keys if case.get(key) is not None]
    return "/".join(["BenchmarkEngine", *parts])


def _inverted(ns_per_token: float | None) -> float | None:
    return 1e9 / ns_per_token if ns_per_token else None
